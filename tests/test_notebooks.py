"""Every notebook follows the rules and is in the README (tests/live runs them)."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from lab.exercises import EXERCISES
from lab.runner.execute import assign
from scripts import readme_table
from scripts.notebook_rules import exercises_in, problems
from tests.live.test_notebooks import NOTEBOOKS, SMALLER
from tests.solutions import SOLUTIONS

REPO = Path(__file__).resolve().parents[1]

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def test_there_are_notebooks() -> None:
    """An empty or moved folder must not pass."""
    assert NOTEBOOKS
    assert set(SMALLER) <= {p.stem for p in NOTEBOOKS}


@every_notebook
def test_a_notebook_follows_the_rules(path: Path) -> None:
    """There are no problems: no outputs, common opening and closing, valid parameters."""
    assert problems(path) == []


@every_notebook
def test_overridden_parameters_exist(path: Path) -> None:
    """Every parameter that the tests override exists, as papermill would ignore others."""
    assign([path], SMALLER.get(path.stem, {}))


def test_the_readme_lists_the_notebooks() -> None:
    """The README's table is the one that scripts/readme_table.py generates."""
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    assert readme_table.with_table(readme, readme_table.table()) == readme, (
        "run `python -m scripts.readme_table`"
    )


@every_notebook
def test_exercises_do_not_show_their_answers(path: Path) -> None:
    """Every exercise has a solution in the tests, and the notebook does not contain it."""
    cells = nbformat.read(path, as_version=4).cells
    exercises = exercises_in(cells)
    text = "\n".join(cell.source for cell in cells)
    assert exercises and set(exercises) <= set(SOLUTIONS)
    assert set(exercises) == {name for name in EXERCISES if name[:2] == path.name[:2]}
    for name in exercises:
        assert SOLUTIONS[name] not in text
    assert "assert lab.check" not in text
