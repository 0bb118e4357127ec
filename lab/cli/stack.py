"""`lab up`, `down`, `status` and `logs` for a terminal."""

from __future__ import annotations

import itertools
import json
import sys
from collections import deque
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from lab import stack
from lab.environment import command_hint
from lab.errors import StackError
from lab.settings import ENDPOINTS, load_settings
from lab.stack.state import PartStatus

STATE_STYLE = {
    "ready": "green",
    "done": "green",
    "starting": "yellow",
    "waiting": "dim",
    "stopped": "dim",
    "off": "dim",
}
BAD_STYLE = "bold red"


def up(wait: str, also: list[str]) -> None:
    """Stand up, show progress, start the parts on demand in `also`, print where everything is."""
    settings, console = load_settings(), Console()
    try:
        if console.is_terminal:
            with Live(console=console, refresh_per_second=5) as live:
                endpoints = stack.up(
                    settings, lambda parts, t: live.update(_progress_table(parts, t)), wait
                )
        else:
            endpoints = stack.up(settings, LineProgress(), wait)
    except KeyboardInterrupt:
        print(
            "the lab goes on coming up; `lab status` shows how far it is, `lab down` stops it",
            file=sys.stderr,
        )
        raise
    stack.start(settings, *also)
    for name, url in sorted(endpoints.items()):
        console.print(
            f"  {name:<14}{url:<28}[dim]{ENDPOINTS[name]}[/dim]", highlight=False, soft_wrap=True
        )
    if hint := command_hint():
        console.print(hint, highlight=False, markup=False, soft_wrap=True)


def down(only: list[str]) -> None:
    """Take down, say what was left over; or stop the parts on demand in `only`."""
    if only:
        return stack.stop(load_settings(), *only)
    left = stack.down(load_settings())
    print(
        f"down; outlived their supervisor and were ended now: {', '.join(left)}" if left else "down"
    )


def status(as_json: bool) -> int:
    """Print the table; 1 if a needed part is not ready or nothing runs."""
    parts = stack.status(load_settings())
    if as_json:
        print(json.dumps([asdict(p) for p in parts], indent=1))
    elif parts:
        console = Console(width=None if sys.stdout.isatty() else 160)
        console.print(_status_table(parts))
        for p in (p for p in parts if p.error):
            console.print(f"[{BAD_STYLE}]{p.name}[/]: {p.error}", highlight=False)
    else:
        print("no lab is running here; `lab up` starts one")
    healthy = bool(parts) and all(p.ready for p in parts if p.essential or p.name == "supervisor")
    return 0 if healthy else 1


def logs(part: str | None, trace: str | None, follow: bool, as_json: bool, last: int) -> None:
    """Print entries; the part's name in front where there are several."""
    if part and trace:
        raise StackError(
            "a part and a trace were asked for at once",
            fix="leave out the part: a trace goes through all",
        )
    entries = stack.logs(load_settings(), part, trace, follow)
    if last and not follow:
        entries = deque(entries, maxlen=last)
    show = _as_json if as_json else _as_text
    found = False
    for entry in entries:
        found = True
        print(show(entry, with_part=part is None), flush=follow)
    if trace and not found:
        print(f"no log line has trace id {trace}", file=sys.stderr)


class LineProgress:
    """Progress where there is no terminal: a line when a part changes, and one every 10 s for what is waited for."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._next_s = 10.0

    def __call__(self, parts: list[PartStatus], elapsed_s: float) -> None:
        for p in parts:
            if self._seen.get(p.name) != p.state:
                self._seen[p.name] = p.state
                took = f" after {p.ready_after_s:.1f} s" if p.ready_after_s else ""
                print(
                    f"{elapsed_s:6.1f} s  {p.name:<12} {p.state}{took} {p.error}".rstrip(),
                    flush=True,
                )
        if elapsed_s >= self._next_s:
            self._next_s = elapsed_s + 10.0
            waiting = "; ".join(
                f"{p.name}: {p.waits_for or p.state}" for p in parts if _due(p) and not p.error
            )
            print(f"{elapsed_s:6.1f} s  waiting for {waiting}", flush=True)


def _due(part: PartStatus) -> bool:
    return not part.ready and part.state != "off"


def _progress_table(parts: list[PartStatus], elapsed_s: float) -> Table:
    table = Table(
        title=f"lab up: {elapsed_s:.0f} s", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    for heading in ("part", "state", "seconds", "waits for"):
        table.add_column(heading, no_wrap=heading != "waits for")
    for p in parts:
        seconds = p.ready_after_s if p.ready_after_s is not None else p.uptime_s
        shown = f"{seconds:.1f}" if seconds is not None else ""
        table.add_row(p.name, _styled(p.state), shown, "" if p.ready else (p.error or p.waits_for))
    return table


def _status_table(parts: list[PartStatus]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("part", "state", "pid", "port", "RSS", "PSS", "since", "log"):
        table.add_column(
            heading,
            justify="right" if heading in ("pid", "port", "RSS", "PSS", "since") else "left",
        )
    for p in parts:
        numbers = (
            p.pid or "",
            p.port or "",
            _mib(p.rss_bytes),
            _mib(p.pss_bytes),
            _ago(p.uptime_s),
        )
        table.add_row(p.name, _styled(p.state), *map(str, numbers), p.log)
    total = (_mib(sum(p.rss_bytes for p in parts)), _mib(sum(p.pss_bytes for p in parts)))
    table.add_row("all", "", "", "", *total, "", "PSS counts pages that processes share once")
    return table


def _styled(state: str) -> str:
    return f"[{STATE_STYLE.get(state, BAD_STYLE)}]{state}[/]"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 1024**2:,.0f} MiB" if size_bytes else ""


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{timedelta(seconds=int(seconds))}"


def _as_json(entry: dict[str, Any], with_part: bool) -> str:
    return json.dumps(entry, ensure_ascii=False)


def _as_text(entry: dict[str, Any], with_part: bool) -> str:
    known = (
        "part",
        "ts",
        "timestamp",
        "time",
        "level",
        "logger",
        "message",
        "msg",
        "event",
        "trace_id",
        "span_id",
    )
    more = " ".join(f"{k}={v}" for k, v in itertools.islice(entry.items(), 40) if k not in known)
    part = f"{entry['part']:<12} " if with_part else ""
    return f"{entry['ts'][:23]} {part}{entry.get('level', ''):<8}{entry['message']} {more}".rstrip()
