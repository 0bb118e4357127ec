"""Two versions on the same requests:
by hand, by a second source, and by simulation with known truth.
"""

from __future__ import annotations

import json
import math
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lab.errors import FrameError
from lab.measures import (
    compare_paired,
    holm,
    pair_up,
    paired_shares,
    pairs_needed,
    pairs_to_see,
    power_curve,
)
from lab.measures.quality import paired_interval
from tests.measures.recorded import recorded_records


@cache
def _p_value(successes: int, n: int) -> float:
    return stats.binomtest(successes, n).pvalue


def _frame(values: list[bool | None], seed: int = 0) -> pd.DataFrame:
    ids = [f"s{seed}-{i:05d}" for i in range(len(values))]
    return pd.DataFrame(
        {"scenario_id": ids, "turn_index": 0, "right": pd.array(values, dtype="boolean")}
    )


def test_pairs_are_the_requests_that_both_have() -> None:
    """In any order; a request that is there twice,
    and runs with nothing in common, are refused.
    """
    a, b = _frame([True, False, True]), _frame([True, True, True]).iloc[[2, 1]]
    paired = pair_up(a, b)
    assert len(paired) == 2 and paired["a", "right"].tolist() == [False, True]
    with pytest.raises(FrameError, match="not told apart"):
        pair_up(pd.concat([a, a]), b)
    with pytest.raises(FrameError, match="no request is in both"):
        pair_up(a, _frame([True], seed=9))


def test_a_comparison_by_hand() -> None:
    """Ten pairs: one only a, five only b, one unknown left out;
    the p-value is that of the exact test of 5 in 6.
    """
    a = [True] + [False] * 5 + [True] * 3 + [None]
    b = [False] + [True] * 5 + [True] * 3 + [True]
    row = compare_paired(pair_up(_frame(a), _frame(b)), ["right"]).loc["right"]
    assert (row.only_a, row.only_b, row.n) == (1, 5, 9)
    assert row.a_ratio == pytest.approx(4 / 9) and row.b_ratio == pytest.approx(8 / 9)
    assert row.p_value == row.p_holm == pytest.approx(stats.binomtest(5, 6).pvalue)
    assert row.low_ratio < row.difference_ratio < row.high_ratio


def test_a_paired_difference() -> None:
    """By hand: 8 only b, 1 only a: two-sided exact p of 1 in 9 fair coins is 20/512.

    Where the two never disagree, p is 1.
    """
    a = _frame([True] * 1 + [False] * 8 + [True] * 11)
    b = _frame([False] * 1 + [True] * 8 + [True] * 11)
    row = compare_paired(pair_up(a, b), ["right"]).loc["right"]
    assert (row.only_a, row.only_b, row.n) == (1, 8, 20)
    assert row.difference_ratio == pytest.approx(7 / 20)
    assert row.p_value == pytest.approx(2 * (1 + 9) / 2**9)
    assert compare_paired(pair_up(a, a), ["right"]).p_value["right"] == 1


def test_shares_beside_a_paired_test_are_of_the_same_pairs() -> None:
    """Recorded:
    a tool failed in 7 requests of one model and in 16 of the other, and in fewer pairs.
    """
    outcome = "answered_after_error"
    runs = []
    for run_id in ("run-20261126T171250-d90f", "run-20261126T171328-86f5"):
        records = recorded_records(run_id)
        failed = [any(c["error"] for c in json.loads(calls)) for calls in records["tool_calls"]]
        answered = (records["answer"].str.len() > 0).astype("boolean")
        runs.append(records.assign(**{outcome: answered.where(pd.Series(failed))}))
    pairs = pair_up(*runs)

    row = compare_paired(pairs, [outcome]).loc[outcome]
    shares = paired_shares(pairs, [outcome], names=("lab-model", "canary"))

    assert (row.judged_a, row.judged_b) == (7, 16) and row.n < 7
    assert shares["version"].tolist() == ["lab-model", "canary"]
    assert shares["n"].tolist() == [row.n, row.n]
    assert shares["rate_ratio"].tolist() == [row.a_ratio, row.b_ratio]


def test_a_measure_that_nobody_could_judge_is_not_tested() -> None:
    """It has no p-value, and the others are not corrected for it."""
    pairs = pair_up(_frame([True] * 6).assign(other=pd.NA), _frame([False] * 6).assign(other=pd.NA))
    table = compare_paired(pairs, ["right", "other"])
    assert np.isnan(table.p_value["other"]) and table.p_holm["right"] == table.p_value["right"]
    assert (table.n["other"], table.low_ratio["other"], table.high_ratio["other"]) == (0, -1, 1)


def test_the_number_of_pairs_of_each_measure() -> None:
    """The clearest difference first; no difference has no number;
    what was not judged is left out.
    """
    some = _frame([True] * 30 + [False] * 10).assign(same=True, unknown=pd.NA)
    other = _frame([True] * 8 + [False] * 32).assign(same=True, unknown=pd.NA)
    table = pairs_needed(compare_paired(pair_up(some, other), ["same", "unknown", "right"]))
    assert table.index.tolist() == ["right", "same"] and table.pairs.isna().tolist() == [
        False,
        True,
    ]
    assert (
        table.pairs["right"] == pairs_to_see(22 / 40, 0.0)
        and table.only_a_ratio["right"] == 22 / 40
    )


def test_newcombes_own_example() -> None:
    """Of 50 pairs 36 both, 12 and 2 discordant, none neither:
    difference 0.2, method 10 gives 0.0569 to 0.3404.
    """
    low, high = paired_interval(36, 2, 12, 50)
    assert (low, high) == pytest.approx((0.0569, 0.3404), abs=5e-4)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_the_interval_holds_the_difference_and_turns_with_the_sides(
    pairs: list[tuple[bool, bool]],
) -> None:
    """It is inside -1 to 1, around the difference,
    and its mirror image when a and b change places.
    """
    both, only_a = sum(x and y for x, y in pairs), sum(x and not y for x, y in pairs)
    only_b, n = sum(y and not x for x, y in pairs), len(pairs)
    low, high = paired_interval(both, only_a, only_b, n)
    difference = (only_b - only_a) / n if n else 0
    assert -1 <= low <= difference + 1e-12 and difference - 1e-12 <= high <= 1
    assert paired_interval(both, only_b, only_a, n) == pytest.approx((-high, -low))


def test_the_interval_covers_a_known_difference_as_often_as_it_says() -> None:
    """0.9 against 0.8 of the same 80 requests, 2,000 times:
    93 to 97.5 of 100 intervals hold the true -0.1.
    """
    rng, inside = np.random.default_rng(3), 0
    for both, only_a, only_b, _ in rng.multinomial(80, [0.75, 0.15, 0.05, 0.05], 2000):
        low, high = paired_interval(both, only_a, only_b, 80)
        inside += low <= -0.1 <= high
    assert 0.93 <= inside / 2000 <= 0.975


def test_holm_by_hand() -> None:
    """Smallest times three, next times two, never falling, never above 1;
    what is unknown does not count.
    """
    assert holm([0.01, 0.04, 0.03, math.nan]).tolist()[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(holm([0.01, math.nan])[1]) and holm([0.01, math.nan])[0] == pytest.approx(0.01)
    assert holm([0.9, 0.8]).max() == 1.0


def test_holm_keeps_false_alarms_rare() -> None:
    """Ten measures without any difference, looked at 2,000 times:
    at most about 5 in 100 looks raise one alarm.
    """
    p = np.random.default_rng(4).uniform(size=(2000, 10))
    assert np.mean([(holm(row) < 0.05).any() for row in p]) < 0.06


@settings(max_examples=25)
@given(
    st.integers(0, 50).map(lambda x: x / 100),
    st.integers(0, 50).map(lambda x: x / 100),
    st.integers(1, 25),
)
def test_power_by_a_second_source(only_a: float, only_b: float, n: int) -> None:
    """The sum over all tables, written the slow way with scipy's own test."""
    if only_a + only_b == 0:
        assert power_curve(only_a, only_b, [n])[0] == 0
        return
    d, slow = only_a + only_b, 0.0
    for m in range(n + 1):
        seen = sum(
            stats.binom.pmf(k, m, only_b / d) for k in range(m + 1) if m and _p_value(k, m) <= 0.05
        )
        slow += stats.binom.pmf(m, n, d) * seen
    assert power_curve(only_a, only_b, [n])[0] == pytest.approx(slow, abs=1e-9)


def test_so_many_pairs_see_the_difference_as_often_as_it_says() -> None:
    """Simulated: at the number that it names the test is significant in 78 to 84 of 100,
    at half of it in far fewer.
    """
    n = pairs_to_see(0.30, 0.02)
    rng = np.random.default_rng(6)

    def seen(pairs: int) -> float:
        found = 0
        for only_a, only_b, _ in rng.multinomial(pairs, [0.30, 0.02, 0.68], 3000):
            found += _p_value(int(only_b), int(only_a + only_b)) < 0.05 if only_a + only_b else 0
        return found / 3000

    assert 0.78 <= seen(n) <= 0.86 and seen(n // 2) < 0.6
    fewer, enough = power_curve(0.30, 0.02, [n - 1, n])
    assert enough >= 0.8 > fewer


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0.9, 0.0), (0.3, 0.02), (0.12, 0.02), (0.05, 0.0), (0.05, 0.02)]
)
def test_the_fewest_pairs_are_found_where_all_numbers_are_tried(
    only_a: float, only_b: float
) -> None:
    """Looking only where the power crosses finds the same as looking everywhere up to 1,200."""
    reached = power_curve(only_a, only_b, range(1, 1201)) >= 0.8
    assert pairs_to_see(only_a, only_b) == int(np.flatnonzero(~reached)[-1]) + 2


def test_no_difference_needs_no_number() -> None:
    """As many each way, or none at all: no number of pairs suffices, and None is returned."""
    assert pairs_to_see(0.0, 0.0) is None
    assert pairs_to_see(0.05, 0.05) is None
    assert power_curve(0.05, 0.05, [50, 500]).max() < 0.05
    with pytest.raises(FrameError, match="shares of discordant pairs"):
        power_curve(0.8, 0.8, [10])


def test_pairs_help_where_both_fail_at_the_same_requests() -> None:
    """0.9 against 0.8, 2 in 100 the other way round: little more than half of what two samples
    need, which is 199 of each (Fleiss, Levin & Paik 2003, chapter 4, without continuity
    correction).
    """
    assert pairs_to_see(0.12, 0.02) < 0.65 * 199
