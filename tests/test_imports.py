"""Packages import only lower ones, and importing the lab has no side effects."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

LAB = Path(__file__).resolve().parent.parent / "lab"

# Values and small helpers, which every package may use. They may use each other.
FLOOR = {
    "schema",
    "dialects",
    "errors",
    "settings",
    "files",
    "durations",
    "environment",
    "json_logging",
    "command_line",
    "world",
    "prices",
    "notebook",
    "headlines",
    "engines",
}

# {package: what it may import besides itself and the floor}. A stage imports no other stage.
STAGES = dict.fromkeys(
    ("workload", "stack", "tools", "stores", "frames", "measures", "figures", "dashboards"),
    frozenset[str](),
)

# From here on a package may combine several stages, as notebooks do.
ABOVE = {
    "runs": {"workload"},
    "places": {"runs", "stack", "stores", "workload"},
    "observation": {"places", "runs", "frames", "stores", "workload"},
    "latency": {"observation", "places", "runs", "frames", "measures", "workload"},
    "capacity": {"latency", "observation", "places", "frames", "measures", "stores", "workload"},
    "cost": {"observation", "frames", "measures"},
    "quality": {"observation", "places", "measures", "stack"},
    "utilisation": {"observation", "places", "frames", "measures", "stack", "workload"},
    "comparison": {"observation", "frames", "runs", "stores", "workload"},
    "fleet": {"observation", "frames", "measures", "stores"},
    "doctor": {"fleet", "frames", "measures", "observation", "stores"},
    "liveview": {"dashboards", "places", "stack", "stores", "tools"},
    "investigation": {
        "figures",
        "frames",
        "incidents",
        "measures",
        "observation",
        "runs",
        "stores",
        "workload",
    },
    "exercises": {"investigation", "latency", "measures"},
    "incidents": {"stack", "stores", "workload"},
    "runner": {"stack"},
    "recording": {"runs", "runner", "stores", "utilisation", "workload"},
    "cli": {
        "dashboards",
        "comparison",
        "exercises",
        "doctor",
        "measures",
        "fleet",
        "incidents",
        "liveview",
        "investigation",
        "observation",
        "recording",
        "runs",
        "runner",
        "stack",
        "stores",
        "tracestore",
        "workload",
    },
}

ALLOWED = dict.fromkeys(FLOOR, frozenset[str]()) | STAGES | ABOVE

FILES = sorted(p for p in LAB.rglob("*.py") if "k8s" not in p.relative_to(LAB).parts)


def _package(path: Path) -> str:
    return path.relative_to(LAB).parts[0].removesuffix(".py")


def _imported_packages(path: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.ImportFrom):
            names = (
                [node.module or ""]
                if node.module != "lab"
                else [f"lab.{a.name}" for a in node.names]
            )
            assert node.level == 0, f"{path.name} uses a relative import: write the full name"
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        packages |= {n.split(".")[1] for n in names if n.startswith("lab.")}
    return packages


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LAB)))
def test_imports_go_down_only(path: Path) -> None:
    """A stage imports the floor and itself, never another stage."""
    package = _package(path)
    if package in ("__init__", "tracestore"):
        return
    assert package in ALLOWED, (
        f"lab/{package} is not in the design: add it here with what it may import"
    )
    allowed = ALLOWED[package] | FLOOR | {package}
    assert _imported_packages(path) <= allowed, (
        f"lab/{package} imports {_imported_packages(path) - allowed}"
    )


def test_every_rule_is_about_an_existing_package() -> None:
    """A rule for a renamed package would protect nothing."""
    packages = {_package(path) for path in FILES} - {"__init__", "tracestore"}
    assert packages == set(ALLOWED)


def test_packages_have_no_import_cycle() -> None:
    """Above the stages, too, there is an order in which the packages can be read."""
    graph = {package: ALLOWED[package] - {package} for package in ABOVE}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    "path", sorted(LAB.glob("tracestore/**/*.py")), ids=lambda p: str(p.relative_to(LAB))
)
def test_the_trace_store_depends_on_nothing_in_the_lab(path: Path) -> None:
    """The trace store is a separate product, which can move to its own repository."""
    assert _imported_packages(path) <= {"tracestore"}


def test_importing_lab_does_nothing() -> None:
    """`import lab` loads no third-party package and prints nothing."""
    code = (
        "import sys, lab; "
        "heavy = {'pandas', 'pydantic', 'opentelemetry', 'duckdb'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=LAB.parent
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
