"""`lab up`, `down`, `status` and `logs` for a terminal, on this machine and on a cluster."""

import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from lab import stack
from lab.environment import command_hint
from lab.errors import StackError
from lab.settings import ENDPOINTS, Settings, load_settings, settings_files
from lab.stack import cluster, grafana, processes
from lab.stack.control import LineProgress, Progress
from lab.stack.ports import HOST
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
# Parts with pages for a browser -> what the pages show. They run on this machine.
_PAGES = {
    "grafana": "Grafana: the lab's dashboards, Explore",
    "live-view": "live view: components, dashboards, alerts, traces and queries in one page",
    "prometheus": "Prometheus: graphs (PromQL), targets, rules and alerts",
    "tracestore": "traces: search (TraceQL) and waterfalls",
}
_NUMBERS = ("pid", "port", "RSS", "PSS", "since")
# Fields of a log entry that are shown in front, or not at all.
_KNOWN = (
    *("part", "ts", "timestamp", "time", "level", "logger"),
    *("message", "msg", "event", "trace_id", "span_id"),
)


def stand_up(wait: Literal["agent", "all"], also: list[str]) -> None:
    """Stand the lab up with progress, start the parts on demand in `also`, print all addresses."""
    settings = load_settings()
    console = Console()
    if "grafana" in also:
        grafana.check_installed()
    try:
        with _progress(console, "lab up") as progress:
            endpoints = stack.up(settings, progress, wait)
    except KeyboardInterrupt:
        print(
            "the lab goes on coming up; `lab status` shows how far it is, `lab down` stops it",
            file=sys.stderr,
        )
        raise
    stack.start(settings, *also)
    _print_addresses(console, endpoints)
    _print_pages(console, stack.status(settings))
    if hint := command_hint():
        _print(console, hint)


def take_down(only: list[str], every_place: bool) -> None:
    """Take the lab down with progress, or only stop the parts on demand in `only`.

    With `every_place` this includes recordings and port forwards that were started next to it.
    """
    if only:
        return stack.stop(load_settings(), *only)

    settings = load_settings(running_stack=False, **({"place": "local"} if every_place else {}))
    folders = _state_folders(settings) if every_place else [settings.state_dir]
    left = []
    with _progress(Console(), "lab down") as progress:
        for folder in folders:
            left += stack.down(settings.model_copy(update={"state_dir": folder}), progress)
    ended = f"; outlived their supervisor and were ended now: {', '.join(left)}" if left else ""
    print(f"down{ended}")


def show_status(as_json: bool) -> int:
    """Print the table of parts. Returns 1 if none runs, one hangs, or a needed one is not ready."""
    settings = load_settings(running_stack=False)
    parts = stack.status(settings)
    if as_json:
        print(json.dumps([asdict(p) for p in parts], indent=1))
    else:
        _print_parts(parts)
        if others := _other_places(settings):
            print(f"also running, and ended by `lab down`: {', '.join(map(str, others))}")

    needed = [p for p in parts if p.essential or p.name == "supervisor"]
    hanging = any(p.state == "hangs" for p in parts)
    return 0 if parts and all(p.ready for p in needed) and not hanging else 1


def _print_parts(parts: list[PartStatus]) -> None:
    if not parts:
        print("no lab is running here; `lab up` starts one")
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(_status_table(parts))
    for p in parts:
        if p.error:
            console.print(f"[{BAD_STYLE}]{p.name}[/]: {p.error}", highlight=False)
    _print_pages(console, parts)


def show_logs(part: str | None, trace: str | None, follow: bool, as_json: bool, last: int) -> None:
    """Print entries, with the part's name in front where there are several."""
    if part and trace:
        raise StackError(
            "a part and a trace cannot be combined",
            fix="leave out the part: a trace goes through all",
        )

    nothing = True
    for entry in stack.logs(load_settings(running_stack=False), part, trace, follow, last):
        nothing = False
        line = json.dumps(entry, ensure_ascii=False) if as_json else _as_text(entry, part is None)
        print(line, flush=follow)
    if trace and nothing:
        print(f"no log line has trace id {trace}", file=sys.stderr)


def _state_folders(settings: Settings) -> list[Path]:
    """Return the state folders of this lab and of those that were started next to it."""
    root = settings.state_dir
    return [root, *sorted(root.glob("recorded/*")), *root.glob("cluster")]


def _other_places(settings: Settings) -> list[Path]:
    """Return the folders of the other places that have processes on this machine."""
    return [f for f in _state_folders(settings)[1:] if processes.leftovers(f)]


def _print_addresses(console: Console, endpoints: dict[str, str]) -> None:
    """Print where everything is, and what the settings replace by another address."""
    settings = load_settings()
    for path in settings_files():
        _print(console, f"settings from {path}")
    for name, url in sorted(endpoints.items()):
        shown = (getattr(settings, f"{name}_url") or url).rstrip("/")
        origin = "" if shown == url else f" [yellow](from {settings.source_of(f'{name}_url')})[/]"
        console.print(
            f"  {name:<14}{shown:<28}[dim]{ENDPOINTS[name]}[/dim]{origin}",
            highlight=False,
            soft_wrap=True,
        )


def _print_pages(console: Console, parts: list[PartStatus]) -> None:
    """Print the addresses to open in a browser, of the parts that answer."""
    pages = {p.name: f"http://{HOST}:{p.port}/" for p in parts if p.ready and p.name in _PAGES}
    if pages:
        _print(console, "Open in a browser:")
    for name, url in pages.items():
        _print(console, f"  {url:<42}{_PAGES[name]}")


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _progress(console: Console, title: str) -> Iterator[Progress]:
    """Show progress: a moving table on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield LineProgress()
        return
    with Live(console=console, refresh_per_second=5, transient=title == "lab down") as live:
        yield lambda parts, elapsed_s: live.update(_progress_table(title, parts, elapsed_s))


def _progress_table(title: str, parts: list[PartStatus], elapsed_s: float) -> Table:
    table = Table(
        *(Column(heading, no_wrap=True) for heading in ("part", "state", "seconds")),
        "waits for",
        title=f"{title}: {elapsed_s:.0f} s",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for p in parts:
        seconds = p.ready_after_s if p.ready_after_s is not None else p.uptime_s
        shown = f"{seconds:.1f}" if seconds is not None else ""
        table.add_row(p.name, _styled(p.state), shown, "" if p.ready else (p.error or p.waits_for))
    return table


def _status_table(parts: list[PartStatus]) -> Table:
    numbers = (Column(heading, justify="right") for heading in _NUMBERS)
    table = Table("part", "state", *numbers, "log", box=None, padding=(0, 2, 0, 0))
    for p in parts:
        table.add_row(
            *(p.name, _styled(p.state), str(p.pid or ""), str(p.port or "")),
            *(_mib(p.rss_bytes), _mib(p.pss_bytes)),
            str(timedelta(seconds=int(p.uptime_s))) if p.uptime_s is not None else "",
            p.log,
        )

    total = (_mib(sum(p.rss_bytes for p in parts)), _mib(sum(p.pss_bytes for p in parts)))
    table.add_row("all", "", "", "", *total, "", "PSS counts pages that processes share once")
    return table


def _styled(state: str) -> str:
    return f"[{STATE_STYLE.get(state, BAD_STYLE)}]{state}[/]"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 1024**2:,.0f} MiB" if size_bytes else ""


def _as_text(entry: dict[str, Any], with_part: bool) -> str:
    others = (f"{k}={v}" for k, v in entry.items() if k not in _KNOWN)
    more = " ".join(itertools.islice(others, 40))
    part = f"{entry['part']:<12} " if with_part else ""
    return f"{entry['ts'][:23]} {part}{entry.get('level', ''):<8}{entry['message']} {more}".rstrip()


def stand_up_cluster(context: str, overlay: str) -> None:
    """Check the cluster, stand the overlay up with progress, print where everything is."""
    settings = load_settings(place="cluster")
    console = Console()
    context = context or settings.cluster_context
    overlay = overlay or settings.cluster_overlay

    for finding in cluster.preflight(settings, context, overlay):
        mark = "[red]missing[/]" if finding.required else "[yellow]careful[/]"
        mark = "[green]good[/]" if finding.ok else mark
        fix = "" if finding.ok else f"; fix: {finding.fix}"
        line = f"  {mark} {finding.name}: {finding.found}{fix}"
        console.print(line, highlight=False, soft_wrap=True)

    endpoints = cluster.up(settings, context, overlay, LineProgress())
    for name, url in sorted(endpoints.items()):
        _print(console, f"  {name:<14}{url:<36}{ENDPOINTS[name]}")


def take_down_cluster(context: str) -> None:
    """Take it down and print what was removed."""
    settings = load_settings(place="cluster", running_stack=False)
    removed = cluster.down(settings, context or settings.cluster_context)
    lines = "\n".join(f"removed {name}" for name in removed)
    print(lines or "there was nothing of the lab in that cluster")


def show_cluster(context: str) -> int:
    """Print one line per workload. Returns 1 if one is not ready or there is none."""
    settings = load_settings(place="cluster")
    rows = cluster.status(settings, context or settings.cluster_context)
    for r in rows:
        state = "ready" if r.ready else "NOT READY"
        print(f"{state:<10}{r.namespace:<14}{r.kind:<12}{r.name:<18}{r.progress}  {r.why}")
    if not rows:
        print("no lab is in that cluster")
    return 0 if rows and all(r.ready for r in rows) else 1
