"""Execute notebooks with papermill, each in a fresh kernel, also after one has failed.

Their parameters are checked first: papermill only logs a name that a notebook does not have.
"""

from __future__ import annotations

import ast
import difflib
import logging
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from lab.errors import NotebookError
from lab.runner import kernel
from lab.runner.cell_outputs import read_cells
from lab.settings import Settings

PASSED = "passed"
FAILED = "failed"
TIMED_OUT = "timed out"
INTERRUPTED = "interrupted"
NOT_RUN = "not run"
CELL_TIMEOUT_S = 600.0
KERNEL_START_TIMEOUT_S = 120
TRACEBACK_LINES = 30
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class NotebookRun:
    """How one notebook went.

    `cell` counts all cells from 0; `output` is the path of the executed copy, as far as it got.
    """

    name: str
    title: str
    status: str
    duration_s: float
    output: str = ""
    cell: int | None = None
    error: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class Progress:
    """A sign of life: `cell` of `cells` of notebook `index` of `count`; `run` is set at its end."""

    name: str
    index: int
    count: int
    cell: int | None = None
    cells: int = 0
    run: NotebookRun | None = None


def run_notebooks(
    paths: Sequence[Path],
    out_dir: Path,
    parameters: Mapping[str, Any],
    settings: Settings,
    *,
    cell_timeout_s: float = CELL_TIMEOUT_S,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[NotebookRun]:
    """Execute `paths` in order into `out_dir`; returns one NotebookRun each, failed ones included.

    Every notebook gets those of the parameters that it has. After Ctrl-C the rest is `not run`.
    Raises NotebookError, before anything is executed, for a parameter that none has and for a file
    that is not a notebook.
    """
    paths = [Path(p).resolve() for p in paths]
    shares = assign(paths, parameters)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise NotebookError(
            f"{out_dir} cannot be made", got=str(e), fix="choose another folder with --out"
        ) from e

    runs: list[NotebookRun] = []
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        for index, path in enumerate(paths):
            if runs and runs[-1].status in (INTERRUPTED, NOT_RUN):
                runs.append(NotebookRun(path.stem, title_of(path), NOT_RUN, 0.0))
                continue
            log = out_dir / f"{path.stem}.kernel.log"
            manager = kernel.manager_class(kernel.environment(settings), Path(folder), log)
            position = _Position(Progress(path.stem, index, len(paths)), progress)
            runs.append(_run_one(path, out_dir, shares[path], cell_timeout_s, position, manager))
            position.move(run=runs[-1])
            if log.exists() and not log.stat().st_size:
                log.unlink()
    return runs


def _run_one(
    path: Path,
    out_dir: Path,
    parameters: dict[str, Any],
    cell_timeout_s: float,
    position: _Position,
    manager: type,
) -> NotebookRun:
    output = out_dir / path.name
    started = time.monotonic()
    outcome: dict[str, Any] = {"status": PASSED}
    try:
        papermill.execute_notebook(
            path,
            output,
            parameters=parameters,
            engine_name=_Engine.NAME,
            kernel_name=kernel.NAME,
            language="python",
            progress_bar=False,
            cwd=path.parent,
            start_timeout=KERNEL_START_TIMEOUT_S,
            execution_timeout=cell_timeout_s,
            kernel_manager_class=manager,
            position=position,
        )
    except KeyboardInterrupt:
        outcome = {"status": INTERRUPTED, "error": "interrupted", "cell": position.now.cell}
    except Exception as e:  # of any kind: the other notebooks are still tried
        outcome = _outcome_of(e, cell_timeout_s, position.now.cell)

    return NotebookRun(
        path.stem,
        title_of(path),
        duration_s=time.monotonic() - started,
        output=str(output) if output.exists() else "",
        **outcome,
    )


def _outcome_of(error: Exception, cell_timeout_s: float, cell: int | None) -> dict[str, Any]:
    """Return the fields of a NotebookRun that ended with this error."""
    if isinstance(error, PapermillExecutionError):
        lines = _ANSI.sub("", "\n".join(error.traceback)).splitlines()
        return {
            "status": FAILED,
            "error": _ANSI.sub("", f"{error.ename}: {error.evalue}"),
            "traceback": "\n".join(lines[-TRACEBACK_LINES:]),
            "cell": error.cell_index,
        }
    if isinstance(error, CellTimeoutError):
        reason = f"the cell ran longer than {cell_timeout_s:.0f} s"
        return {"status": TIMED_OUT, "error": reason, "cell": cell}

    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, DeadKernelError):
        reason = f"the kernel died: {error}"
    return {"status": FAILED, "error": reason, "cell": cell}


def title_of(path: Path) -> str:
    """Return the first heading of a notebook, else its file's name."""
    for cell in read_cells(path):
        heading = re.search(r"^# (.+)$", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown" and heading:
            return heading[1].strip()
    return path.stem


class _Position:
    """How far a notebook is, reported when it changes."""

    def __init__(self, now: Progress, report: Callable[[Progress], None]) -> None:
        self.now = now
        self._report = report

    def move(self, **changes: Any) -> None:
        """Report that a cell begins, or that the notebook has ended."""
        self.now = replace(self.now, **changes)
        self._report(self.now)


class _Engine(NBClientEngine):
    """papermill's own engine, which also reports when a cell begins."""

    NAME = "lab"

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, *, position: _Position, **kwargs: Any
    ) -> Any:
        cell_start = nb_man.cell_start

        def reporting(cell: Any, cell_index: int | None = None, **kw: Any) -> Any:
            position.move(cell=cell_index or 0, cells=len(nb_man.nb.cells))
            return cell_start(cell, cell_index, **kw)

        nb_man.cell_start = reporting
        return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


# In this process only; the name is the lab's own.
papermill_engines.register(_Engine.NAME, _Engine)


TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
}


def parameters_of(notebook: Path) -> dict[str, dict[str, Any]]:
    """Return {name: {inferred_type_name, default, help}} of a notebook's parameters cell.

    Raises NotebookError for a file that is not a notebook.
    """
    # papermill warns of every notebook without such a cell; `assign` reports it where it matters.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        return dict(papermill.inspect_notebook(notebook))
    except Exception as e:  # papermill, nbformat and json raise without a common base
        raise NotebookError(
            f"{notebook.name} cannot be read as a notebook",
            got=f"{type(e).__name__}: {e}",
            fix=f"restore {notebook}, or save it in JupyterLab, which adds what is missing",
        ) from e


def assign(notebooks: list[Path], given: Mapping[str, Any]) -> dict[Path, dict[str, Any]]:
    """Return for each notebook those of the given parameters that it has.

    Raises NotebookError for a name that none of them has (with similar names), for a value of
    another type than the parameter's default, and for a window with a notebook that takes none: it
    would start the lab and analyse something else.
    """
    known = {path: parameters_of(path) for path in notebooks}
    _check_names(given, known)

    shares: dict[Path, dict[str, Any]] = {}
    for path, parameters in known.items():
        shares[path] = {name: value for name, value in given.items() if name in parameters}
        for name, value in shares[path].items():
            _check_type(path, name, value, parameters[name])
    return shares


def _check_names(given: Mapping[str, Any], known: dict[Path, dict[str, Any]]) -> None:
    for path, parameters in known.items():
        if "window" in given and "window" not in parameters:
            raise NotebookError(
                f"{path.name} takes no window: it sends its own requests",
                got=f"window={given['window']}",
                fix="use notebook 09 (lab run 09 -p window=...), or `lab investigate WINDOW`",
            )

    names = {name for parameters in known.values() for name in parameters}
    for name in given:
        if name not in names:
            raise _unknown(name, list(known), names)


def _unknown(name: str, notebooks: list[Path], names: set[str]) -> NotebookError:
    similar = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    which = notebooks[0].name if len(notebooks) == 1 else f"any of the {len(notebooks)} notebooks"
    return NotebookError(
        f"{name!r} is not a parameter of {which}",
        got=f"the parameters are {', '.join(sorted(names)) or 'none'}",
        fix=f"did you mean {' or '.join(similar)}?" if similar else "use one of those names",
    )


def _check_type(path: Path, name: str, value: Any, parameter: dict[str, Any]) -> None:
    default = parameter["default"]
    allowed = TYPES.get(parameter["inferred_type_name"]) or TYPES.get(_type_of(default))
    if allowed is None:
        return

    # A bool is an int for Python, but not for a reader of the notebook.
    fits = isinstance(value, allowed) and (allowed == (bool,) or not isinstance(value, bool))
    if not fits:
        raise NotebookError(
            f"parameter {name} of {path.name} cannot be {value!r}",
            got=f"its default is {default}, so it takes a {allowed[-1].__name__}",
            fix=f"give a value like {default}",
        )


def _type_of(default: str) -> str:
    try:
        return type(ast.literal_eval(default)).__name__
    except (ValueError, SyntaxError):
        return ""
