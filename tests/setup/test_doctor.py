"""`lab doctor --here` lists what the lab needs from this machine."""

from __future__ import annotations

import http.server
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import cli
from scripts import doctor
from scripts.setup.places import REPO

SECRET = "pa55word"


@pytest.fixture
def index() -> Iterator[tuple[str, list[str]]]:
    """Serve a package index that requires a login; yield its host and its requests."""
    requests: list[str] = []

    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(200 if self.headers["Authorization"] else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", requests
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_list_names_everything(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    index: tuple[str, list[str]],
) -> None:
    """All checks are listed, without secrets, and problems decide the exit status."""
    host, _ = index
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://user:{SECRET}@{host}/simple")
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(sys, "argv", ["lab", "doctor", "--here"])
    with pytest.raises(SystemExit) as e:
        cli.main()
    out = capsys.readouterr().out
    names = ("set-up", "Python", "Prometheus", "disk", "memory", "cores", "ports", "proxy")
    assert all(f" {name} " in out for name in names)
    assert f"http://{host}/simple answers" in out and "proxy.example:3128" in out
    assert SECRET not in out
    assert e.value.code == (1 if "problem " in out else 0)


def test_it_runs_before_set_up() -> None:
    """The system's Python is enough, without any package."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if not python:
        pytest.skip("no system Python")
    code = "from scripts import doctor; print(doctor.report([doctor.check_disk(1)]))"
    done = subprocess.run(
        [python, "-I", "-c", f"import sys; sys.path.insert(0, {str(REPO)!r}); {code}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok       disk")


def test_a_registry_that_refuses_or_is_unreachable(index: tuple[str, list[str]]) -> None:
    """It is a problem only if a download is needed, and a login in the URL is not shown."""
    host, requests = index
    refused = doctor.check_registry(f"http://{host}/simple/", needed=True)
    assert refused.state == doctor.PROBLEM and "status 401" in refused.found and refused.fix
    assert requests == ["/simple/uv/"]
    assert doctor.check_registry(f"http://u:{SECRET}@{host}/simple", needed=True).state == doctor.OK

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        closed = f"http://u:{SECRET}@127.0.0.1:{s.getsockname()[1]}/simple"
        unreachable = doctor.check_registry(closed, needed=True)
        assert unreachable.state == doctor.PROBLEM and SECRET not in unreachable.found
        assert doctor.check_registry(closed, needed=False).state == doctor.OK


def test_insufficient_resources_are_reported(tmp_path: Path) -> None:
    """Each finding has what was found, what is needed and a fix."""
    disk = doctor.check_disk(10**18, tmp_path)
    assert disk.state == doctor.PROBLEM and "needed" in disk.found and disk.fix
    memory = doctor.check_memory(total_bytes=2 * 1024**3)
    assert memory.state == doctor.WARNING and "2.0 GiB" in memory.found and "recorded" in memory.fix
    assert doctor.check_cores(1).state == doctor.WARNING
    python = doctor.check_python(["3.99"])
    assert python.state == doctor.WARNING and "pyenv install 3.99" in python.fix


def test_a_taken_port_is_reported() -> None:
    """It is not a problem, since the lab chooses another one."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        finding = doctor.check_ports({"prometheus": port})
    assert finding.state == doctor.OK and f"{port} (prometheus)" in finding.found


def test_a_report_shows_the_fix_below_its_entry() -> None:
    """Entries are in the order of the checks."""
    text = doctor.report([doctor.Finding("disk", doctor.PROBLEM, "full", "free some space")])
    assert text.splitlines()[0].split() == ["problem", "disk", "full"]
    assert text.splitlines()[1].strip() == "Fix: free some space"
