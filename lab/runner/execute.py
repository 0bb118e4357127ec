"""Execute notebooks with papermill, each in a fresh kernel; all are tried, whatever happens to one."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from lab.errors import NotebookError
from lab.runner import kernel
from lab.runner.parameters import assign
from lab.settings import Settings

PASSED, FAILED, TIMED_OUT, INTERRUPTED, NOT_RUN = (
    "passed",
    "failed",
    "timed out",
    "interrupted",
    "not run",
)
CELL_TIMEOUT_S = 600.0
KERNEL_START_TIMEOUT_S = 120
TRACEBACK_LINES = 30
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class NotebookRun:
    """How one notebook went. `cell` counts all cells from 0; `output` is the executed copy, as far as it got."""

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
    """A sign of life: `cell` of `cells` of notebook `index` of `count` is being run; `run` is set when it has ended."""

    name: str
    index: int
    count: int
    cell: int
    cells: int
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
    """Execute `paths` in order into `out_dir`; one NotebookRun each, also for those that failed.

    A parameter goes to every notebook that has it. Raises NotebookError, before anything is executed, for a parameter
    that none has and for a file that is no notebook. After Ctrl-C the rest is `not run`.
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
    with kernel.own_folders() as folder:
        for index, path in enumerate(paths):
            if runs and runs[-1].status in (INTERRUPTED, NOT_RUN):
                runs.append(NotebookRun(path.stem, title_of(path), NOT_RUN, 0.0))
                continue
            log = out_dir / f"{path.stem}.kernel.log"
            manager = kernel.manager_class(kernel.environment(settings), folder, log)
            tell = _Teller(path.stem, index, len(paths), progress)
            runs.append(_run_one(path, out_dir, shares[path], cell_timeout_s, tell, manager))
            tell.ended(runs[-1])
            if log.exists() and not log.stat().st_size:
                log.unlink()
    return runs


def _run_one(
    path: Path,
    out_dir: Path,
    parameters: dict[str, Any],
    cell_timeout_s: float,
    tell: _Teller,
    manager: type,
) -> NotebookRun:
    output, started = out_dir / path.name, time.monotonic()
    outcome: dict[str, Any] = {"status": PASSED}
    here = os.getcwd()
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
            tell=tell,
        )
    except KeyboardInterrupt:
        outcome = {"status": INTERRUPTED, "error": "interrupted", "cell": tell.cell}
    except PapermillExecutionError as e:
        outcome = _failed_cell(e)
    except CellTimeoutError:
        said = f"the cell ran longer than {cell_timeout_s:.0f} s"
        outcome = {"status": TIMED_OUT, "error": said, "cell": tell.cell}
    except DeadKernelError as e:
        outcome = {"status": FAILED, "error": f"the kernel died: {e}", "cell": tell.cell}
    except (
        Exception
    ) as e:  # whatever it was, the other notebooks are still tried, and the report says it
        outcome = {"status": FAILED, "error": f"{type(e).__name__}: {e}", "cell": tell.cell}
    finally:
        os.chdir(here)
    saved = str(output) if output.exists() else ""
    return NotebookRun(
        path.stem, title_of(path), duration_s=time.monotonic() - started, output=saved, **outcome
    )


def _failed_cell(e: PapermillExecutionError) -> dict[str, Any]:
    lines = _ANSI.sub("", "\n".join(e.traceback)).splitlines()
    return {
        "status": FAILED,
        "error": _ANSI.sub("", f"{e.ename}: {e.evalue}"),
        "traceback": "\n".join(lines[-TRACEBACK_LINES:]),
        "cell": e.cell_index,
    }


def title_of(path: Path) -> str:
    """The first heading of a notebook, else its file's name."""
    with contextlib.suppress(Exception):
        for cell in nbformat.read(path, as_version=4).cells:
            match = (
                re.search(r"^# (.+)$", cell.source, re.MULTILINE)
                if cell.cell_type == "markdown"
                else None
            )
            if match:
                return match.group(1).strip()
    return path.stem


class _Teller:
    """Knows which cell is being run, and tells."""

    def __init__(
        self, name: str, index: int, count: int, progress: Callable[[Progress], None]
    ) -> None:
        self._name, self._index, self._count, self._progress = name, index, count, progress
        self.cell: int | None = None
        self._cells = 0

    def started_cell(self, cell: int, cells: int) -> None:
        self.cell, self._cells = cell, cells
        self._progress(Progress(self._name, self._index, self._count, cell, cells))

    def ended(self, run: NotebookRun) -> None:
        self._progress(
            Progress(self._name, self._index, self._count, self._cells, self._cells, run)
        )


class _Engine(NBClientEngine):
    """papermill's own engine, which also says when a cell begins."""

    NAME = "lab"

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, *, tell: _Teller, **kwargs: Any
    ) -> Any:
        cell_start = nb_man.cell_start

        def told(cell: Any, cell_index: int | None = None, **kw: Any) -> Any:
            tell.started_cell(cell_index or 0, len(nb_man.nb.cells))
            return cell_start(cell, cell_index, **kw)

        nb_man.cell_start = told
        return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


# In this process only, and without effect on anybody else's notebooks: the name is ours.
papermill_engines.register(_Engine.NAME, _Engine)
