"""Shares with their intervals, confusions, differences."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lab.errors import FrameError
from lab.measures import (
    share_table,
    tool_confusion,
    wilson,
)


def test_wilson_by_a_second_source() -> None:
    """The interval is scipy's own Wilson interval."""
    for successes, n in ((0, 10), (5, 10), (10, 10), (97, 123)):
        share, low, high = wilson(successes, n)
        expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert (share, low, high) == pytest.approx(
            (successes / n, expected.low, expected.high), abs=1e-12
        )


@given(st.integers(0, 500), st.integers(0, 500))
def test_the_interval_holds_the_share(successes: int, n: int) -> None:
    """Always inside 0 to 1, always around the share; of nothing, nothing is known."""
    if successes > n:
        with pytest.raises(FrameError, match="between 0 and n"):
            wilson(successes, n)
        return
    share, low, high = wilson(successes, n)
    assert 0 <= low <= high <= 1
    assert math.isnan(share) if n == 0 else low <= share <= high


def test_shares_by_group_leave_out_what_is_unknown() -> None:
    """A missing verdict is not a failure."""
    frame = pd.DataFrame(
        {"kind": ["a", "a", "b"], "right_tool": pd.array([True, None, False], dtype="boolean")}
    )
    table = share_table(frame, ["right_tool"], by=["kind"])
    assert (
        table.rate_ratio.tolist() == [1.0, 0.0]
        and table.n.tolist() == [1, 1]
        and table.index.name == "outcome"
    )
    with pytest.raises(FrameError, match="lacks nothing_such"):
        share_table(frame, ["nothing_such"])


def test_the_confusion_of_tools() -> None:
    """Position by position; needless and missing calls are '(none)'."""
    table = tool_confusion([["a"], ["a", "b"], [], []], [["a"], ["b"], ["b"], []])
    assert (
        table.loc["a", "a"] == 1 and table.loc["a", "b"] == 1
    )  # second request: b was called where a was due
    assert (
        table.loc["b", "(none)"] == 1
        and table.loc["(none)", "b"] == 1
        and table.loc["(none)", "(none)"] == 1
    )
    assert table.to_numpy().sum() == 5
