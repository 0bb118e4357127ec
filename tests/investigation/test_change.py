"""Effects and change points against planted truths."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from lab.investigation.change import compare, find_onset, pool

BEFORE, AFTER = (0.0, 60.0), (60.0, 120.0)


def _points(rng: np.random.Generator, factor: float = 1.0, onset: float = 60.0) -> pd.DataFrame:
    """Return log-normal durations, whose level wanders slowly: neighbours are not independent."""
    time = np.sort(rng.uniform(0, 120, 400))
    wander = np.interp(time, np.arange(0, 124, 4), rng.normal(0, 0.2, 31))
    value = np.exp(rng.normal(0, 0.4, 400) + wander)
    return pd.DataFrame({"time": time, "value": np.where(time > onset, value * factor, value)})


def test_false_alarms_are_as_rare_as_promised() -> None:
    """At 5 %, values that depend on their neighbours differ in less than one of ten comparisons."""
    rng = np.random.default_rng(1)
    alarms = [
        compare(_points(rng), [BEFORE], [AFTER], "ratio", 0.0).p_value < 0.05 for _ in range(300)
    ]
    assert np.mean(alarms) < 0.1


def test_intervals_cover_the_planted_factor() -> None:
    """A factor of 1.5 lies in about 95 % of the intervals."""
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        effect = compare(_points(rng, 1.5), [BEFORE], [AFTER], "ratio", 0.0)
        covered += effect.low <= 1.5 <= effect.high
    assert covered > 0.9 * 200


def test_shares_are_compared_exactly() -> None:
    """3 of 40 against 12 of 40: Fisher's test, and Newcombe's interval around the difference."""
    time = np.concatenate((np.linspace(0, 59, 40), np.linspace(60, 119, 40)))
    value = np.zeros(80)
    value[:3] = value[40:52] = 1.0
    points = pd.DataFrame({"time": time, "value": value})
    effect = compare(points, [BEFORE], [AFTER], "share", 0.0)
    ways = [math.comb(40, k) * math.comb(40, 15 - k) for k in range(16)]
    p_value = sum(way for way in ways if way <= ways[3]) / sum(ways)
    assert effect.p_value == pytest.approx(p_value)
    assert (effect.size, effect.low > 0, effect.high < 0.42) == (pytest.approx(0.225), True, True)


@pytest.mark.parametrize("onset", [62.0, 80.0, 104.0])
def test_a_step_is_found(onset: float) -> None:
    """The onset of a doubling is found within 5 s, and lies in its interval."""
    rng = np.random.default_rng(3)
    points = _points(rng, 3.0, onset)
    result = find_onset([(points, "ratio", 0.0)], AFTER, 10.0)
    assert result is not None
    assert abs(result.at - onset) < 5
    assert result.low - 2 <= onset <= result.high + 2
    assert result.ended == 120


def test_the_end_of_a_pulse_is_found() -> None:
    """A change that is over within the window has an end."""
    points = _points(np.random.default_rng(4))
    inside = points["time"].between(75, 95)
    points.loc[inside, "value"] *= 10
    result = find_onset([(points, "ratio", 0.0)], AFTER, 10.0)
    assert result is not None
    assert (abs(result.at - 75) < 4, abs(result.ended - 95) < 4) == (True, True)


def test_constant_values_have_no_onset() -> None:
    """Where nothing varies there is no time of a change, rather than any time."""
    points = pd.DataFrame({"time": np.arange(0.0, 120.0), "value": 1.0})
    assert find_onset([(points, "ratio", 0.0)], AFTER, 10.0) is None


def _tools(rng: np.random.Generator, scale: str) -> list[pd.DataFrame]:
    """Return few calls of each of twelve tools, alike but not equal: times, or failures."""
    tools = []
    for _ in range(12):
        time = np.sort(rng.uniform(0, 120, rng.integers(8, 25)))
        if scale == "share":
            value = (rng.random(len(time)) < rng.beta(0.3, 4)) * 1.0
        else:
            value = rng.lognormal(-3, 1) * np.exp(rng.normal(0, 0.4, len(time)))
        tools.append(pd.DataFrame({"time": time, "value": value}))
    return tools


@pytest.mark.parametrize("scale", ["share", "ratio"])
def test_what_keys_have_in_common_makes_no_false_alarms(scale: str) -> None:
    """At 5 %, less than one of ten tools that did not change seems to have changed."""
    rng = np.random.default_rng(6)
    alarms = []
    for _ in range(30):
        tools = _tools(rng, scale)
        common = pool(tools, BEFORE, scale, 0.0)
        alarms += [
            compare(tool, [BEFORE], [AFTER], scale, 0.0, common).p_value < 0.05 for tool in tools
        ]
    assert np.mean(alarms) < 0.1


def test_five_failures_after_few_calls_are_certain_if_tools_seldom_fail() -> None:
    """Fisher's test of one tool alone could not tell; all tools together can."""
    times = np.array([10.0, 30.0, 70.0, 75.0, 80.0, 85.0, 90.0])
    failing = pd.DataFrame({"time": times, "value": (times > 60) * 1.0})
    fine = pd.DataFrame({"time": np.linspace(0, 119, 80), "value": 0.0})
    common = pool([failing, *[fine] * 5], BEFORE, "share", 0.0)
    alone = compare(failing, [BEFORE], [AFTER], "share", 0.0)
    together = compare(failing, [BEFORE], [AFTER], "share", 0.0, common)
    assert alone.p_value > 0.01
    assert together.p_value < 0.001


def test_two_calls_before_are_enough_for_a_slow_tool() -> None:
    """The scatter of its times is known from other tools."""
    times = np.array([10.0, 30.0, 70.0, 80.0, 90.0])
    slow = pd.DataFrame({"time": times, "value": np.where(times > 60, 1.0, 0.05)})
    rng = np.random.default_rng(7)
    common = pool([slow, *_tools(rng, "ratio")], BEFORE, "ratio", 0.0)
    assert math.isnan(compare(slow, [BEFORE], [AFTER], "ratio", 0.0).p_value)
    assert compare(slow, [BEFORE], [AFTER], "ratio", 0.0, common).p_value < 0.01
