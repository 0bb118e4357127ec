"""An exercise's check tells right from wrong from not answered."""

from __future__ import annotations

import pytest

from lab.exercise import WrongAnswer, check


def test_not_answered_is_not_wrong() -> None:
    """An untouched exercise does not stop the notebook."""
    assert check(..., 3, hint="count").startswith("Not answered")


@pytest.mark.parametrize(
    ("answer", "expected"), [(3, 3), (0.101, 0.1), (" Decode ", "decode"), (["a"], ["a"])]
)
def test_right_answers(answer: object, expected: object) -> None:
    """Numbers have a tolerance; texts ignore case and space."""
    assert check(answer, expected, hint="", tolerance_ratio=0.02) == "Right."


@pytest.mark.parametrize(
    ("answer", "expected"), [(4, 3), (0.11, 0.1), ("prefill", "decode"), (True, 1), ("3", 3)]
)
def test_wrong_answers_get_the_hint_not_the_solution(answer: object, expected: object) -> None:
    """The message repeats the answer and the hint."""
    with pytest.raises(WrongAnswer, match="look again"):
        check(answer, expected, hint="look again")
