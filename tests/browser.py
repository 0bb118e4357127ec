"""Load pages in a real Chromium, and use them as a person would: look, click, type."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LIMIT_S = 90.0  # generous: the machine may be busy with other work


def dom(url: str, profile: Path) -> str:
    """Return the HTML of the page once its scripts have run; `profile` is a new folder."""
    command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=10000", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


class Page:
    """A page of a running Chromium, driven by its DevTools protocol."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=LIMIT_S, suppress_origin=True)
        self._id = 0
        self.failures: list[str] = []  # uncaught exceptions, and errors that the console shows
        self.requested: set[str] = set()  # URLs
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of a command; what happens meanwhile is noted."""
        self._id += 1
        self._socket.send(json.dumps({"id": self._id, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._id:
                assert "error" not in message, message["error"]
                return dict(message["result"])
            self._note(message.get("method", ""), message.get("params", {}))

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.failures.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            entry = params["entry"]
            self.failures.append(f"{entry['text']} {entry.get('url', '')}")
        elif event == "Network.requestWillBeSent":
            self.requested.add(params["request"]["url"])

    def open(self, url: str) -> None:
        """Go to an address. A change after its `#` does not load the page again."""
        self.send("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, limit_s: float = LIMIT_S) -> Any:
        """Return the value of an expression once it is true."""
        deadline = time.monotonic() + limit_s
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"never true: {expression}\n{self.failures}"
            time.sleep(0.1)
        return value

    def type(self, selector: str, text: str) -> None:
        """Give an element the focus, and type text as a keyboard does."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        for character in text:
            self.send("Input.dispatchKeyEvent", type="keyDown", text=character)
            self.send("Input.dispatchKeyEvent", type="keyUp")

    def screenshot(self, path: Path, width: int = 1280, height: int = 900) -> Path:
        """Write the page as PNG, in a window of this size."""
        self.resize(width, height)
        image = self.send("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(image))
        return path

    def resize(self, width: int, height: int) -> None:
        """Give the window a size in pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Run Chromium with an empty page; `profile` is a new folder."""
    command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-port=0"]
    process = subprocess.Popen(
        [*command, "--window-size=1280,900", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Page(_devtools(profile / "DevToolsActivePort", process))
    finally:
        process.terminate()
        process.wait(90)


def _devtools(file: Path, process: subprocess.Popen[bytes]) -> str:
    """Return the WebSocket address of the first page, once Chromium has one."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "Chromium has ended"
        try:
            port = file.read_text().split()[0]
            targets = httpx.get(f"http://127.0.0.1:{port}/json", timeout=60).json()
            return str(next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page"))
        except (OSError, IndexError, StopIteration, httpx.TransportError):
            time.sleep(0.1)
    raise AssertionError(f"Chromium opened no page within {LIMIT_S:.0f} s")
