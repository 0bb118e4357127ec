"""The analyses of a run go through the name maps: other names, other engines, several of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lab.capacity import Measured, engine_pressure, in_engine
from lab.cost import cache_savings, energy, saved_ratio
from lab.measures import level_over_time, time_share_above, time_weighted_mean
from lab.observation import Observation
from lab.settings import Settings
from lab.utilisation import data_availability, gpu_activity
from lab.workload import Run
from tests.engines.pages import DATA, T0, WINDOW, page, scraped

RECORDS = pd.DataFrame(
    {
        "scheduled_at": [T0 + 10.0, T0 + 50.0],
        "sent_at": [T0 + 10.0, T0 + 50.0],
        "done_at": [T0 + 20.0, T0 + 55.0],
    }
)
RUN = Run("by hand", WINDOW, RECORDS, plan=None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    pages = {
        "m06": ("m06_vllm_dp8.t0", "m06_vllm_dp8.t1"),
        "team-a/chat": ("m07_kserve_vllm.t0", "m07_kserve_vllm.t1"),
        "m16": ("m16_sglang_tp4.t0", "m16_sglang_tp4.t1"),
        "m13": ("m13_vllm_pd_decode.t0", "m13_vllm_pd_decode.t1"),
        "mig": ("m18_dcgm_mig", "m18_dcgm_mig"),
    }
    targets = [({"job": job, "instance": job}, page(a), page(b)) for job, (a, b) in pages.items()]
    with scraped(*targets, folder=tmp_path_factory.mktemp("observed")) as settings:
        yield settings


def seen(store: Settings, job: str) -> Observation:
    # The scrape after the run is the last one.
    run = replace(RUN, window=(WINDOW[0], WINDOW[1] - 10))
    return Observation(run, store.model_copy(update={"vllm_job": job}))


def test_a_prefix_is_not_seen_by_the_analysis(store: Settings) -> None:
    """The lab's own names are asked for; increases, histograms and samples have them."""
    kserve = seen(store, "team-a/chat")
    assert kserve.increase("vllm:prompt_tokens_total") == 50_000
    assert kserve.increase("vllm:request_success_total", by=["finished_reason"]).to_dict() == {
        "stop": 100
    }
    assert kserve.histogram("vllm:time_to_first_token_seconds")["count"].sum() == 100
    samples = kserve.samples(kserve.of_vllm("vllm:num_requests_running"))
    assert samples["metric"].unique().tolist() == ["vllm:num_requests_running"]
    availability = data_availability(kserve).set_index("question")
    assert availability.loc["KV cache in use", "series"] == 1


def test_sglangs_ranks_are_one_engine_to_the_analysis(store: Settings) -> None:
    """One value of four ranks; its own names answer the lab's questions."""
    sglang = seen(store, "m16")
    running = sglang.samples(sglang.of_vllm("vllm:num_requests_running"))
    assert time_weighted_mean(running) == 6
    assert sglang.increase("vllm:prompt_tokens_total") == 52_000


def test_what_a_prefill_instance_computed_is_no_saving(store: Settings) -> None:
    """The API reports 999 of 1,000 tokens as cached (m13_usage.json); caching saved none."""
    usage = json.loads((DATA / "m13_usage.json").read_text())["usage"]
    turns = pd.DataFrame(
        {
            "prefill_s": [0.01] * 20,
            "prompt_tokens": [usage["prompt_tokens"]] * 20,
            "cached_tokens": [usage["prompt_tokens_details"]["cached_tokens"]] * 20,
        }
    )
    assert saved_ratio(seen(store, "m13")) == 0
    assert cache_savings(turns, saved_ratio(seen(store, "m13"))).tokens == 0
    assert saved_ratio(seen(store, "team-a/chat")) == 1
    assert cache_savings(turns).tokens == 20 * 999


def test_engine_pressure_never_adds_shares_up(store: Settings) -> None:
    """Eight engines at 31 % and 97 % are not at 314 %."""
    settings = store.model_copy(update={"vllm_job": "m06"})
    measured = Measured(settings, pd.DataFrame({"offered_per_s": [1.0]}), [seen(store, "m06").run])
    (row,) = engine_pressure(measured).to_dict("records")
    assert row["kv_cache_ratio"] == 0.97
    assert (row["running"], row["waiting"]) == (148, 190)


def test_a_mig_instance_has_a_row_and_its_gpu_its_power_once(store: Settings) -> None:
    """210 W, not 630; the verdict rests on GR_ENGINE_ACTIVE and says so."""
    gpus = gpu_activity(seen(store, "mig"))
    table = gpus.table.set_index("instance")
    assert table["power_w"].sum() == 210
    assert gpus.mean("power_w") == 210
    busy = table.loc["7 (1g.11gb)"]
    assert busy["engine_ratio"] == 0.9
    assert "by GR_ENGINE_ACTIVE: no GPU_UTIL here" in busy["verdict"]
    assert "mostly without work" in table.loc["8 (1g.11gb)", "verdict"]
    assert table.loc["", "verdict"] == "divided (MIG): see its instances"


def test_replicas_that_are_scraped_at_different_instants() -> None:
    """One at even, one at odd seconds: at any time both count."""
    rows = [(at, "ab"[at % 2], 2.0 if at % 2 else 1.0) for at in range(8)]
    table = pd.DataFrame(rows, columns=["second", "instance", "value"])
    table["time"] = pd.to_datetime(table.pop("second") + T0, unit="s", utc=True)
    assert time_weighted_mean(table) == pytest.approx(19 / 7)
    assert level_over_time(table, "max").max() == 2
    assert time_share_above(table, 2.5) == pytest.approx(6 / 7)


def test_a_page_of_any_engine_can_be_polled() -> None:
    text = 'sglang:num_running_reqs{a="b"} 3\nsglang:num_queue_reqs{a="b"} 2\n'
    assert in_engine(text) == 5


@pytest.mark.parametrize(
    "name", ["dcgm_fi_dev_total_energy_consumption", "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION_total"]
)
def test_energy_by_the_exporters_other_names(name: str, tmp_path: Path) -> None:
    """Lower case, or with _total; a GPU that two pods share counts once."""
    series = [f'{name}{{gpu="0",UUID="GPU-0",pod="{pod}"}} JOULES' for pod in "ab"]
    gpu = "\n".join(series)
    before = gpu.replace("JOULES", "1000000")
    after = gpu.replace("JOULES", "1250000")
    target = {"job": "dcgm", "instance": "node:9400"}
    with scraped((target, before, after), folder=tmp_path) as settings:
        used = energy(seen(settings, "vllm"))
    assert used.joules == pytest.approx(250)
