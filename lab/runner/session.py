"""`lab run`: stand the stack up, execute the notebooks, write the report, take the stack down."""

import contextlib
import itertools
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from lab import stack
from lab.command_line import as_main, term_as_interrupt
from lab.errors import LabError, NotebookError
from lab.runner import facts
from lab.runner.execute import (
    CELL_TIMEOUT_S,
    INTERRUPTED,
    NOT_RUN,
    PASSED,
    NotebookRun,
    assign,
    run_notebooks,
    title_of,
)
from lab.runner.report import write_report
from lab.runner.show import Show
from lab.settings import REPO, Settings, load_settings, settings_files

NOTEBOOKS = REPO / "notebooks"
STOPPED = "Interrupted."
REASON_LINES = 6  # of a failure's reason on the terminal; the report has all of it


def run_command(
    notebooks: Annotated[
        list[str] | None, typer.Argument(help="Names, numbers (01) or paths. Default: all.")
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            metavar="NAME=VALUE",
            help="Set a parameter in every notebook that has it; repeat for more.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A new folder for the results. Default: out/<time>.")
    ] = None,
    cell_timeout: Annotated[
        float, typer.Option(help="Seconds after which a cell counts as hanging.")
    ] = CELL_TIMEOUT_S,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up afterwards.")] = False,
) -> int:
    """Stand the stack up, execute the notebooks in order, write a report, take the stack down."""
    settings = load_settings()
    paths = choose(notebooks or [], NOTEBOOKS)
    parameters = parse_parameters(parameter or [])
    assign(paths, parameters)  # a misspelt name is refused before the stack is stood up for it
    out_dir = _new_folder(out)
    for path in settings_files():
        print(f"settings from {path}", flush=True)
    with term_as_interrupt():
        return run_session(
            settings, paths, out_dir, parameters, cell_timeout_s=cell_timeout, keep=keep
        )


def run_session(
    settings: Settings,
    paths: list[Path],
    out_dir: Path,
    parameters: dict[str, Any],
    *,
    cell_timeout_s: float = CELL_TIMEOUT_S,
    keep: bool = False,
) -> int:
    """Do everything after the command line. Returns the exit status.

    `keep` leaves the stack up; one that was up before stays up in any case. With a parameter
    `window` nothing is started.
    """
    print(f"results go to {out_dir}", flush=True)
    about = facts.collect(settings)
    runs: list[NotebookRun] = []
    notes: list[str] = []
    began_at = time.time()
    try:
        stack_is_needed = not parameters.get("window")  # a window is of telemetry that is there
        with Show() as show, contextlib.ExitStack() as context:
            if stack_is_needed:
                context.enter_context(stack_for(settings, show, keep=keep))
            runs = run_notebooks(
                paths,
                out_dir / "notebooks",
                parameters,
                settings,
                cell_timeout_s=cell_timeout_s,
                progress=show.notebook,
            )
            if stack_is_needed and any(run.status != PASSED for run in runs):
                notes += _parts_not_ready(settings)
    except LabError as e:
        notes.append(f"{type(e).__name__}: {e}")
    except KeyboardInterrupt:
        notes.append(STOPPED)

    with ignore_interrupts():
        _keep_logs(settings, out_dir, began_at)
    runs = runs or [NotebookRun(path.stem, title_of(path), NOT_RUN, 0.0) for path in paths]
    report = write_report(out_dir, runs, about, notes)
    return _conclude(runs, notes, report)


@contextlib.contextmanager
def stack_for(settings: Settings, show: Show, *, keep: bool = False) -> Iterator[None]:
    """Keep the stack up while the block runs, and leave it as it was before.

    One that was up already stays up; on a cluster there is nothing to start; `keep` leaves it up.
    Raises as lab.stack.up does.
    """
    if settings.place == "cluster" or is_up(settings):
        yield
        return

    try:
        # "all": the embedding server comes up beside the agent's parts, and would disturb the
        # first measurements.
        stack.up(settings, show.part, wait_for="all")
        yield
    finally:
        if not keep:
            with ignore_interrupts():
                stack.down(settings, show.part)


def is_up(settings: Settings) -> bool:
    """Return whether every part that an agent request needs is ready."""
    parts = stack.status(settings)
    return bool(parts) and all(p.ready for p in parts if p.essential)


@contextlib.contextmanager
def ignore_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM: a second, impatient one must not leave the stack running."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parts_not_ready(settings: Settings) -> list[str]:
    """Return a note per part that is not ready, with the log to read."""
    try:
        parts = stack.status(settings)
    except LabError as e:
        return [f"{type(e).__name__}: {e}"]
    return [
        f"{p.name} is {p.state}: {p.error or 'no error was recorded'}; read logs/{Path(p.log).name}"
        for p in parts
        if p.essential and not p.ready
    ]


def _keep_logs(settings: Settings, out_dir: Path, began_at: float) -> None:
    """Copy the parts' logs, but not those that an earlier lab left in the same folder."""
    (out_dir / "logs").mkdir(parents=True, exist_ok=True)
    for log in (settings.state_dir / "logs").glob("*"):
        if log.is_file() and log.stat().st_mtime >= began_at:
            shutil.copy2(log, out_dir / "logs" / log.name)


def _conclude(runs: list[NotebookRun], notes: list[str], report: Path) -> int:
    """Print how each notebook ended, why it failed, and where the report is."""
    for run in runs:
        print(f"{run.status:<12}{run.duration_s:7.1f} s  {run.name}")
        for line in _reason(run):
            print(f"{'':14}{line}")
    for note in notes:
        print(note, file=sys.stderr)

    passed = sum(run.status == PASSED for run in runs)
    print(f"{passed} of {len(runs)} notebooks passed; report: {report}", flush=True)
    if STOPPED in notes or any(run.status == INTERRUPTED for run in runs):
        return 130
    return 0 if runs and passed == len(runs) and not notes else 1


def _reason(run: NotebookRun) -> list[str]:
    """Return the first lines on why a notebook failed."""
    if not run.error or run.status == INTERRUPTED:
        return []
    where = f"cell {run.cell + 1}: " if run.cell is not None else ""
    lines = f"{where}{run.error}".splitlines()
    return lines if len(lines) <= REASON_LINES else [*lines[:REASON_LINES], "..."]


def choose(names: list[str], folder: Path) -> list[Path]:
    """Return notebooks by path, name or number ("01"), in teaching order; all without names.

    Raises NotebookError for a name that no notebook has.
    """
    every = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not names and not every:
        raise NotebookError(
            "there are no notebooks", got=f"no NN_*.ipynb in {folder}", fix="restore notebooks/"
        )
    return [path for name in names for path in _matching(name, every)] or every


def _matching(name: str, every: list[Path]) -> list[Path]:
    path = Path(name)
    if path.suffix == ".ipynb" and path.is_file():
        return [path]

    matches = [p for p in every if p.stem == path.stem or p.stem.startswith(f"{name}_")]
    if not matches:
        got = f"there are {', '.join(p.stem for p in every) or 'none'}"
        raise NotebookError(
            f"there is no notebook {name!r}", got=got, fix="use one of these names, or its number"
        )
    return matches


def parse_parameters(pairs: list[str]) -> dict[str, Any]:
    """Return {"rate": 2.5} for ["rate=2.5"]; values are YAML scalars, but times stay texts.

    Raises NotebookError for a pair that cannot be read.
    """
    parameters = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise NotebookError(f"{pair!r} is not a parameter", fix="write -p name=value")
        try:
            read = yaml.safe_load(value) if value else ""
            parameters[name] = value if isinstance(read, date) else read
        except yaml.YAMLError as e:
            raise NotebookError(
                f"the value of {name} cannot be read", got=repr(value), fix="quote it"
            ) from e
    return parameters


def _new_folder(requested: Path | None) -> Path:
    """Make the folder of this run; no two runs share one, even if they begin in the same second."""
    if requested and requested.exists() and any(requested.iterdir()):
        raise NotebookError(
            f"{requested} is not empty", fix="name a new folder: results of two runs do not mix"
        )
    try:
        if requested:
            requested.mkdir(parents=True, exist_ok=True)
            return requested.resolve()
        return _make_unique(REPO / "out", time.strftime("%Y%m%d-%H%M%S"))
    except OSError as e:
        folder = requested or REPO / "out"
        raise NotebookError(
            f"{folder} cannot be made", got=str(e), fix="choose another folder with --out"
        ) from e


def _make_unique(parent: Path, name: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    numbers = itertools.count(2)
    folder = parent / name
    while True:
        try:
            folder.mkdir()
            return folder.resolve()
        except FileExistsError:
            folder = parent / f"{name}-{next(numbers)}"


main = as_main(run_command, "lab run")
