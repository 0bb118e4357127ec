"""Show how far a run is: moving bars on a terminal, a line at each change elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from lab.runner.execute import Progress as NotebookProgress
from lab.stack.state import PartStatus

EVERY_S = 15.0


class Show:
    """Takes what the stack and the runner tell, and shows it. A context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
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
        self._tasks: dict[str, int] = {}
        self._seen: dict[str, str] = {}
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Show:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Show nothing more."""
        self._bars.stop()

    def part(self, parts: list[PartStatus], _elapsed_s: float) -> None:
        """The progress callback of lab.stack.up."""
        parts = [p for p in parts if p.state != "off"]  # on demand, and nobody asked
        waiting = [p for p in parts if not p.ready]
        note = ", ".join(p.name for p in waiting)
        self._bar("stack", len(parts) - len(waiting), len(parts), note and f"waiting for {note}")
        for p in parts:
            if self._seen.get(p.name) != p.state:
                self._seen[p.name] = p.state
                self._line(f"{p.name} {p.state} {p.error}".rstrip())
        self._sign_of_life(f"waiting for {note}")

    def notebook(self, now: NotebookProgress) -> None:
        """The progress callback of run_notebooks."""
        done = now.cells if now.run else now.cell
        self._bar(now.name, done, now.cells, now.run.status if now.run else f"cell {now.cell + 1}")
        if now.run:
            self._line(f"{now.name} {now.run.status} after {now.run.duration_s:.1f} s")
        elif now.cell == 0:
            self._line(f"{now.name} ({now.index + 1} of {now.count})")
        else:
            self._sign_of_life(f"{now.name}: cell {now.cell + 1} of {now.cells}")

    def _bar(self, name: str, completed: int, total: int, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=max(total, 1), note=note)
        self._bars.update(self._tasks[name], completed=completed, total=max(total, 1), note=note)
        if note in ("passed", "failed", "timed out", "interrupted"):
            self._bars.stop_task(self._tasks[name])

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._said = time.monotonic()
            print(f"{self._said - self._began:7.1f} s  {text}", flush=True)

    def _sign_of_life(self, text: str) -> None:
        if time.monotonic() - self._said >= EVERY_S:
            self._line(text)
