"""The lab's processes find the `lab` command and reach loopback despite a proxy."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from lab.environment import (
    LOOPBACK,
    PROGRAMS,
    bypass_proxies_on_loopback,
    command_hint,
    search_path,
)
from lab.settings import REPO
from lab.stack import processes

DEAD_PROXY = "http://127.0.0.1:9"


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """Serve HTTP on loopback and yield the address."""
    with HTTPServer(("127.0.0.1", 0), _Hello) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


def test_exclusions_of_the_user_are_kept():
    """Both variables are extended, as some clients read only one of them."""
    environ = {"NO_PROXY": "intranet.example, 127.0.0.1"}
    bypass_proxies_on_loopback(environ)
    bypass_proxies_on_loopback(environ)
    expected = "intranet.example,127.0.0.1,localhost,::1"
    assert environ == {"NO_PROXY": expected, "no_proxy": expected}


@pytest.mark.parametrize("module", ["httpx", "requests", "urllib.request"])
def test_a_proxy_does_not_intercept_requests_to_the_lab(server: str, module: str):
    """A kernel started with an unreachable proxy loads the settings and reaches a local server."""
    expression = {
        "httpx": f"httpx.get({server!r}).text",
        "requests": f"requests.get({server!r}).text",
        "urllib.request": f"urllib.request.urlopen({server!r}).read().decode()",
    }[module]
    code = f"import lab, {module}\nlab.load_settings()\nprint({expression})"
    env = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"}
    env |= {"HTTP_PROXY": DEAD_PROXY, "http_proxy": DEAD_PROXY, "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "hello\n", done.stderr[-500:]


def test_no_part_sends_its_loopback_requests_to_a_proxy(tmp_path: Path, monkeypatch):
    """Llama Stack exports its spans over HTTP too."""
    monkeypatch.setenv("HTTP_PROXY", DEAD_PROXY)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    env = processes.part_env(tmp_path, "llama-stack", {})
    assert env["HTTP_PROXY"] == DEAD_PROXY, "requests to other machines still need it"
    assert set(LOOPBACK) <= set(env["NO_PROXY"].split(","))
    assert env["no_proxy"] == env["NO_PROXY"]


def test_the_command_is_first_on_the_path_and_only_once():
    """Another `lab` on this machine does not hide it."""
    assert search_path("/usr/bin:/bin").split(":") == [str(PROGRAMS), "/usr/bin", "/bin"]
    assert search_path(search_path("/bin")) == search_path("/bin")


def test_the_hint_is_printed_only_where_it_helps(monkeypatch):
    """A shell that finds this environment's `lab` gets no hint."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    hint = command_hint()
    assert f'export PATH="{PROGRAMS}:$PATH"' in hint
    done = subprocess.run(
        ["bash", "-c", f"{hint.partition(': ')[2]}; lab --help"], capture_output=True, text=True
    )
    assert "Usage: lab" in done.stdout
    monkeypatch.setenv("PATH", search_path("/bin"))
    assert command_hint() == ""
