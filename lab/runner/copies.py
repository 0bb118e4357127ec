"""The attendee's own copies of the notebooks, so that the repository stays clean.

`make lab` opens `work/`, which git ignores. A copy is made once and never overwritten; `lab reset
notebooks` sets it aside and makes a new one. `lab run` and the tests use `notebooks/`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from lab.errors import NotebookError
from lab.runner.session import NOTEBOOKS, choose
from lab.settings import REPO

WORK = REPO / "work"


def make_copies(source: Path = NOTEBOOKS, folder: Path = WORK) -> list[Path]:
    """Copy the notebooks that `folder` does not have yet, and return the new files.

    Raises NotebookError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        missing = [path for path in choose([], source) if not (folder / path.name).exists()]
        return [Path(shutil.copyfile(path, folder / path.name)) for path in missing]
    except OSError as e:
        raise NotebookError(
            f"the notebooks cannot be copied to {folder}",
            got=str(e),
            fix="free some space, or give yourself write access to the checkout",
        ) from e


def reset(names: Sequence[str], source: Path = NOTEBOOKS, folder: Path = WORK) -> Path | None:
    """Replace the copies of these notebooks (all without names) by clean ones.

    Returns the folder with the old ones, None where there was none. Raises NotebookError for a name
    that no notebook has, and as `make_copies` does.
    """
    before = [folder / path.name for path in choose(list(names), source)]
    before = [path for path in before if path.exists()]
    aside = folder / time.strftime("before-%Y%m%d-%H%M%S")
    if before:
        aside.mkdir(exist_ok=True)
    for path in before:
        path.rename(aside / path.name)
    make_copies(source, folder)
    return aside if before else None
