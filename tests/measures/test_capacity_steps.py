"""Steps of load: their steady part, their verdict,
Little's law, and the row that a sweep keeps of each.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import FrameError
from lab.measures import (
    Slo,
    batch_mean,
    goodput,
    in_flight_at,
    knee,
    level_row,
    littles_law,
    prediction_errors,
    saturation,
    steady_window,
    step_row,
)
from lab.measures.capacity import poisson_interval
from tests.measures.queues import shared_processor


def queue(rate: float, capacity: float, seconds: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Arrivals and ends of an open-loop step at a batching
    server that serves at most `capacity` a second.
    """
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, math.ceil(rate * seconds)))
    work = rng.exponential(size=len(arrivals))
    return arrivals, shared_processor(arrivals, work, lambda n: capacity * n / (n + 5))


def test_overload_is_called_saturated_and_moderate_load_is_not() -> None:
    """Of 60 simulated steps of 12 s: at 130 % of the capacity all are saturated, at 60 % none is,
    and at least nine in ten are judged to keep up; at 110 % none keeps up for sure in more than
    one of ten.
    """
    verdicts = {
        load: [
            saturation(*queue(100 * load, 100, 12, seed), (1.0, 11.5)).verdict for seed in range(60)
        ]
        for load in (0.6, 1.1, 1.3)
    }
    assert set(verdicts[1.3]) == {"saturated"}
    assert "saturated" not in verdicts[0.6] and verdicts[0.6].count("keeps up") >= 54
    assert verdicts[1.1].count("keeps up") <= 6


def test_the_backlogs_growth_is_what_is_offered_less_what_is_served() -> None:
    """At twice the capacity 100 more wait every second,
    as the slope and the answered rate both say.
    """
    found = saturation(*queue(200, 100, 12, 1), (2.0, 11.0))
    assert found.backlog_growth_per_s == pytest.approx(100, rel=0.1)
    assert (
        found.growth_low < 100 < found.growth_high
        or found.backlog_growth_per_s == pytest.approx(100, rel=0.05)
    )
    assert found.answered_low < 100 < found.answered_high and found.offered_per_s == pytest.approx(
        200, rel=0.1
    )
    with pytest.raises(FrameError, match="no request arrived"):
        saturation(np.array([1.0]), np.array([2.0]), (5.0, 6.0))


def test_poisson_interval_by_hand() -> None:
    """Of no events: up to 3.69. Of 10: 4.80 to 18.39 (Garwood's table)."""
    assert poisson_interval(0) == pytest.approx((0, 3.689), abs=0.001)
    assert poisson_interval(10) == pytest.approx((4.795, 18.39), abs=0.005)


def test_neighbours_that_are_alike_do_not_shorten_the_interval() -> None:
    """Values that wander slowly:
    batch means cover the true mean in at least 80 of 100, single values in under 60.
    """
    rng, naive, batched = np.random.default_rng(5), 0, 0
    for _ in range(200):
        noise = rng.normal(size=600)
        walk = np.zeros(600)
        for i in range(1, 600):
            walk[i] = 0.9 * walk[i - 1] + noise[i]
        mean, low, high = batch_mean(walk)
        batched += low <= 0 <= high
        naive += abs(mean) <= 1.96 * walk.std() / math.sqrt(600)
    assert batched >= 160 and naive < 120
    assert batch_mean([1.0, 3.0])[0] == 2 and math.isnan(batch_mean([1.0])[1])


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0.001, 50)), min_size=1, max_size=40),
    st.floats(0, 50), st.floats(1, 50),
)  # fmt: skip
def test_littles_law_always_balances(
    requests: list[tuple[float, float]], first: float, length: float
) -> None:
    """Integral of the number in the system = arrivals times their mean time,
    and what the edges owe, for any window.
    """
    start = np.array([s for s, _ in requests])
    end = start + np.array([d for _, d in requests])
    window = (first, first + length)
    if not ((start >= window[0]) & (start < window[1])).any():
        with pytest.raises(FrameError, match="no request arrived"):
            littles_law(start, end, window)
        return
    books = littles_law(start, end, window)
    assert abs(books.rest) < 1e-6
    assert books.mean_in_system == pytest.approx(
        books.lambda_w + books.before - books.after, abs=1e-6
    )


def test_littles_law_by_hand() -> None:
    """Window 0 to 10; one from -1 to 2, one from 4 to 6,
    one from 9 to 13: 2 + 2 + 1 = 5 request-seconds.
    """
    books = littles_law(
        np.array([-1.0, 4.0, 9.0, np.nan]), np.array([2.0, 6.0, 13.0, np.nan]), (0.0, 10.0)
    )
    assert books.mean_in_system == pytest.approx(0.5) and books.lambda_w == pytest.approx(0.2 * 3)
    assert (books.before, books.after, books.n) == pytest.approx((0.2, 0.3, 2))


def test_how_many_requests_are_in_flight_at_an_instant() -> None:
    """A request counts from its start on, and not at its end any more."""
    instants = np.array([0.5, 1.0, 1.5, 2.0])
    assert in_flight_at(np.array([1.0]), np.array([2.0]), instants).tolist() == [0, 1, 1, 0]


def records(start: np.ndarray, end: np.ndarray, users: int = 0) -> pd.DataFrame:
    """A driver's records: first token half way, five tokens each."""
    half = (start + end) / 2
    return pd.DataFrame(
        {
            "request_id": [f"r{i}" for i in range(len(start))], "status": "ok",
            "user_id": [f"u{i % users if users else 0}" for i in range(len(start))],
            "scheduled_at": start, "done_at": end, "first_token_at": half, "last_token_at": end,
            "ttft_s": half - start, "e2e_s": end - start, "completion_tokens": 5,
        }
    )  # fmt: skip


def test_the_steady_part_of_a_step() -> None:
    """Open loop ends with the last arrival;
    closed loop when the first user has nothing more to ask.
    """
    start = np.arange(10.0)
    table = records(start, start + 3.0, users=2)
    assert steady_window(table, warm_s=2) == (2, 9)
    assert steady_window(table, warm_s=2, users=2) == (2, 11)  # u0 ends at 8 + 3, u1 at 9 + 3
    with pytest.raises(FrameError, match="after its warm-up"):
        steady_window(table, warm_s=20)


def test_a_level_is_its_users_by_its_throughput() -> None:
    """Two users, one second each, without a pause:
    two a second by count, one second by mean; ITL is half by four.
    """
    start = np.repeat(np.arange(20.0), 2)
    row = level_row(
        records(start, start + 1.0, users=2), 2, warm_s=2, slo=Slo(ttft_s=0.6, itl_s=0.1)
    )
    assert row["answered_per_s"] == pytest.approx(2, rel=0.06) and row[
        "e2e_mean_s"
    ] == pytest.approx(1)
    assert row["itl_s"] == pytest.approx(0.125) and row["ttft_mean_s"] == pytest.approx(0.5)
    assert row["good_ratio"] == 0  # the first token in time, the pauses too long


def test_a_steps_row_holds_books_interval_and_verdict() -> None:
    """A simulated step at 60 %:
    it keeps up, both sides of Little's law agree, intervals hold their values.
    """
    start, end = queue(60, 100, 12, 11)
    row = step_row(records(start, end), 60, warm_s=1, slo=Slo(ttft_s=10))
    assert (
        row["verdict"] == "keeps up" and abs(row["littles_rest"]) < 1e-9 and row["good_ratio"] == 1
    )
    assert row["e2e_low_s"] <= row["e2e_mean_s"] <= row["e2e_high_s"] and row["failed"] == 0
    assert row["mean_in_flight"] == pytest.approx(row["lambda_w"] + row["littles_edges"])
    failing = records(start, end).assign(status="error")
    with pytest.raises(FrameError, match="no request was answered"):
        step_row(failing, 60, warm_s=1, slo=Slo())


def test_an_slo_between_tokens() -> None:
    """0.4 s for four tokens after the first are 0.1 s each;
    a single one has nothing between, none keeps nothing.
    """
    table = records(np.zeros(3), np.array([0.8, 0.8, 0.8])).assign(completion_tokens=[5, 1, -1])
    table.loc[2, ["first_token_at", "last_token_at", "ttft_s"]] = math.nan
    assert Slo(itl_s=0.11).kept(table).tolist() == [True, True, False]
    assert Slo(itl_s=0.09).kept(table).tolist() == [False, True, False]
    assert goodput(table, Slo(itl_s=0.11), 2.0).good_per_s == 1


def test_the_knee_has_the_greatest_power() -> None:
    """10/0.1 = 100, 18/0.15 = 120, 20/0.4 = 50: the second."""
    table = pd.DataFrame({"answered_per_s": [10, 18, 20], "e2e_mean_s": [0.1, 0.15, 0.4]})
    assert knee(table)["answered_per_s"] == 18
    with pytest.raises(FrameError, match="needs the steps"):
        knee(table.iloc[:0])


def test_errors_of_predictions_say_whether_the_intervals_touch() -> None:
    """0.11 against 0.10 is 10 % too high, inside;
    0.2 against 0.1 is outside; without a steady state there is none.
    """
    steps = pd.DataFrame(
        {
            "offered_per_s": [1.0, 2.0, 3.0],
            "e2e_mean_s": [0.1] * 3,
            "e2e_low_s": [0.09] * 3,
            "e2e_high_s": [0.12] * 3,
            "verdict": "keeps up",
        }
    )
    predicted = pd.DataFrame(
        {
            "offered_per_s": [1.0, 2.0, 3.0],
            "value_s": [0.11, 0.2, math.inf],
            "low_s": [0.1, 0.19, 0.3],
            "high_s": [0.12, 0.21, math.inf],
        }
    )
    table = prediction_errors(steps, predicted)
    assert table["error_ratio"].tolist()[:2] == pytest.approx([0.1, 1.0]) and math.isnan(
        table["error_ratio"][2]
    )
    assert table["inside"].tolist() == [True, False, False]
