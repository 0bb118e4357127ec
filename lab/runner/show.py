"""Show how far a run is: moving bars on a terminal, a line per change elsewhere."""

from __future__ import annotations

import os
import sys
import time
import webbrowser

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from lab.runner.execute import FAILED, INTERRUPTED, PASSED, TIMED_OUT
from lab.runner.execute import Progress as NotebookProgress
from lab.stack.control import LineProgress
from lab.stack.ports import HOST
from lab.stack.state import PartStatus

EVERY_S = 15.0


class Show:
    """Receives the progress of the stack and of the notebooks, and shows it. A context manager."""

    def __init__(self, console: Console | None = None, *, opens_view: bool = False) -> None:
        self._console = console or Console()
        self._opens_view = opens_view
        self._view = ""
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}[/dim]"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lines = LineProgress()
        self._began = time.monotonic()
        self._last_line = self._began

    def __enter__(self) -> Show:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Show nothing more."""
        self._bars.stop()

    def part(self, parts: list[PartStatus], elapsed_s: float) -> None:
        """Show the state of the parts: the progress callback of lab.stack.up and down."""
        parts = [p for p in parts if p.state != "off"]
        pending = [p.name for p in parts if not p.ready]
        note = f"waiting for {', '.join(pending)}" if pending else ""
        self._bar("stack", len(parts) - len(pending), len(parts), note)
        for p in parts:
            if p.name == "live-view" and p.ready:
                self.live_view(f"http://{HOST}:{p.port}/")
        if not self._console.is_terminal:
            self._lines(parts, elapsed_s)

    def live_view(self, url: str) -> None:
        """Print the address of the live view, and open it if `opens_view`; once per address."""
        if not url or url == self._view:
            return
        self._view = url
        self._console.print(f"live view: {url}", highlight=False, soft_wrap=True)
        if self._opens_view and has_desktop():
            webbrowser.open(url)

    def notebook(self, now: NotebookProgress) -> None:
        """Show how far a notebook is: the progress callback of run_notebooks."""
        number = (now.cell or 0) + 1
        note = now.run.status if now.run else f"cell {number}"
        self._bar(now.name, now.cells if now.run else number - 1, now.cells, note)
        if now.run:
            self._line(f"{now.name} {now.run.status} after {now.run.duration_s:.1f} s")
        elif number == 1:
            self._line(f"{now.name} ({now.index + 1} of {now.count})")
        elif time.monotonic() - self._last_line >= EVERY_S:
            self._line(f"{now.name}: cell {number} of {now.cells}")

    def _bar(self, name: str, completed: int, total: int, note: str) -> None:
        total = max(total, 1)
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, note=note)
        self._bars.update(self._tasks[name], completed=completed, total=total, note=note)
        if note in (PASSED, FAILED, TIMED_OUT, INTERRUPTED):
            self._bars.stop_task(self._tasks[name])

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._last_line = time.monotonic()
            print(f"{self._last_line - self._began:7.1f} s  {text}", flush=True)


def has_desktop() -> bool:
    """Return whether a browser's window can open: not over SSH, nor in a container."""
    if "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
