"""Every notebook passes against the real stack, alone and with its exercises solved."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.runner.execute import PASSED, run_notebooks
from tests.solutions import not_right, solved

REPO = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))

# {notebook: parameters of a smaller workload}, for notebooks that would take minutes.
SMALLER: dict[str, dict[str, object]] = {
    "02_drive_a_workload": {"requests": 30},
    "03_first_look": {"requests": 40},
    "04_explain_latency": {"requests": 16, "calls": 60, "probe_prompts": 8},
    "05_find_capacity": {
        "max_users": 16,
        "rounds": 2,
        "level_s": 1.5,
        "step_s": 4.0,
        "min_requests": 60,
    },
    "06_count_the_cost": {"n_requests": 20, "users": 2, "think_s": 0.2, "leavers": 8},
    "09_investigate": {"calm_s": 16.0, "incident_s": 20.0, "strength": 1.0},
    "10_diagnose_an_incident": {
        "incident": "slow_tool",
        "calm_s": 16.0,
        "incident_s": 20.0,
    },
    "08_watch_the_processor": {"n_requests": 20},
    "07_judge_tool_use": {"requests": 40, "busy_users": 8},
}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_passes_alone_against_the_real_stack(
    path: Path, tmp_path: Path, live_lab
) -> None:
    """A notebook passes in a fresh kernel on live telemetry without any other notebook.

    With the reference solutions filled in, the check of every exercise says right.
    """
    copy = solved(path, tmp_path)
    run = run_notebooks([copy], tmp_path / "out", SMALLER.get(path.stem, {}), live_lab)[0]
    assert run.status == PASSED, f"cell {run.cell}: {run.error}\n{run.traceback}"
    assert not_right(Path(run.output)) == {}


@pytest.mark.timeout(600)
def test_every_kind_of_question_can_be_followed(tmp_path: Path, live_lab) -> None:
    """For a follow-up, which is two requests, the notebook shows the last one."""
    path = next(p for p in NOTEBOOKS if p.stem == "01_follow_one_request")
    copy = solved(path, tmp_path)
    run = run_notebooks([copy], tmp_path / "out", {"kind": "follow_up"}, live_lab)[0]
    assert run.status == PASSED, f"cell {run.cell}: {run.error}\n{run.traceback}"
    assert not_right(Path(run.output)) == {}


@pytest.mark.timeout(600)
def test_a_question_that_the_model_cannot_handle_is_explained(tmp_path: Path, live_lab) -> None:
    """A question that is longer than the model's context cannot be answered, whatever it says."""
    path = next(p for p in NOTEBOOKS if p.stem == "00_stand_up_the_lab")
    question = "Is node r87-n53 up? " * 1_000
    run = run_notebooks([path], tmp_path / "out", {"question": question}, live_lab)[0]
    assert run.status != PASSED
    assert "the agent could not answer this question" in run.error
