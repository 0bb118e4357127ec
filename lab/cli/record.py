"""`lab record`: save a window of telemetry, and the runs in it, to data/recorded/NAME."""

from __future__ import annotations

import argparse
import shlex
import time
from datetime import datetime

from lab.errors import SettingsError
from lab.observation import drive
from lab.recording import EVERYTHING, record, window_of
from lab.runs import RUNS, runs_in
from lab.settings import Settings, load_settings
from lab.workload import Run

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def main(argv: list[str]) -> int:
    """0 when it is recorded. Raises what `lab.recording.record` raises."""
    args = _arguments(argv)
    settings = load_settings()
    runs = _runs(settings, args)
    start, end = _window(args, runs)
    again = [a for a in argv if a != "--replace"]
    made = record(
        settings, args.name, start, end, runs=runs, selector=args.selector, traceql=args.traceql,
        command=shlex.join(["lab", "record", *again]), replace=args.replace,
    )  # fmt: skip
    print(made)
    print(f"replay it: LAB_RECORDING={args.name} lab up --place recorded")
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lab record",
        description="Save a window of Prometheus and Tempo, and the runs in it, to data/recorded/NAME. The servers are "
        "those of the settings: the running lab's, or your own (LAB_PROMETHEUS_URL, LAB_TEMPO_URL).",
    )
    parser.add_argument("name", help="of the recording's folder")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--requests", type=int, help="drive so many requests now, and record them")
    what.add_argument(
        "--newest-runs", type=int, metavar="N", help="the newest N runs of `lab.drive` (default: 1)"
    )
    what.add_argument(
        "--last", metavar="TIME", help="no run: the window that ends now, such as 15m or 2h"
    )
    what.add_argument(
        "--start",
        metavar="TIME",
        help="no run: the window from here (ISO 8601 with a zone) to --end",
    )
    parser.add_argument("--end", metavar="TIME")
    parser.add_argument(
        "--rate", type=float, default=1.0, help="with --requests: conversations a second"
    )
    parser.add_argument("--seed", type=int, default=11, help="with --requests")
    parser.add_argument("--selector", default=EVERYTHING, help="which series, as a PromQL selector")
    parser.add_argument(
        "--traceql", default="{}", help="which traces: those with a span that matches"
    )
    parser.add_argument("--replace", action="store_true", help="replace a recording of this name")
    return parser.parse_args(argv)


def _runs(settings: Settings, args: argparse.Namespace) -> list[Run]:
    if args.last or args.start:
        return []
    if args.requests:
        return [drive(settings, n_requests=args.requests, rate_per_s=args.rate, seed=args.seed)]
    count = args.newest_runs or 1
    found = [run for _, run in runs_in(settings.state_dir / RUNS)]
    if len(found) < count:
        raise SettingsError(
            f"there are not {count} runs to record",
            got=f"{len(found)} in {settings.state_dir / RUNS}",
            fix="drive one (`lab record NAME --requests 80`, or a notebook), or name a window (--last 15m)",
        )
    return found[-count:]


def _window(args: argparse.Namespace, runs: list[Run]) -> tuple[float, float]:
    if runs:
        return window_of(runs)
    if args.last:
        number, unit = args.last[:-1], args.last[-1:]
        if unit not in UNITS_S or not number.replace(".", "", 1).isdigit():
            raise SettingsError(
                f"{args.last!r} is no length of time", fix="write 90s, 15m, 2h or 1d"
            )
        return time.time() - float(number) * UNITS_S[unit], time.time()
    if not args.end:
        raise SettingsError("a window needs an end", got=f"--start {args.start}", fix="add --end")
    return _instant(args.start), _instant(args.end)


def _instant(text: str) -> float:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as e:
        raise SettingsError(
            f"{text!r} is no instant", got=str(e), fix="write 2026-11-26T10:00:00Z"
        ) from e
    if at.tzinfo is None:
        raise SettingsError(
            f"{text!r} has no time zone", fix=f"write {text}Z for UTC, or {text}+01:00"
        )
    return at.timestamp()
