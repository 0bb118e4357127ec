"""`make lab` prints the address of the live view once it answers, and opens it on a desktop."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
import webbrowser

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from lab.cli.app import app
from lab.runner.show import Show
from lab.stack.state import PartStatus
from tests.tools.test_process import free_port


def show_parts(monkeypatch: pytest.MonkeyPatch, **environment: str) -> tuple[str, list[str]]:
    """Return what is printed, and the addresses that are opened, while the live view comes up."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(sys, "platform", "linux")
    out = io.StringIO()
    show = Show(Console(file=out, width=200), opens_view=True)
    vllm = PartStatus("vllm", "starting")
    show.part([vllm, PartStatus("live-view", "starting", port=19021)], 0.5)
    assert out.getvalue() == ""
    for _ in range(2):
        show.part([vllm, PartStatus("live-view", "ready", port=19021, ready=True)], 1.0)
    return out.getvalue(), opened


def test_the_address_is_printed_once_while_the_rest_still_starts(monkeypatch) -> None:
    """vLLM takes much longer; nothing is opened where no window can be."""
    printed, opened = show_parts(monkeypatch)
    assert printed.count("http://127.0.0.1:19021/") == 1
    assert opened == []


def test_it_is_opened_on_a_desktop_and_not_over_ssh(monkeypatch) -> None:
    """A display that SSH forwards would show the browser of the other machine."""
    assert show_parts(monkeypatch, DISPLAY=":0")[1] == ["http://127.0.0.1:19021/"]
    assert show_parts(monkeypatch, DISPLAY=":10", SSH_CONNECTION="1.2.3.4 5 6.7.8.9 22")[1] == []


def test_lab_view_prints_the_address_of_the_running_one(monkeypatch) -> None:
    """A second server would be started for nothing."""
    monkeypatch.setenv("LAB_VIEW_URL", "http://127.0.0.1:19041")
    result = CliRunner().invoke(app, ["view"])
    assert (result.exit_code, result.output.strip()) == (0, "http://127.0.0.1:19041")


def test_lab_view_serves_your_own_stores_where_no_lab_runs(tmp_path) -> None:
    """It serves the page until it is ended, and leaves no process."""
    port = free_port()
    env = {k: v for k, v in os.environ.items() if k != "LAB_VIEW_URL"}
    env |= {"LAB_STATE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "lab.cli", "view", "--port", str(port)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                assert "LLM lab" in httpx.get(f"http://127.0.0.1:{port}/", timeout=60).text
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
    finally:
        process.terminate()
        printed, _ = process.communicate(timeout=120)
    assert f"http://127.0.0.1:{port}/" in printed
