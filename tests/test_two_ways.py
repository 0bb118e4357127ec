"""Figures that notebooks compute in two ways agree, or differ for the reason that they state.

They are computed on the recording `workshop`, with the calls of the notebooks.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import lab
from lab import cost, latency, quality, utilisation
from lab.observation import Observation, wait_for_spans
from lab.settings import Settings
from tests.measures.recorded import recorded_run

pytestmark = pytest.mark.slow
OUTCOMES = ["right_tool", "arguments_exact", "answer_right", "recovered", "answer_faithful"]


def observed(settings: Settings, **conditions: object) -> Observation:
    """Observe the recording's run with these conditions."""
    return lab.observe(recorded_run(settings, **conditions)[1], settings)


@pytest.fixture(scope="module")
def bill_run(recorded_lab: Settings) -> Observation:
    """Return the run of notebook 06."""
    return observed(recorded_lab, seed=6, label="")


@pytest.fixture(scope="module")
def versions(recorded_lab: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the judged requests of both versions of notebook 07."""
    conditions, _ = recorded_run(recorded_lab, model="lab-model-canary")
    same = {"rate_per_s": conditions.rate_per_s, "seed": conditions.seed, "temperature": 0.0}
    models = (recorded_lab.model_name, conditions.model)
    old, new = (quality.judged(observed(recorded_lab, **same, model=name)) for name in models)
    return old, new


def test_phases_add_up_to_what_clients_waited(bill_run: Observation) -> None:
    """01 and 04: the sum of the phases is the sum of the end-to-end times."""
    frame = bill_run.requests
    assert latency.phase_table(frame).seconds.sum() == pytest.approx(frame.e2e_s.sum(), abs=1e-6)


def test_spans_are_the_same_at_once_and_trace_by_trace(
    recorded_lab: Settings, bill_run: Observation
) -> None:
    """04 and 05: a run's spans by one query for its window are those of its traces."""
    spans, arrival = wait_for_spans(recorded_lab, bill_run.run.records, bulk=True)
    assert arrival.complete and not arrival.incomplete
    assert set(spans.span_id) == set(bill_run.spans.span_id)


def test_spans_and_histogram_agree(recorded_lab: Settings) -> None:
    """04: of the same calls, the quantile of the spans lies in the histogram's bucket."""
    seen = observed(recorded_lab, api="chat", label="")
    calls = latency.chat_calls(seen)
    buckets = seen.histogram("vllm:e2e_request_latency_seconds")
    table = latency.quantiles_by_source(
        [0.5, 0.95], samples={"spans": calls.engine_e2e_s}, histograms={"buckets": buckets}
    )
    spans, bucket = (table[table.source == name] for name in ("spans", "buckets"))
    assert (bucket.low.to_numpy() <= spans.value.to_numpy() * 1.001).all()
    assert (spans.value.to_numpy() <= bucket.high.to_numpy() * 1.001).all()


def test_the_two_cache_savings_differ_as_the_notebooks_say(
    recorded_lab: Settings, bill_run: Observation
) -> None:
    """06 saves less per token than 04's probe over all lengths, and at most its shorter half."""
    probe = latency.prefix_probe(recorded_lab, max_words=700, prompts=24, seed=21)
    first = probe[~probe.again]
    shorter, _ = latency.slopes_by_half(first.prompt_tokens, first.prefill_s)
    saved = cost.cache_savings(cost.engine_turns(bill_run), cost.saved_ratio(bill_run))
    assert saved.line and saved.line.low <= shorter.high
    assert saved.line.per_x < latency.probe_slopes(probe)["fresh"].per_x
    assert saved.seconds == pytest.approx(saved.line.per_x * saved.tokens)


def test_the_two_api_bills_are_the_same(bill_run: Observation) -> None:
    """03 bills requests and 06 model calls: both with the cached tokens that vLLM served."""
    price = next(iter(cost.api_prices(bill_run.settings).values()))
    by_request = cost.cost_by(bill_run.requests, price, by=["tenant"]).usd.sum()
    turns = cost.with_shares(cost.engine_turns(bill_run), bill_run.run.window)
    mine = turns[turns.request_id.isin(bill_run.requests.request_id)]
    terms = {"window": bill_run.run.window, "usd_per_hour": 1.0, "price": price}
    assert by_request == pytest.approx(cost.bill_by(mine, ["tenant"], **terms).api_usd.sum())


def test_the_machine_s_bill_is_its_window_at_its_price(bill_run: Observation) -> None:
    """06: prefill, decode and idle add up, by phase and by tenant; 1,000 requests cost as much."""
    window = bill_run.run.window
    turns = cost.with_shares(cost.engine_turns(bill_run), window)
    bill = cost.machine_bill(turns, window, 2.0)
    paid = 2.0 * (window[1] - window[0]) / 3600
    assert bill.usd.sum() == pytest.approx(paid)
    price = next(iter(cost.api_prices(bill_run.settings).values()))
    terms = {"window": window, "usd_per_hour": 2.0, "price": price}
    assert cost.bill_by(turns, ["tenant"], **terms).machine_usd.sum() == pytest.approx(paid)
    thousand, low, high = cost.usd_per_thousand(bill.usd.sum(), len(bill_run.requests))
    assert thousand == pytest.approx(1000 * paid / len(bill_run.requests)) and low < thousand < high


def test_tokens_agree_in_three_sources(bill_run: Observation) -> None:
    """03 and 06: client, spans and counters; cached tokens only in the last two."""
    table = cost.reconcile(bill_run).table
    for kind in ("prompt", "completion"):
        assert len(set(table.loc[kind, ["client", "spans", "prometheus"]])) == 1
    assert table.loc["cached", "client"] < table.loc["cached", "prometheus"]


def test_no_more_cores_are_busy_than_there_are(recorded_lab: Settings) -> None:
    """08: the modes add up to the machine's cores, and the lab's processes fit into them."""
    conditions, _ = recorded_run(recorded_lab, seed=8)
    names = ("n_requests", "users", "think_s", "seed")
    load = {name: getattr(conditions, name) for name in names}
    run, cpu = utilisation.watched_drive(recorded_lab, **load)
    seen = lab.observe(run, recorded_lab)
    modes = utilisation.cores_by_mode(seen.samples("node_cpu_seconds_total"))
    cores = modes.groupby("time").value.sum()
    recorded_on = 2  # data/recorded/workshop/README.md
    assert np.allclose(cores, recorded_on, rtol=0.02)
    assert utilisation.busy_cores(modes).value.max() <= recorded_on * 1.02
    by_part = utilisation.cpu_by_source(seen, cpu)
    assert by_part.tree_s.sum() <= recorded_on * run.duration_s * 1.02


def test_the_figure_and_the_test_have_the_same_shares(
    versions: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    """07: the drawn shares, the p-values' shares and the counted pairs are of the same pairs."""
    pairs = quality.pair_up(*versions)
    compared = quality.compare_paired(pairs, OUTCOMES)
    drawn = quality.paired_shares(pairs, OUTCOMES, names=("old", "new"))
    for outcome, row in compared.iterrows():
        both = pairs[[("a", outcome), ("b", outcome)]].dropna().astype(bool)
        assert (row.a_ratio, row.b_ratio) == pytest.approx(tuple(both.mean()))
        shares = drawn[drawn.index == outcome].set_index("version").rate_ratio
        assert (shares["old"], shares["new"]) == pytest.approx((row.a_ratio, row.b_ratio))
        assert row.n == len(both)


def test_wrong_answers_are_counted_alike(versions: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """07: failed, wrong and right requests add up, and alerts count the same wrong ones."""
    _, new = versions
    right = new.answer_right.fillna(False).astype(bool)
    assert right.sum() + new.wrong.sum() == len(new)
    alerts = quality.alert_quality(new, new.wrong)
    caught = alerts.recall_ratio["any"] * new.wrong.sum()
    assert caught == pytest.approx(alerts.precision_ratio["any"] * alerts.flagged["any"])
