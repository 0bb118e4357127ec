"""The same minute is analysed as a driven run and as a window of telemetry."""

from __future__ import annotations

import pytest

import lab
from lab import latency
from lab.observation import Observation, WindowRun
from lab.settings import Settings
from lab.stores.timestamps import utc
from lab.workload import Run

CLIENT_OVERHEAD_S = 0.002  # between the driver's record and its span


@pytest.fixture(scope="module")
def twice(live_lab: Settings) -> tuple[Run, Observation, WindowRun, Observation]:
    """Drive and observe six requests to the agent, and observe the same window of time."""
    run = lab.drive(
        live_lab, n_requests=6, rate_per_s=2.0, seed=31, label="window test", progress=False
    )
    seen = lab.observe(run, live_lab, wait_s=60)
    window = lab.drive(
        live_lab, n_requests=0, window=f"{utc(run.window[0] - 1)}/{utc(run.window[1])}"
    )
    return run, seen, window, lab.observe(window, live_lab)


def test_the_same_requests_are_found(twice) -> None:
    """Every trace of the run is found, although the lab may have served other requests too."""
    run, _, window, observed = twice
    assert set(run.records["trace_id"]) <= set(window.records["trace_id"])
    assert set(run.records["trace_id"]) <= set(observed.arrival.complete)


def test_durations_and_tokens_are_the_same(twice) -> None:
    """Durations agree up to the client's overhead, and tokens exactly."""
    _, seen, _, observed = twice
    driven = seen.requests.set_index("trace_id")
    alone = observed.requests.set_index("trace_id").loc[driven.index]
    assert (alone["e2e_s"] - driven["e2e_s"]).abs().max() < CLIENT_OVERHEAD_S
    for kind in ("prompt", "completion"):
        assert alone[f"span_{kind}_tokens"].tolist() == driven[f"span_{kind}_tokens"].tolist()
    ok = driven["status"] == "ok"
    assert alone.loc[ok, "prompt_tokens"].sum() == driven.loc[ok, "prompt_tokens"].sum()
    assert alone.loc[ok, "completion_tokens"].sum() == driven.loc[ok, "completion_tokens"].sum()
    for column in ("status", "api", "user_id", "tenant", "session_id", "scenario_id", "kind"):
        assert alone[column].tolist() == driven[column].tolist(), column


def test_phases_add_up_without_a_client(twice) -> None:
    """The latency is explained as far as in the driven run."""
    _, _, _, observed = twice
    requests = observed.requests
    assert latency.phase_seconds(requests).sum() == pytest.approx(requests["e2e_s"].sum(), abs=1e-6)
    assert requests["unexplained_s"].abs().sum() < 0.05 * requests["e2e_s"].sum()
    assert requests["answer_states"].isna().all() and requests["ttft_s"].isna().all()
