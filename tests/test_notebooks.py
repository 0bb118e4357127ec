"""Every notebook follows the rules, is in the README, and passes against the real stack."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from lab.exercises import EXERCISES
from lab.runner.execute import PASSED, run_notebooks
from lab.runner.parameters import assign
from scripts import readme_table
from scripts.notebook_rules import exercises_in, problems
from tests.solutions import SOLUTIONS, not_right, solved

REPO = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))

# Notebook -> parameters of a smaller workload, where it would otherwise take minutes.
SMALLER: dict[str, dict[str, object]] = {
    "04_explain_latency": {"requests": 16, "calls": 60, "probe_prompts": 8},
    "05_find_capacity": {
        "max_users": 16,
        "rounds": 2,
        "level_s": 1.5,
        "step_s": 4.0,
        "min_requests": 60,
    },
    "06_count_the_cost": {"n_requests": 20, "users": 2, "think_s": 0.2, "leavers": 8},
    "08_watch_the_processor": {"n_requests": 20},
    "07_judge_tool_use": {"requests": 40, "busy_users": 8},
}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def test_there_are_notebooks() -> None:
    """A folder that was moved must not pass for a folder without faults."""
    assert NOTEBOOKS
    assert set(SMALLER) <= {p.stem for p in NOTEBOOKS}


@every_notebook
def test_rules(path: Path) -> None:
    """No trace of a run, the common opening and closing, one cell of typed, commented scalars."""
    assert problems(path) == []


@every_notebook
def test_parameters_are_known(path: Path) -> None:
    """What the tests override exists in the notebook: papermill would silently ignore it otherwise."""
    assign([path], SMALLER.get(path.stem, {}))


def test_readme_lists_them() -> None:
    """The README's table is what scripts/readme_table.py makes of the notebooks' first cells."""
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


@pytest.mark.timeout(1200)
@every_notebook
def test_runs_alone_against_the_real_stack(path: Path, tmp_path: Path, live_lab) -> None:
    """From a fresh kernel, by papermill, on live telemetry, without another notebook having run.

    With the reference solutions filled in, every exercise's check must say that they are right.
    """
    copy = solved(path, tmp_path)
    run = run_notebooks([copy], tmp_path / "out", SMALLER.get(path.stem, {}), live_lab)[0]
    assert run.status == PASSED, f"cell {run.cell}: {run.error}\n{run.traceback}"
    assert not_right(Path(run.output)) == {}


@pytest.mark.timeout(600)
def test_every_kind_of_question_can_be_followed(tmp_path: Path, live_lab) -> None:
    """A follow-up is two requests; the notebook looks at the last one, whose phases add up."""
    path = next(p for p in NOTEBOOKS if p.stem == "01_follow_one_request")
    copy = solved(path, tmp_path)
    run = run_notebooks([copy], tmp_path / "out", {"kind": "follow_up"}, live_lab)[0]
    assert run.status == PASSED, f"cell {run.cell}: {run.error}\n{run.traceback}"
    assert not_right(Path(run.output)) == {}
