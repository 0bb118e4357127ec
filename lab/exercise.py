"""Exercises in notebooks: a cell that checks an answer, and says so when there is none yet."""

from __future__ import annotations

import math
from typing import Any

from lab.errors import LabError


class WrongAnswer(LabError):
    """The answer to an exercise was given and is not right."""


def check(answer: Any, expected: Any, *, hint: str, tolerance_ratio: float = 0.02) -> str:
    """Compare an attendee's answer with the one computed from the data, and say which it is.

    `answer` is `...` as long as nothing was filled in. Numbers are right within `tolerance_ratio` of the expected one,
    texts without regard to case and surrounding space, anything else when equal. Raises WrongAnswer (with the hint, not
    the solution) otherwise.
    """
    if answer is ...:
        return "Not answered yet: replace the ... above and run both cells again."
    if _same(answer, expected, tolerance_ratio):
        return "Right."
    raise WrongAnswer("that is not what the data says", got=repr(answer), fix=hint)


def _same(answer: Any, expected: Any, tolerance_ratio: float) -> bool:
    if isinstance(expected, bool) or isinstance(answer, bool):
        return answer is expected
    if isinstance(expected, (int, float)) and isinstance(answer, (int, float)):
        return math.isclose(answer, expected, rel_tol=tolerance_ratio, abs_tol=1e-9)
    if isinstance(expected, str) and isinstance(answer, str):
        return answer.strip().casefold() == expected.strip().casefold()
    return bool(answer == expected)
