"""Requirements are complete, locked with hashes, free of addresses, and equal for conda."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from scripts.setup import environments, lock

REPO = Path(__file__).resolve().parents[2]
LOCKS = sorted(p for p in (REPO / "requirements").glob("*.txt") if "overrides" not in p.name)
SOURCES = sorted((REPO / "requirements").glob("*.in"))
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
NAMED = {
    *("jupyterlab", "papermill", "pandas", "matplotlib"),
    *("prometheus-api-client", "opentelemetry-sdk", "llama-stack-client"),
}

# Imported in vLLM's environment, or only where a user installed it (grpc is optional).
NOT_IN_LAB_ENVIRONMENT = {"vllm", "torch", "transformers", "uvloop", "grpc"}


def _name(requirement: str) -> str:
    return (
        re.match(r"[A-Za-z0-9._-]+", requirement)
        .group()
        .lower()
        .replace("_", "-")
        .replace(".", "-")
    )


def _pin(requirement: str) -> str:
    match = re.search(r"(==|<|>=)\s*([0-9][^ ;]*)", requirement)
    return match.group() if match else ""


def _project(*extras: str) -> dict[str, str]:
    lines = [
        *PROJECT["dependencies"],
        *(x for e in extras for x in PROJECT["optional-dependencies"][e]),
    ]
    return {_name(line): _pin(line) for line in lines}


def test_all_statements_about_python_versions_agree() -> None:
    """Set-up, the package, the lock files and environment.yml name the same Python versions."""
    supported = SpecifierSet(PROJECT["requires-python"])
    candidates = [f"3.{minor}" for minor in range(8, 20)]
    assert [v for v in candidates if v in supported] == sorted(environments.LAB_PYTHONS)
    assert lock.FILES["lab.txt"][0] == min(environments.LAB_PYTHONS)
    assert f"python={min(environments.LAB_PYTHONS)}" in (REPO / "environment.yml").read_text()
    makefile = (REPO / "Makefile").read_text()
    assert " or ".join(environments.LAB_PYTHONS) in makefile


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.name)
def test_every_package_is_pinned_and_hashed(lock: Path) -> None:
    """Each entry is `name==version` with at least one hash, and no lock has an address."""
    text = lock.read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"(?m)^\s*#.*\n?", "", text))
    for entry in filter(str.strip, entries):
        assert re.match(r"[A-Za-z0-9._-]+==\S+", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    assert "://" not in text and "--index" not in text and "--find-links" not in text


def test_torch_is_in_no_cpu_lock() -> None:
    """Torch's hashes differ between sources, and CUDA extras must not come as a dependency."""
    names = re.findall(r"(?m)^([a-z0-9-]+)==", (REPO / "requirements/vllm-cpu.txt").read_text())
    assert not {n for n in names if n.startswith(("torch", "nvidia", "triton"))}


def test_locks_contain_all_dependencies() -> None:
    """A dependency in pyproject.toml that is not locked would be missing after `make setup`."""
    locked = dict(
        re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", (REPO / "requirements/lab.txt").read_text())
    )
    for name, pin in _project("stack", "dev").items():
        assert name in locked, f"{name} is not in lab.txt: run `make lock`"
        if pin.startswith("=="):
            assert locked[name] == pin[2:], f"{name} is locked at {locked[name]}: run `make lock`"


def test_environment_yml_has_the_same_dependencies() -> None:
    """environment.yml names the dependencies of the project and of Llama Stack, with equal pins."""
    listed = yaml.safe_load((REPO / "environment.yml").read_text())["dependencies"]
    lines = [x for x in listed if isinstance(x, str)] + next(
        x["pip"] for x in listed if isinstance(x, dict)
    )
    conda = {_name(line): _pin(line) for line in lines if _name(line) not in ("python", "pip")}
    assert conda == _project("stack")
    assert set(conda) >= NAMED
    text = (REPO / "environment.yml").read_text()
    assert "vllm==0.32.0" in text, "environment.yml explains how to install vLLM"


def _entries(path: Path) -> list[str]:
    """Return the lines that name a package, including comments."""
    text = path.read_text()
    if path.name == "pyproject.toml":
        text = text.partition("\ndependencies = [")[2].partition("[project.scripts]")[0]
        return re.findall(r'(?m)^ +"[a-z].*', text)
    if path.name == "environment.yml":
        return [
            x
            for x in re.findall(r"(?m)^ +- .*", text.partition("\ndependencies:")[2])
            if "- pip" not in x
        ]
    return re.findall(r"(?m)^[a-z].*", text)


@pytest.mark.parametrize(
    "path", [REPO / "pyproject.toml", REPO / "environment.yml", *SOURCES], ids=lambda p: p.name
)
def test_every_dependency_has_a_reason(path: Path) -> None:
    """Each line has a comment that says what needs the dependency."""
    entries = _entries(path)
    assert entries and not [line for line in entries if "#" not in line]


def test_every_import_of_lab_is_a_named_dependency() -> None:
    """A package that is installed only as a dependency of another may disappear."""
    owners = importlib.metadata.packages_distributions()
    named = set(_project("stack"))
    local_packages = {"lab", "benchmarks", "scripts", "tests"}
    for path in (REPO / "lab").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else names
            for name in names:
                top = name.split(".")[0]
                if top in sys.stdlib_module_names or top in local_packages | NOT_IN_LAB_ENVIRONMENT:
                    continue
                packages = {_name(d) for d in owners.get(top, [])}
                assert packages & named, (
                    f"{path.relative_to(REPO)} imports {name}, of {packages or 'nothing installed'}"
                )
