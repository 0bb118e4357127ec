"""An exercise's check explains wrong answers and never stops a notebook."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lab.errors import LabError
from lab.exercises import EXERCISES, SHARE, Exercise, Prediction, check, score


@pytest.fixture(autouse=True)
def exercises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace the exercises by some whose right answer is the data itself."""
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path / "state"))
    for name, unit in (("value", ""), ("share", SHARE), ("ms", "milliseconds")):
        monkeypatch.setitem(EXERCISES, name, Exercise(lambda data: data, "look again", unit))
    for name, unit in (("guess", "ms"), ("guess-share", SHARE)):
        monkeypatch.setitem(EXERCISES, name, Prediction(lambda data: data, "guess", unit))


def test_not_answered_is_not_wrong() -> None:
    """An untouched exercise does not stop the notebook."""
    feedback = check("value", ..., 3)
    assert feedback.right is None and repr(feedback).startswith("Not answered")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (3, 3),
        (0.101, 0.1),
        (" Decode ", "decode"),
        (np.int64(3), 3),
        (np.float32(0.1), 0.1),
        (3, np.int64(3)),
        (pd.Series([3]), 3),
        (np.array([0.1]), 0.1),
        (3.0, 3),
        (np.str_("decode"), "decode"),
        (0, 0),
    ],
)
def test_right_answers(answer: object, expected: object) -> None:
    """Numbers have a tolerance, text ignores case and spaces, and numpy scalars are accepted."""
    feedback = check("value", answer, expected)
    assert feedback.right is True and repr(feedback) == "Right."


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        (4, 3, "4 is not what this run shows"),
        (0.11, 0.1, "0.11 is not what this run shows"),
        ("prefill", "queue", "'prefill' is not what"),
        ("decode", "decode_s", "write the whole name"),
        (True, 1, "this is a bool"),
        ("3", 3, "without quotes"),
        ("one", 1, "without quotes"),
        (["open_ticket"], "open_ticket", "this is a list; the answer is a single name"),
        (pd.Series([1, 2]), 1, "this is a Series; the answer is a single number"),
        (np.array([1, 2]), 1, "this is a ndarray"),
        (None, 1, "this is a NoneType"),
        (3, "decode", "a text in quotes"),
        (float("nan"), 3, "nan is not what this run shows"),
    ],
)
def test_wrong_answers_get_the_hint_not_the_solution(
    answer: object, expected: object, words: str
) -> None:
    """The message has the kind of mistake and the hint, and not the right answer."""
    feedback = check("value", answer, expected)
    assert feedback.right is False
    assert words in feedback.message and "look again" in feedback.message


def test_a_percentage_is_not_a_wrong_share() -> None:
    """5.6 for 0.056 is recognised, but another wrong share is not called a percentage."""
    assert "is a percentage" in check("share", 5.6, 0.056).message
    assert "percentage" not in check("share", 7.0, 0.056).message
    assert "percentage" not in check("value", 5.6, 0.056).message


def test_another_unit_is_not_a_wrong_value() -> None:
    """Seconds are recognised where the answer is in milliseconds."""
    message = check("ms", 0.0123, 12.3).message
    assert "a thousand times off" in message and "milliseconds" in message
    assert "thousand" not in check("ms", 0.5, 12.3).message


def test_an_exercise_without_data_is_reported() -> None:
    """For example, no process of a cluster is watched, so there is no hungriest part."""
    assert "no data for this exercise" in check("08-hungriest-part", "vllm", pd.DataFrame()).message
    assert "no data for this exercise" in check("value", 3, float("nan")).message
    parts = pd.DataFrame({"part": ["vllm"], "rss_mib": pd.array([None], dtype="Int64")})
    assert "no data for this exercise" in check("00-most-memory", "vllm", parts).message


def test_an_unknown_exercise_is_an_error_of_the_notebook() -> None:
    """The error lists the known names."""
    with pytest.raises(LabError, match="03-slowest-kind"):
        check("03-slowest-kinds", 1)


def test_a_right_answer_stays_right_in_the_next_run(tmp_path: Path) -> None:
    """Every run has other values; a number that was right once is not called wrong later."""
    assert check("value", 0.056, 0.056).right
    later = check("value", 0.056, 0.071)
    assert later.right and "right for an earlier run" in later.message
    assert check("value", 0.057, 0.071).right is False
    assert check("share", 0.056, 0.071).right is False


def test_the_score_is_in_the_state_folder(tmp_path: Path) -> None:
    """Only right answers count, and a damaged file is an empty score."""
    check("value", 4, 3)
    check("share", ..., 3)
    assert score() == {}
    check("value", 3, 3)
    file = tmp_path / "state" / "exercises.json"
    assert score() == json.loads(file.read_text()) == {"value": ["3"]}
    file.write_text("{")
    assert score() == {} and check("value", 3, 3).right


def test_a_prediction_is_compared_and_never_wrong() -> None:
    """Within a quarter it counts as right; a wrong type or a percentage gets a hint."""
    assert check("guess", 11, 10.0).right is True
    missed = check("guess", 20, 10.0)
    assert (missed.right, missed.message) == (None, "Predicted 20, measured 10 ms: +100%.")
    assert "why?" in check("guess", "queue_s", "decode_s").message
    assert check("guess", "decode_s", "decode_s").right is True
    assert check("guess", "ten", 10.0).right is False
    assert "is a percentage" in check("guess-share", 40, 0.4).message
    assert check("guess", 3, 0.0).message == "Predicted 3, measured 0 ms: +3."


def test_breaking_something_is_checked() -> None:
    """What is not broken, and what is not a result of the lab, gets a hint."""
    records = pd.DataFrame({"status": ["ok", "timeout", "timeout"]})
    assert check("02-break-patience", SimpleNamespace(records=records)).right
    message = check("02-break-patience", SimpleNamespace(records=records.head(1))).message
    assert "0 of 1 requests timed out" in message
    spans = pd.DataFrame({"name": ["invoke_mcp_tool"], "status": ["unset"]})
    seen = SimpleNamespace(requests=pd.DataFrame({"tool_failures": [1]}), spans=spans)
    assert "have the status unset" in check("01-break-tool", seen).message
    called = SimpleNamespace(output=[SimpleNamespace(type="mcp_call")], output_text="4")
    assert "still had its tools" in check("00-break-tools", called).message
    called.output = [SimpleNamespace(type="message")]
    assert check("00-break-tools", called).right
    for name in ("00-break-tools", "01-break-tool", "02-break-patience"):
        assert "this is a int" in check(name, 3).message
