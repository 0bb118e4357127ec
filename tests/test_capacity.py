"""Runs are combined into levels and sweeps correctly (the parts that need no server)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lab import latency
from lab.capacity import (
    Measured,
    backlog_lines,
    fit_rounds,
    in_engine,
    predict_latency,
    predict_slo_attainment,
    step_length_s,
    sweep_rates,
)
from lab.errors import NoData
from lab.latency import WORDS, probe_slopes
from lab.measures import ServiceCurve
from lab.settings import Settings
from lab.workload import Poisson, Run, make_plan


def test_the_rates_of_a_sweep_are_rounded_to_match_recordings() -> None:
    """Rates have two digits, are ascending and have no duplicates."""
    assert sweep_rates(97.8655, [0.6, 0.15, 1.2]) == [15.0, 59.0, 120.0]
    assert sweep_rates(10.0, [0.5, 0.501]) == [5.0]


def test_the_time_of_a_sweep_is_spent_near_the_limit() -> None:
    """Steps whose verdict is clear are shorter; without an expected limit all are equally long."""
    rates = [30.0, 60.0, 90.0, 105.0, 120.0]
    assert [step_length_s(rate, 10.0, 100.0) for rate in rates] == [5.0, 10.0, 10.0, 10.0, 5.0]
    assert [step_length_s(rate, 10.0, None) for rate in rates] == [10.0] * 5


def test_one_service_curve_per_round_and_one_prediction_per_rate() -> None:
    """Exact lines are recovered, and equal rounds have an interval of zero width."""
    levels = pd.DataFrame({"round": [1, 1, 1, 2, 2, 2], "users": [1, 2, 8] * 2})
    levels["e2e_mean_s"] = 0.1 + 0.01 * (levels["users"] - 1)
    services = fit_rounds(levels)
    assert [s.capacity_per_s for s in services] == pytest.approx([100, 100])
    predicted = predict_latency(services, [50.0, 150.0])
    assert predicted["offered_per_s"].tolist() == [50, 150]
    assert predicted["value_s"].tolist() == pytest.approx([0.2, np.inf])
    assert predicted["low_s"][0] == pytest.approx(0.2)


def test_slo_attainment_is_predicted_from_the_levels() -> None:
    """If only lone requests are good, half are at half load; without a steady state it is NaN."""
    levels = pd.DataFrame({"users": [1, 2, 1, 2], "good_ratio": [1.0, 0.0, 1.0, 0.0]})
    predicted = predict_slo_attainment([ServiceCurve(0.1, 0.1)] * 2, levels, [5.0, 10.0])
    ratio = predicted["predicted_ratio"]
    assert ratio.iloc[0] == pytest.approx(0.5)
    assert np.isnan(ratio.iloc[1])


def test_the_backlog_of_a_step_ends_with_its_last_arrival() -> None:
    """The drain after the last arrival is not part of the step's load."""
    plan = make_plan(requests=3, arrivals=Poisson(1.0), seed=1)
    records = pd.DataFrame(
        {"scheduled_at": [100.0, 101.0, 102.0], "done_at": [101.5, 104.0, 105.0]}
    )
    table = pd.DataFrame({"offered_per_s": [1.0], "verdict": ["keeps up"]})
    step = Measured(Settings(), table, [Run("r", (100.0, 105.0), records, plan)])
    [(label, verdict, times, running)] = backlog_lines(step)
    assert (label, verdict) == ("1/s", "keeps up")
    assert times.tolist() == [0, 1, 1.5, 2] and running.tolist() == [1, 2, 1, 2]
    assert step.window == (100.0, 105.0)


def test_every_prompt_of_the_probe_is_sent_twice_and_has_a_unique_beginning() -> None:
    """Prompts come in pairs, from one user, in all lengths, and differ between two probes."""
    probe, other = (latency._probe_plan(Settings(), 200, 6, seed=1) for _ in range(2))
    texts = [r.text for r in probe.requests]
    assert texts[0::2] == texts[1::2] and len(set(texts)) == 6 and probe.arrivals.count == 1
    assert not {t[:24] for t in texts} & {r.text[:24] for r in other.requests}
    lengths = sorted(len(t.split()) - 1 for t in texts[0::2])
    assert lengths[0] == 8 and lengths[-1] == 200 and set(texts[0].split()[1:]) <= set(WORDS)


def test_the_two_slopes_of_the_probe() -> None:
    """Fresh prompts cost 50 µs per token and cached ones cost nothing."""
    tokens = np.repeat([100, 200, 400, 800], 2)
    again = np.tile([False, True], 4)
    probe = pd.DataFrame(
        {
            "again": again,
            "prompt_tokens": tokens,
            "prefill_s": np.where(again, 0.005, 5e-5 * tokens),
        }
    )
    slopes = probe_slopes(probe)
    assert slopes["fresh"].per_x == pytest.approx(5e-5) and slopes["again"].per_x == 0


TEXT = """# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="lab-model"} 7.0
vllm:num_requests_waiting{engine="0",model_name="lab-model"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="lab-model",reason="capacity"} 2.0
"""


def test_running_and_waiting_are_added_and_the_reasons_are_not_counted_again() -> None:
    """7 running and 2 waiting requests are 9."""
    assert in_engine(TEXT) == 9
    with pytest.raises(NoData, match="not vLLM's"):
        in_engine("<html>")
    with pytest.raises(NoData, match="not vLLM's"):
        in_engine('vllm:num_requests_running{engine="0"} many')
