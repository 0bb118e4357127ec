"""What joins runs into levels and sweeps, as far as it needs no server."""

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
    sweep_rates,
)
from lab.errors import NoData
from lab.latency import WORDS, probe_slopes
from lab.measures import ServiceCurve
from lab.settings import Settings
from lab.workload import Poisson, Run, make_plan


def test_the_loads_of_a_sweep_are_round_so_that_a_recording_has_the_same() -> None:
    """Two digits, ascending, none twice."""
    assert sweep_rates(97.8655, [0.6, 0.15, 1.2]) == [15.0, 59.0, 120.0]
    assert sweep_rates(10.0, [0.5, 0.501]) == [5.0]


def test_a_service_a_round_and_a_prediction_a_rate() -> None:
    """Exact lines are found again; both rounds alike leave an interval of no width."""
    levels = pd.DataFrame({"round": [1, 1, 1, 2, 2, 2], "users": [1, 2, 8] * 2})
    levels["e2e_mean_s"] = 0.1 + 0.01 * (levels["users"] - 1)
    services = fit_rounds(levels)
    assert [s.capacity_per_s for s in services] == pytest.approx([100, 100])
    predicted = predict_latency(services, [50.0, 150.0])
    assert predicted["offered_per_s"].tolist() == [50, 150] and predicted[
        "value_s"
    ].tolist() == pytest.approx([0.2, np.inf])
    assert predicted["low_s"][0] == pytest.approx(0.2)


def test_shares_of_good_requests_are_predicted_from_those_of_the_levels() -> None:
    """A server that is good to lone requests only: at half load every second one finds it empty.

    No share is predicted where there is no steady state.
    """
    levels = pd.DataFrame({"users": [1, 2, 1, 2], "good_ratio": [1.0, 0.0, 1.0, 0.0]})
    predicted = predict_slo_attainment([ServiceCurve(0.1, 0.1)] * 2, levels, [5.0, 10.0])
    assert predicted["predicted_ratio"].iloc[0] == pytest.approx(0.5) and np.isnan(
        predicted["predicted_ratio"].iloc[1]
    )


def test_the_backlog_of_a_step_is_drawn_while_its_requests_come() -> None:
    """Three requests: the drain after the last arrival is not the step's load."""
    plan = make_plan(requests=3, arrivals=Poisson(1.0), seed=1)
    records = pd.DataFrame(
        {"scheduled_at": [100.0, 101.0, 102.0], "done_at": [101.5, 104.0, 105.0]}
    )
    table = pd.DataFrame({"offered_per_s": [1.0], "verdict": ["keeps up"]})
    step = Measured(Settings(), table, [Run("r", (100.0, 105.0), records, plan)])
    [(label, verdict, at, running)] = backlog_lines(step)
    assert (label, verdict) == ("1/s", "keeps up")
    assert at.tolist() == [0, 1, 1.5, 2] and running.tolist() == [1, 2, 1, 2]
    assert step.window == (100.0, 105.0)


def test_every_prompt_of_the_probe_is_sent_twice_and_begins_as_none_before() -> None:
    """In pairs, by one user, of all lengths; two probes of one seed have no beginning in common."""
    one, other = (latency._probe_plan(Settings(), 200, 6, seed=1) for _ in range(2))
    texts = [r.text for r in one.requests]
    assert texts[0::2] == texts[1::2] and len(set(texts)) == 6 and one.arrivals.count == 1
    assert not {t[:24] for t in texts} & {r.text[:24] for r in other.requests}
    lengths = sorted(len(t.split()) - 1 for t in texts[0::2])
    assert lengths[0] == 8 and lengths[-1] == 200 and set(texts[0].split()[1:]) <= set(WORDS)


def test_the_probes_two_slopes() -> None:
    """Fresh prompts cost 50 µs a token, cached ones nothing."""
    tokens = np.repeat([100, 200, 400, 800], 2)
    again = np.tile([False, True], 4)
    probe = pd.DataFrame(
        {
            "again": again,
            "prompt_tokens": tokens,
            "prefill_s": np.where(again, 0.005, 5e-5 * tokens),
        }
    )
    found = probe_slopes(probe)
    assert found["fresh"].per_x == pytest.approx(5e-5) and found["again"].per_x == 0


TEXT = """# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="lab-model"} 7.0
vllm:num_requests_waiting{engine="0",model_name="lab-model"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="lab-model",reason="capacity"} 2.0
"""


def test_running_and_waiting_are_added_up_and_the_reasons_are_not_counted_again() -> None:
    """7 running and 2 waiting are 9."""
    assert in_engine(TEXT) == 9
    with pytest.raises(NoData, match="not vLLM's"):
        in_engine("<html>")
