"""`lab run`: stand the stack up, execute the notebooks, keep the logs, write the report, take down what was started."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from lab import stack
from lab.errors import LabError, NotebookError
from lab.runner import facts
from lab.runner.execute import (
    CELL_TIMEOUT_S,
    INTERRUPTED,
    NOT_RUN,
    PASSED,
    NotebookRun,
    run_notebooks,
    title_of,
)
from lab.runner.lifecycle import stack_for, term_as_interrupt, undisturbed
from lab.runner.parameters import share_out
from lab.runner.report import write_report
from lab.runner.show import Show
from lab.settings import REPO, Settings, load_settings

NOTEBOOKS = REPO / "notebooks"
STOPPED = "Interrupted."


def main(argv: list[str]) -> int:
    """Exit status: 0 if every notebook passed, 1 if one did not or the stack did not come up, 130 after Ctrl-C."""
    options = _parser().parse_args(argv)
    settings = load_settings()
    paths = choose(options.notebooks, NOTEBOOKS)
    parameters = parse_parameters(options.parameter)
    share_out(paths, parameters)  # a misspelt name is refused before the stack is stood up for it
    out_dir = _new_folder(options.out)
    with term_as_interrupt():
        return run_session(
            settings,
            paths,
            out_dir,
            parameters,
            cell_timeout_s=options.cell_timeout,
            keep=options.keep,
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
    """Everything after the command line. `keep` leaves the stack up; one that was up before is left up in any case."""
    print(f"results go to {out_dir}", flush=True)
    about = facts.collect(settings)
    runs: list[NotebookRun] = []
    notes: list[str] = []
    began_at = time.time()
    try:
        with Show() as show, stack_for(settings, show, keep=keep):
            limits = {"cell_timeout_s": cell_timeout_s, "progress": show.notebook}
            runs = run_notebooks(paths, out_dir / "notebooks", parameters, settings, **limits)
            notes += _parts_not_ready(settings) if any(run.status != PASSED for run in runs) else []
    except LabError as e:
        notes.append(f"{type(e).__name__}: {e}")
    except KeyboardInterrupt:
        notes.append(STOPPED)
    with undisturbed():
        _keep_logs(settings, out_dir, began_at)
    runs = runs or [NotebookRun(path.stem, title_of(path), NOT_RUN, 0.0) for path in paths]
    report = write_report(out_dir, runs, about, notes)
    return _conclude(runs, notes, report)


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
    (out_dir / "logs").mkdir(parents=True, exist_ok=True)
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
    if STOPPED in notes or any(run.status == INTERRUPTED for run in runs):
        return 130
    return 0 if runs and passed == len(runs) and not notes else 1


def choose(names: list[str], folder: Path) -> list[Path]:
    """Notebooks by path, name or number ("01"), in teaching order; all of them for no names. Raises NotebookError."""
    every = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not names:
        if not every:
            raise NotebookError(
                "there are no notebooks", got=f"no NN_*.ipynb in {folder}", fix="restore notebooks/"
            )
        return every
    chosen = []
    for name in names:
        as_path = Path(name)
        matches = [as_path] if as_path.suffix == ".ipynb" and as_path.is_file() else []
        matches = matches or [
            p for p in every if p.stem == as_path.stem or p.stem.startswith(f"{name}_")
        ]
        if not matches:
            got = f"there are {', '.join(p.stem for p in every) or 'none'}"
            raise NotebookError(
                f"there is no notebook {name!r}", got=got, fix="name one, or its number"
            )
        chosen += matches
    return chosen


def parse_parameters(pairs: list[str]) -> dict[str, Any]:
    """["rate=2.5"] -> {"rate": 2.5}; values as YAML scalars. Raises NotebookError."""
    parameters = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise NotebookError(f"{pair!r} is not a parameter", fix="write -p name=value")
        try:
            parameters[name] = yaml.safe_load(value) if value else ""
        except yaml.YAMLError as e:
            raise NotebookError(
                f"the value of {name} cannot be read", got=repr(value), fix="quote it"
            ) from e
    return parameters


def _new_folder(asked: Path | None) -> Path:
    folder = asked or REPO / "out" / time.strftime("%Y%m%d-%H%M%S")
    if folder.exists() and any(folder.iterdir()):
        raise NotebookError(
            f"{folder} is not empty", fix="name a new folder: results of two runs do not mix"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise NotebookError(
            f"{folder} cannot be made", got=str(e), fix="choose another folder with --out"
        ) from e
    return folder.resolve()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab run",
        description="Stand the stack up, execute the notebooks in order, leave a report, take it down.",
    )
    parser.add_argument("notebooks", nargs="*", help="names, numbers (01) or paths; default: all")
    parser.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--out", type=Path, help="a new folder for the results; default: out/<time>"
    )
    parser.add_argument("--cell-timeout", type=float, default=CELL_TIMEOUT_S, metavar="SECONDS")
    parser.add_argument("--keep", action="store_true", help="leave the stack up afterwards")
    return parser
