"""`lab run`: stand the stack up, execute the notebooks, keep the logs, write the report, take down what was started."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lab import stack
from lab.errors import LabError, NotebookError
from lab.runner import facts
from lab.runner.execute import CELL_TIMEOUT_S, INTERRUPTED, PASSED, NotebookRun, run_notebooks
from lab.runner.parameters import share_out
from lab.runner.report import write_report
from lab.runner.show import Show
from lab.settings import REPO, Settings, load_settings

NOTEBOOKS = REPO / "notebooks"


def main(argv: list[str]) -> int:
    """Exit status: 0 if every notebook passed, 1 if one did not or the stack did not come up, 130 after Ctrl-C."""
    options = _parser().parse_args(argv)
    settings = load_settings()
    paths = choose(options.notebooks, NOTEBOOKS)
    parameters = parse_parameters(options.parameter)
    share_out(paths, parameters)  # a misspelt name is refused before the stack is stood up for it
    out_dir = _new_folder(options.out)
    with _term_as_interrupt():
        return run_session(settings, paths, out_dir, parameters, cell_timeout_s=options.cell_timeout, keep=options.keep)


def run_session(
    settings: Settings,
    paths: list[Path],
    out_dir: Path,
    parameters: dict[str, Any],
    *,
    cell_timeout_s: float = CELL_TIMEOUT_S,
    keep: bool = False,
) -> int:
    """Everything after the command line. `keep` leaves the stack up; one that was up before is left up in any case."""
    print(f"results go to {out_dir}", flush=True)
    about = facts.collect(settings)
    runs: list[NotebookRun] = []
    notes: list[str] = []
    started, began_at = False, time.time()
    try:
        with Show() as show:
            started = _stand_up(settings, show)
            limits = {"cell_timeout_s": cell_timeout_s, "progress": show.notebook}
            runs = run_notebooks(paths, out_dir / "notebooks", parameters, settings, **limits)
    except LabError as e:
        notes.append(f"{type(e).__name__}: {e}")
        # What was begun and did not come up is ours to take down, too.
        started = True if settings.place == "local" and not _is_up(settings) else started
    except KeyboardInterrupt:
        notes.append("Interrupted.")
        started = True if settings.place == "local" else started
    finally:
        with _undisturbed():
            notes += _parts_not_ready(settings) if any(run.status != PASSED for run in runs) else []
            _keep_logs(settings, out_dir, began_at)
            if started and not keep:
                stack.down(settings)
    report = write_report(out_dir, runs, about, notes)
    return _conclude(runs, notes, report)


def _stand_up(settings: Settings, show: Show) -> bool:
    """True if it was started here. On a cluster, or with recorded data, there is nothing to start."""
    if settings.place != "local" or _is_up(settings):
        return False
    # "all": the embedding server comes up beside the agent's parts, and its start would disturb the first measurements.
    stack.up(settings, show.part, wait_for="all")
    return True


def _is_up(settings: Settings) -> bool:
    parts = stack.status(settings)
    return bool(parts) and all(p.ready for p in parts if p.essential)


def _parts_not_ready(settings: Settings) -> list[str]:
    """When a notebook failed: the parts that are not well, and the log to read."""
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
    (out_dir / "logs").mkdir(exist_ok=True)
    for log in (settings.state_dir / "logs").glob("*"):
        if log.is_file() and log.stat().st_mtime >= began_at:
            shutil.copy2(log, out_dir / "logs" / log.name)


def _conclude(runs: list[NotebookRun], notes: list[str], report: Path) -> int:
    for run in runs:
        print(f"{run.status:<12}{run.duration_s:7.1f} s  {run.name}")
    for note in notes:
        print(note, file=sys.stderr)
    passed = sum(run.status == PASSED for run in runs)
    print(f"{passed} of {len(runs)} notebooks passed; report: {report}", flush=True)
    if "Interrupted." in notes or any(run.status == INTERRUPTED for run in runs):
        return 130
    return 0 if runs and passed == len(runs) and not notes else 1


def choose(names: list[str], folder: Path) -> list[Path]:
    """Notebooks by path, name or number ("01"), in teaching order; all of them for no names. Raises NotebookError."""
    every = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not names:
        if not every:
            raise NotebookError("there are no notebooks", had=f"no NN_*.ipynb in {folder}", do="restore notebooks/")
        return every
    chosen = []
    for name in names:
        as_path = Path(name)
        matches = [as_path] if as_path.suffix == ".ipynb" and as_path.is_file() else []
        matches = matches or [p for p in every if p.stem == as_path.stem or p.stem.startswith(f"{name}_")]
        if not matches:
            had = f"there are {', '.join(p.stem for p in every) or 'none'}"
            raise NotebookError(f"there is no notebook {name!r}", had=had, do="name one, or its number")
        chosen += matches
    return chosen


def parse_parameters(pairs: list[str]) -> dict[str, Any]:
    """["rate=2.5"] -> {"rate": 2.5}; values as YAML scalars. Raises NotebookError."""
    parameters = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise NotebookError(f"{pair!r} is not a parameter", do="write -p name=value")
        try:
            parameters[name] = yaml.safe_load(value) if value else ""
        except yaml.YAMLError as e:
            raise NotebookError(f"the value of {name} cannot be read", had=repr(value), do="quote it") from e
    return parameters


def _new_folder(asked: Path | None) -> Path:
    folder = asked or REPO / "out" / time.strftime("%Y%m%d-%H%M%S")
    if folder.exists() and any(folder.iterdir()):
        raise NotebookError(f"{folder} is not empty", do="name a new folder: results of two runs do not mix")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise NotebookError(f"{folder} cannot be made", had=str(e), do="choose another folder with --out") from e
    return folder.resolve()


@contextlib.contextmanager
def _term_as_interrupt() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: with its report, and the stack taken down."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second, impatient Ctrl-C must not leave the stack running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab run", description="Stand the stack up, execute the notebooks in order, leave a report, take it down."
    )
    parser.add_argument("notebooks", nargs="*", help="names, numbers (01) or paths; default: all")
    parser.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path, help="a new folder for the results; default: out/<time>")
    parser.add_argument("--cell-timeout", type=float, default=CELL_TIMEOUT_S, metavar="SECONDS")
    parser.add_argument("--keep", action="store_true", help="leave the stack up afterwards")
    return parser
