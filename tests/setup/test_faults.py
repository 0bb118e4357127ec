"""Every missing requirement has a clear error, and unfinished work never counts as finished."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from lab.errors import SetupError
from lab.stack import parts, prometheus_config, toolbox
from scripts.setup import (
    debian,
    environments,
    interpreters,
    places,
    progress,
    prometheus,
    requirements,
    tools,
)
from scripts.setup.places import REPO

UV = tools.read_tools().get("uv") or shutil.which("uv") or "uv"


@pytest.fixture(autouse=True)
def _logs_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (debian, interpreters):
        monkeypatch.setattr(module, "LOGS", tmp_path)


def test_the_error_for_a_missing_interpreter_explains_the_installation() -> None:
    """The error for Python 3.99 lists where it was searched and four ways to install it."""
    with pytest.raises(
        SetupError,
        match=r"(?s)no Python 3\.99.*pyenv's versions.*pyenv install 3\.99.*conda.*uv python",
    ):
        interpreters.find(UV, ["3.99"], dict(os.environ), "lab")


def test_an_interpreter_that_does_not_run_is_skipped(tmp_path: Path) -> None:
    """A pyenv shim of an inactive version, or a copy without its library, is skipped."""
    broken = tmp_path / "python3.12"
    broken.write_text("#!/bin/sh\necho 'pyenv: version not active' >&2\nexit 127\n")
    broken.chmod(0o755)
    assert not interpreters.works(broken, "3.12")
    assert not interpreters.works(tmp_path / "absent", "3.12")
    current = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert interpreters.works(Path(sys.executable), current)
    assert not interpreters.works(Path(sys.executable), "3.8")


def test_pyenv_interpreters_are_found_by_full_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest patch release comes first, by number: 3.12.10 before 3.12.9."""
    for patch in ("3.12.9", "3.12.10", "3.11.7"):
        folder = tmp_path / "versions" / patch / "bin"
        folder.mkdir(parents=True)
        (folder / "python").write_text("")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    versions = [
        p.parts[-3]
        for p in interpreters.installed(UV, "3.12", dict(os.environ))
        if tmp_path in p.parents
    ]
    assert versions == ["3.12.10", "3.12.9"]


def test_no_prometheus_and_no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what was searched and how to install it on this system."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(prometheus, "ELSEWHERE", "")
    with pytest.raises(
        SetupError,
        match=r"(?s)prometheus was not found.*no apt-get.*(apt-get install|brew install)",
    ):
        prometheus.find_tools(tmp_path)


@pytest.mark.slow
def test_a_package_that_apt_does_not_have(tmp_path: Path) -> None:
    """Nothing is left in the folder where a later set-up would look."""
    if not shutil.which("apt-get"):
        pytest.skip("no apt-get on this system")
    with pytest.raises(SetupError, match=r"(?s)no-such-package.*check the network"):
        debian.unpack("no-such-package-of-any-name", tmp_path / "unpacked", part="prometheus")
    assert not (tmp_path / "unpacked").exists()


def test_dependencies_of_a_package(tmp_path: Path) -> None:
    """Only names are read, and of alternatives the first."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("no dpkg-deb on this system")
    control = tmp_path / "tree/DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: web\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.com>\n"
        "Depends: adduser, libjs-jquery (>= 3.5.1~), libjs-d3 | node-d3, libjs-popper.js\n"
        "Description: x\n"
    )
    deb = tmp_path / "web.deb"
    subprocess.run(["dpkg-deb", "--build", tmp_path / "tree", deb], check=True, capture_output=True)
    assert debian.dependencies(deb) == ["adduser", "libjs-jquery", "libjs-d3", "libjs-popper.js"]


def test_prometheus_without_the_scripts_of_its_pages_is_not_complete(tmp_path: Path) -> None:
    """Debian's package links to files of other packages, which must be there too."""
    program = tmp_path / "usr/bin/prometheus"
    static = tmp_path / "usr/share/prometheus/web/static"
    scripts = tmp_path / "usr/share/javascript"
    program.parent.mkdir(parents=True)
    program.write_text("")
    known = dict.fromkeys(prometheus.TOOLS, str(program))
    assert prometheus.is_complete(known), "a build that contains its pages"

    static.mkdir(parents=True)
    (static / "jquery").symlink_to("../../../javascript/jquery")
    assert not prometheus.is_complete(known)
    (scripts / "jquery").mkdir(parents=True)
    assert prometheus.is_complete(known)
    assert not prometheus.is_complete(known | {"promtool": str(tmp_path / "absent")})


def test_light_set_up_builds_no_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the lab's environment, with less disk; the stack then reports what is missing."""
    spaces: list[int] = []
    monkeypatch.setattr(
        requirements, "check_space", lambda needed_bytes: spaces.append(needed_bytes)
    )
    monkeypatch.setattr(environments, "base_for", lambda _builder, _name: None)
    requirements.check(None, list(environments.LIGHT))
    requirements.check(None, list(environments.ALWAYS))
    assert spaces == [places.LIGHT_BYTES, places.NEEDED_BYTES]

    for name in ("VENVS", "ASSETS", "TOOLS_FILE"):
        monkeypatch.setattr(tools, name, tmp_path / name.lower())
    program = str(tmp_path / "prometheus")
    Path(program).write_text("")
    tools.write_tools(dict.fromkeys(prometheus.TOOLS, program), "cpu", "uv")
    with pytest.raises(SetupError, match=r"(?s)lacks .*python_vllm.*make setup"):
        toolbox.find_tools(tmp_path / "tools_file")
    light = toolbox.find_tools(tmp_path / "tools_file", needs=("prometheus", "promtool"))
    assert light.prometheus == program and light.embedding_model_dir == ""


@pytest.mark.slow
def test_prometheus_comes_with_its_pages(tmp_path: Path) -> None:
    """The scripts and fonts of the pages are fetched, but not 200 MB of time zones."""
    if not debian.available():
        pytest.skip("no apt-get on this system")
    program = Path(prometheus._fetch("prometheus", tmp_path))
    assert program == tmp_path / "prometheus/usr/bin/prometheus"
    share = program.parents[1] / "share"
    links = [p for p in (share / "prometheus/web").rglob("*") if p.is_symlink()]
    assert links and all(link.exists() for link in links)
    assert sum(p.stat().st_size for p in share.rglob("*") if p.is_file()) < 40e6


def test_everything_that_is_missing_is_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error lists everything that is missing, and each interpreter is searched once."""

    def none_found(_uv: str, versions: list[str], _env: dict, part: str) -> Path:
        searched.append(part)
        raise SetupError(f"no Python {versions[0]}", got="none", fix=f"install {versions[0]}")

    searched: list[str] = []
    monkeypatch.setattr(environments.interpreters, "find", none_found)
    monkeypatch.setattr(
        requirements, "check_space", lambda **_: places.check_space(tmp_path, 10**18)
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(prometheus, "ELSEWHERE", "")
    monkeypatch.setattr(prometheus.check_available, "__defaults__", (tmp_path,))
    builder = environments.Builder("uv", {}, "cpu", [])
    with pytest.raises(SetupError, match="lacks 3 things") as e:
        requirements.check(builder, ["lab", "assets"])
    assert "no Python 3.12" in e.value.got and "too full" in e.value.got
    assert "install 3.12" in e.value.fix and "free some space" in e.value.fix
    assert "prometheus" in e.value.got
    assert searched == ["lab"]


def test_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    """The error has the system's reason and is raised before any download."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"(?s)\.venvs cannot be written.*write access"):
        places.make_root(tmp_path / "file" / ".venvs")


def test_a_full_disk_is_reported_before_the_download(tmp_path: Path) -> None:
    """The error states the free and the needed space."""
    with pytest.raises(SetupError, match=r"(?s)too full.*GiB free.*free some space"):
        places.check_space(tmp_path, needed_bytes=10**18)


def test_a_failed_command_shows_its_output(tmp_path: Path) -> None:
    """The end of the output is in the error, and all of it in the log."""
    command = [sys.executable, "-c", "print('hash mismatch'); raise SystemExit(3)"]
    with pytest.raises(SetupError, match=r"(?s)ended with status 3.*hash mismatch.*lab.log"):
        progress.run("lab", command, log=tmp_path / "lab.log", env=dict(os.environ))
    assert "hash mismatch" in (tmp_path / "lab.log").read_text()


def test_a_command_that_hangs_is_stopped(tmp_path: Path) -> None:
    """The timeout ends a command, as behind firewalls that drop packets."""
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    code, _ = progress.attempt(
        "lab", command, log=tmp_path / "log", env=dict(os.environ), timeout_s=0.5
    )
    assert code is None


def test_an_environment_counts_only_when_it_was_finished(tmp_path: Path) -> None:
    """An environment is ready only with its stamp, an equal lock and its interpreter."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text("")
    assert not places.is_ready(tmp_path, "abc")
    places.write_stamp(tmp_path, "abc", python="/usr/bin/python3")
    assert places.is_ready(tmp_path, "abc") and not places.is_ready(tmp_path, "other lock")
    (tmp_path / "bin/python").unlink()
    assert not places.is_ready(tmp_path, "abc")
    (tmp_path / places.STAMP).write_text("{")
    assert not places.is_ready(tmp_path, "abc")


@pytest.mark.slow
def test_an_interrupted_set_up_leaves_nothing_that_counts(tmp_path: Path) -> None:
    """An interrupted real set-up leaves no stamp and no child and explains how to continue."""
    for name in (
        "lab/__init__.py",
        "lab/environment.py",
        "lab/files.py",
        "lab/errors.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPO / name, tmp_path / name)
    shutil.copytree(REPO / "requirements", tmp_path / "requirements")
    shutil.copytree(REPO / "scripts/setup", tmp_path / "scripts/setup")
    shutil.copy(REPO / "scripts/__init__.py", tmp_path / "scripts/__init__.py")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    child = subprocess.Popen(
        [sys.executable, "-m", "scripts.setup"],
        cwd=tmp_path,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in child.stderr:
            if "packages from" in line:
                break
        children = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(signal.SIGINT)
        output = child.communicate(timeout=120)[1]
    finally:
        child.kill()
    assert child.returncode == 130 and "run it again to go on" in output
    # Environments that were finished by then may count, which is possible on a fast disk.
    for ready in tmp_path.glob(f".venvs/*/{places.STAMP}"):
        assert ready.parent.name == "assets" or (ready.parent / "bin" / "python").exists()
    assert not (tmp_path / ".venvs/tools.json").exists()
    assert not psutil.wait_procs(children, timeout=60)[1]


@pytest.mark.slow
def test_a_debian_package_is_unpacked_and_not_installed(tmp_path: Path) -> None:
    """Without root the program runs from the folder, and no service is started."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip("no apt-get on this system")
    root = debian.unpack("prometheus-node-exporter", tmp_path / "node", part="prometheus")
    done = subprocess.run(
        [root / "usr/bin/prometheus-node-exporter", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "node_exporter" in done.stdout + done.stderr
    assert not (tmp_path / "node.part").exists()


@pytest.mark.slow
@pytest.mark.skipif(not debian.available(), reason="needs apt")
def test_the_unpacked_alertmanager_finds_its_templates(tmp_path: Path) -> None:
    """It serves, though Debian's build looks for its templates in a folder of the system."""
    root = tmp_path / ".venvs"
    root.mkdir()
    program = prometheus._fetch("alertmanager", root)
    config = tmp_path / "alertmanager.yml"
    config.write_text(prometheus_config.alertmanager_config())
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    part = parts.alertmanager(
        toolbox.Toolbox("", "", "", "", "", "", alertmanager=program),
        {"alertmanager": port},
        tmp_path,
        config,
    )
    process = subprocess.Popen(part.argv, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < limit:
            with contextlib.suppress(OSError):
                assert urllib.request.urlopen(part.alive).status == 200
                return
            time.sleep(0.2)
        pytest.fail(f"it does not answer; exit status {process.poll()}")
    finally:
        process.terminate()
        process.wait(60)
