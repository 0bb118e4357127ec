"""`lab record`: save a window of telemetry, and the runs in it, to data/recorded/NAME."""

import shlex
import time
from typing import Annotated

import typer

from lab.command_line import as_main, refuse
from lab.errors import SettingsError
from lab.observation import drive
from lab.observation.window import parse_window
from lab.recording import EVERYTHING, window_of
from lab.recording import record as save
from lab.runs import RUNS, runs_in
from lab.settings import Settings, load_settings
from lab.workload import Run


def record(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the recording's folder.")],
    requests: Annotated[
        int | None, typer.Option(help="Drive this many requests now, and record them.")
    ] = None,
    newest_runs: Annotated[
        int | None, typer.Option(help="The newest N runs of `lab.drive`. Default: 1.")
    ] = None,
    last: Annotated[
        str, typer.Option(help="No run: the window that ends now, such as 15m or 2h.")
    ] = "",
    start: Annotated[
        str, typer.Option(help="No run: the window from here (ISO 8601 with a zone) to --end.")
    ] = "",
    end: Annotated[str, typer.Option(help="The end of the window, with --start.")] = "",
    rate: Annotated[float, typer.Option(help="With --requests: conversations per second.")] = 1.0,
    seed: Annotated[int, typer.Option(help="With --requests: seed of the draw.")] = 11,
    selector: Annotated[str, typer.Option(help="Which series, as a PromQL selector.")] = EVERYTHING,
    traceql: Annotated[
        str, typer.Option(help="Which traces: those with a span that matches.")
    ] = "{}",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a recording of this name.")
    ] = False,
) -> None:
    """Save a window of Prometheus and Tempo, and the runs in it, to data/recorded/NAME.

    The servers are those of the settings: the running lab's, or your own (LAB_PROMETHEUS_URL,
    LAB_TEMPO_URL).
    """
    if sum(x not in (None, "") for x in (requests, newest_runs, last, start)) > 1:
        raise refuse("name only one of them", "--requests, --newest-runs, --last, --start")

    settings = load_settings()
    runs: list[Run] = []
    if requests:
        runs = [drive(settings, n_requests=requests, rate_per_s=rate, seed=seed)]
    elif not (last or start):
        runs = _newest(settings, newest_runs or 1)
    window = window_of(runs) if runs else _window(last, start, end)
    made = save(
        settings,
        name,
        *window,
        runs=runs,
        selector=selector,
        traceql=traceql,
        command=shlex.join(["lab", "record", *(a for a in ctx.obj if a != "--replace")]),
        replace=replace,
    )
    print(made)
    print(f"replay it: LAB_RECORDING={name} lab up --place recorded")


def _newest(settings: Settings, count: int) -> list[Run]:
    folder = settings.state_dir / RUNS
    runs = [run for _, run in runs_in(folder)]
    if len(runs) < count:
        raise SettingsError(
            f"there are not {count} runs to record",
            got=f"{len(runs)} in {folder}",
            fix="drive one (`lab record NAME --requests 80`, or a notebook), "
            "or name a window (--last 15m)",
        )
    return runs[-count:]


def _window(last: str, start: str, end: str) -> tuple[float, float]:
    """Return the window as (start, end) in seconds since the epoch."""
    if last:
        return parse_window(f"last {last}")
    if not end:
        raise SettingsError("a window needs an end", got=f"--start {start}", fix="add --end")
    # An end in the future is waited for, up to a day.
    return parse_window(f"{start}/{end}", now=time.time() + 86_400)


main = as_main(record, "lab record")
