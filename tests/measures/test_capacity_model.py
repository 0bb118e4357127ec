"""From closed-loop speeds to open-loop latency, against queues whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import FrameError
from lab.measures import (
    ServiceCurve,
    expected_on_arrival,
    fit_service_curve,
    knee,
    predict,
    replicas_for,
    settle_verdicts,
)
from tests.measures.queues import shared_processor


def test_one_server_without_batching_is_the_textbooks_queue() -> None:
    """W(n) = n s is processor sharing:
    mean time s / (1 - rate s), and a geometric number in the system.
    """
    service = ServiceCurve(alone_s=0.1, slot_s=0.1)
    assert service.open_loop_s(5.0) == pytest.approx(
        0.2
    ) and service.capacity_per_s == pytest.approx(10)
    assert service.states(5.0)[:3] == pytest.approx([0.5, 0.25, 0.125])
    assert math.isinf(service.open_loop_s(10.0))
    with pytest.raises(FrameError, match="grows without end"):
        service.states(10.0)


def test_a_server_that_does_all_at_once_has_the_same_time_at_every_load() -> None:
    """W(n) nearly constant: infinitely many servers, a Poisson number in the system."""
    service = ServiceCurve(alone_s=0.5, slot_s=1e-9)
    states = service.states(4.0)
    assert service.open_loop_s(4.0) == pytest.approx(0.5)
    assert states[:3] == pytest.approx([math.exp(-2), 2 * math.exp(-2), 2 * math.exp(-2)], rel=1e-6)


@given(st.floats(0.01, 1), st.floats(0.05, 1), st.floats(0.05, 0.9))
def test_the_closed_form_is_the_mean_of_the_states_by_littles_law(
    alone: float, share: float, load: float
) -> None:
    """Mean number in the system = rate times time, for any service that batches more or less."""
    service = ServiceCurve(alone, alone * share)
    rate = load * service.capacity_per_s
    states = service.states(rate)
    mean_in = float((np.arange(len(states)) * states).sum())
    assert states.sum() == pytest.approx(1) and mean_in == pytest.approx(
        rate * service.open_loop_s(rate), rel=1e-4
    )


def test_the_line_is_found_through_times_without_noise() -> None:
    """W(n) = 0.08 + 0.005 (n - 1), for any levels;
    a server that gets faster with more users is refused.
    """
    users = np.array([1, 2, 4, 8, 64])
    found = fit_service_curve(users, 0.08 + 0.005 * (users - 1))
    assert found.alone_s == pytest.approx(0.08) and found.slot_s == pytest.approx(0.005)
    with pytest.raises(FrameError, match="did not take longer"):
        fit_service_curve([1, 2], [0.2, 0.1])
    with pytest.raises(FrameError, match="at least two"):
        fit_service_curve([4, 4], [0.2, 0.2])


def test_closed_loop_levels_foretell_an_open_loop_that_was_not_run() -> None:
    """A batching server, simulated: fitted from 1 to 32 users, the open-loop mean at 30, 60 and 80
    % of its capacity is foretold within 8 %, for sizes of requests that vary as an exponential
    does.
    """
    rng = np.random.default_rng(8)
    alone, slot = 0.08, 0.008

    def speed(n: int) -> float:  # units of work a second, a request being one
        return n / (alone + slot * (n - 1))

    users, times = [1, 2, 4, 8, 16, 32], []
    for n in (
        users
    ):  # a closed loop of n: they are served together, so a request takes n / speed(n) by its size
        size = rng.exponential(size=4000)
        times.append(float((size * n / speed(n)).mean()))
    service = fit_service_curve(users, times)
    for load in (0.3, 0.6, 0.8):
        rate = load / slot
        arrivals = np.cumsum(rng.exponential(1 / rate, 40_000))
        done = shared_processor(arrivals, rng.exponential(size=40_000), speed)
        measured = float((done - arrivals)[4000:].mean())
        assert service.open_loop_s(rate) == pytest.approx(measured, rel=0.08)


def test_the_interval_is_for_one_more_run() -> None:
    """By hand, rounds of 0.1 and 0.2 s: geometric mean 0.1414;
    three rounds alike have no spread; one is refused.
    """
    found = predict([ServiceCurve(0.1, 1e-6), ServiceCurve(0.2, 1e-6)], 1.0)
    assert (
        found.value_s == pytest.approx(math.sqrt(0.02), rel=1e-4)
        and found.low_s < 0.1
        and found.high_s > 0.2
    )
    alike = predict([ServiceCurve(0.1, 0.01)] * 3, 50.0)
    assert (alike.low_s, alike.value_s, alike.high_s) == pytest.approx((0.2, 0.2, 0.2))
    beyond = predict([ServiceCurve(0.1, 0.01), ServiceCurve(0.1, 0.02)], 60.0)
    assert (
        math.isinf(beyond.value_s)
        and math.isinf(beyond.high_s)
        and beyond.low_s == pytest.approx(0.25)
    )
    with pytest.raises(FrameError, match="second round"):
        predict([ServiceCurve(0.1, 0.01)], 1.0)


def test_the_interval_for_one_more_run_holds_it_about_as_often_as_it_says() -> None:
    """Runs that differ by 10 %: of 500 predictions from 4 rounds,
    the next run is inside in 90 to 99 of 100.
    """
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(500):
        runs = 0.1 * np.exp(rng.normal(0, 0.1, 5))
        found = predict([ServiceCurve(float(w), 1e-6) for w in runs[:4]], 1.0)
        hits += found.low_s <= runs[4] <= found.high_s
    assert 0.90 <= hits / 500 <= 0.99


def test_an_arrival_fares_as_those_it_finds() -> None:
    """At 0.5 load of a single server half find it empty,
    a quarter one other: 0.5 * 1 + 0.25 * 2 + 0.25 * 4.
    """
    service = ServiceCurve(0.1, 0.1)
    assert expected_on_arrival(service, 5.0, [1, 2, 3], [1.0, 2.0, 4.0]) == pytest.approx(2.0)
    assert expected_on_arrival(service, 1e-9, [1, 2], [7.0, 9.0]) == pytest.approx(7.0)


def steps() -> pd.DataFrame:
    """A sweep in which 10/s surely keeps the SLO,
    20/s perhaps, 40/s surely not, and 30/s got lucky.
    """
    return pd.DataFrame(
        {
            "offered_per_s": [40.0, 10.0, 20.0, 30.0],
            "good_low_ratio": [0.2, 0.97, 0.90, 0.96],
            "good_high_ratio": [0.4, 1.0, 0.98, 0.99],
        }
    )


def test_replicas_lie_between_what_is_enough_and_what_is_not() -> None:
    """For 100/s: ten replicas of 10/s are enough, fewer than three of 40/s are not;
    luck beyond that does not count.
    """
    need = replicas_for(100, steps())
    assert (need.good_per_s, need.bad_per_s, need.at_least, need.enough) == (10, 40, 3, 10)
    assert "3 to 10 replicas" in str(need)
    light = replicas_for(25, steps().query("offered_per_s == 10"))
    assert math.isinf(light.bad_per_s) and (light.at_least, light.enough) == (1, 3)
    with pytest.raises(FrameError, match="lightest step"):
        replicas_for(10, steps().query("offered_per_s >= 20"))
    with pytest.raises(FrameError, match="more than nothing"):
        replicas_for(0, steps())


def noisy_sweep() -> pd.DataFrame:
    """A sweep on a machine that was busy meanwhile:
    worse at 50/s than at 75/s, and the driver lagged at both.
    """
    return pd.DataFrame(
        {
            "offered_per_s": [25.0, 50.0, 75.0, 100.0, 125.0],
            "answered_per_s": [25.0, 43.0, 75.0, 88.0, 90.0],
            "e2e_mean_s": [0.1, 1.2, 0.2, 2.0, 3.0],
            "good_low_ratio": [0.98, 0.3, 0.96, 0.1, 0.0],
            "good_high_ratio": [1.0, 0.5, 0.99, 0.3, 0.1],
            "verdict": ["keeps up", "saturated", "keeps up", "saturated", "saturated"],
            "lagged": [False, True, True, False, False],
        }
    )


def test_a_verdict_that_a_heavier_load_contradicts_is_undecided() -> None:
    """Saturated at 50/s but not at 75/s: neither is decided.

    The knee and the replicas then agree with each other.
    """
    steps = settle_verdicts(noisy_sweep())

    assert (
        steps["verdict"].tolist() == ["keeps up", "cannot tell", "cannot tell"] + ["saturated"] * 2
    )
    assert steps["contradicted"].tolist() == [False, True, True, False, False]
    need = replicas_for(500, steps)
    assert need.good_per_s == 25 == knee(steps)["offered_per_s"]
    assert (need.bad_per_s, need.at_least, need.enough) == (100, 5, 20), "75/s was seen to be good"


def test_the_answer_says_what_it_rests_on() -> None:
    """A lagging driver and contradicting steps stand in the sentence that a report quotes."""
    text = str(replicas_for(500, noisy_sweep()))
    assert "undecided: worse at 50/s than at a higher load" in text
    assert "the driver lagged at 50/s, 75/s" in text
    assert "lagged" not in str(replicas_for(500, noisy_sweep().assign(lagged=False)))


def test_verdicts_in_order_stay() -> None:
    """Keeps up, cannot tell, saturated:
    nothing contradicts, in any order of the steps.
    """
    steps = noisy_sweep().iloc[[4, 0]]
    assert settle_verdicts(steps)["verdict"].tolist() == ["saturated", "keeps up"]
    with pytest.raises(FrameError, match="no step that keeps up"):
        knee(steps.head(1))
