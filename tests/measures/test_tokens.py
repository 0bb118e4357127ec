"""Token books and costs."""

from __future__ import annotations

import math
from datetime import date

import pandas as pd
import pytest

from lab.errors import FrameError
from lab.measures import cost_by, machine_usd_per_mtok, reconcile_totals, token_totals
from lab.prices import ApiPrice
from tests.measures.recorded import recorded_requests

PRICE = ApiPrice(
    "list", 1.0, 10.0, "for the test", date(2026, 1, 1), "by hand", cached_input_usd_per_mtok=0.5
)


def requests() -> pd.DataFrame:
    """Two requests: 1,000,000 prompt tokens of which 400,000 cached,
    100,000 generated, and one that failed unheard.
    """
    frame = {
        "kind": ["single", "single"],
        "tenant": ["a", "b"],
        "status": ["ok", "error"],
        "prompt_tokens": [1_000_000, -1],
        "cached_tokens": [400_000, -1],
        "completion_tokens": [100_000, -1],
        "span_prompt_tokens": [1_000_000, 500],
        "span_cached_tokens": [400_000, 0],
        "span_completion_tokens": [100_000, 7],
    }
    return pd.DataFrame(frame)


def test_totals_of_every_source_side_by_side() -> None:
    """What the API did not say is nothing for the client, and is counted."""
    totals = token_totals(requests(), {"prompt": 1_000_500, "completion": 100_007})
    assert totals.loc["prompt"].tolist() == [1_000_000, 1_000_500, 1_000_500]
    assert math.isnan(totals.loc["cached", "prometheus"]) and totals.attrs["client_silent"] == 1
    with pytest.raises(FrameError, match="not kinds of tokens"):
        token_totals(requests(), {"input": 3})


def test_the_books_balance_to_the_token_or_say_by_how_much_not() -> None:
    """Differences are explicit; an unknown total is not a difference."""
    balance = reconcile_totals(
        token_totals(requests(), {"prompt": 1_000_500, "completion": 100_007})
    )
    assert balance.spans_less_client.tolist() == [500, 0, 7]
    assert balance.prometheus_less_client.tolist()[0] == 500 and balance.balanced.tolist() == [
        False,
        True,
        False,
    ]
    assert reconcile_totals(token_totals(requests().head(1))).balanced.all()


def test_cost_by_hand() -> None:
    """600,000 fresh at 1, 400,000 cached at 0.5 and 100,000 generated at 10 USD a million: 1.80;
    and the failed one by the tokens that vLLM saw.
    """
    table = cost_by(requests(), PRICE, by=["tenant"]).set_index("tenant")
    assert table.usd["a"] == pytest.approx(0.6 + 0.2 + 1.0) and table.failed_usd["a"] == 0
    assert table.usd["b"] == table.failed_usd["b"] == pytest.approx((500 + 70) / 1e6)
    assert cost_by(requests(), PRICE).usd_per_request[0] == pytest.approx((1.8 + 0.00057) / 2)


def test_the_bill_of_a_recorded_run_counts_the_cached_tokens_of_every_call() -> None:
    """Llama Stack reports the cached tokens of a request's last call only;
    vLLM served more, and bills are made of it.
    """
    frame = recorded_requests("run-20261126T135112-da92", "first-look")
    sums = frame[["span_prompt_tokens", "span_completion_tokens", "span_cached_tokens"]].sum()

    bill = cost_by(frame, PRICE, by=["tenant"])

    assert frame["cached_tokens"].sum() < 0.7 * sums["span_cached_tokens"]
    assert bill["cached_tokens"].sum() == sums["span_cached_tokens"]
    assert bill["usd"].sum() == pytest.approx(PRICE.cost_usd(*sums))


def test_cached_tokens_of_an_incomplete_trace_are_at_least_the_clients() -> None:
    """No span of the second request's calls has arrived:
    the client's 400,000 cached tokens are billed as such.
    """
    frame = requests().head(1).assign(span_prompt_tokens=0, span_cached_tokens=0)
    assert cost_by(frame, PRICE).cached_tokens[0] == 400_000


def test_a_machines_tokens_cost_by_the_hour() -> None:
    """3.6 million tokens in an hour of a 7.2 USD machine:
    2 USD a million; half as many cost twice as much each.
    """
    assert machine_usd_per_mtok(7.2, 3600, 3.6e6) == pytest.approx(2.0)
    assert machine_usd_per_mtok(7.2, 3600, 1.8e6) == pytest.approx(4.0)
    assert math.isnan(machine_usd_per_mtok(1, 1, 0))
