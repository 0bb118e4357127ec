"""An exercise's check explains wrong answers and never stops a notebook."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lab.errors import LabError
from lab.exercises import EXERCISES, SHARE, Exercise, check


@pytest.fixture(autouse=True)
def exercises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the exercises by some whose right answer is the data itself."""
    for name, unit in (("value", ""), ("share", SHARE), ("ms", "milliseconds")):
        monkeypatch.setitem(EXERCISES, name, Exercise(lambda data: data, "look again", unit))


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
