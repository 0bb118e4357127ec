"""Token books and costs."""

from __future__ import annotations

import math
from datetime import date

import pandas as pd
import pytest

from lab.errors import FrameError
from lab.measures import books, cost_by, cost_table, machine_usd_per_mtok, token_totals
from lab.prices import ApiPrice, MachinePrice

PRICE = ApiPrice("list", 1.0, 10.0, "for the test", date(2026, 1, 1), "by hand", cached_input_usd_per_mtok=0.5)


def requests() -> pd.DataFrame:
    """Two requests: 1,000,000 prompt tokens of which 400,000 cached, 100,000 generated, and one that failed unheard."""
    frame = {
        "kind": ["single", "single"], "tenant": ["a", "b"], "status": ["ok", "error"],
        "prompt_tokens": [1_000_000, -1], "cached_tokens": [400_000, -1], "completion_tokens": [100_000, -1],
        "span_prompt_tokens": [1_000_000, 500], "span_cached_tokens": [400_000, 0],
        "span_completion_tokens": [100_000, 7],
    }  # fmt: skip
    return pd.DataFrame(frame)


def test_the_books_of_a_request_frame() -> None:
    """Client and spans side by side, the counters beside them; what the API did not say is nothing for the client."""
    table = books({**token_totals(requests()), "prometheus": {"prompt": 1_000_500, "completion": 100_007}})
    assert table.loc["prompt", ["client", "spans", "prometheus"]].tolist() == [1_000_000, 1_000_500, 1_000_500]
    assert table.difference_tokens.to_dict() == {"prompt": 500, "cached": 0, "completion": 7}
    assert math.isnan(table.loc["cached", "prometheus"])
    assert (books(token_totals(requests().head(1))).difference_tokens == 0).all()


def test_a_run_without_tokens_has_no_price() -> None:
    """Nothing is divided by nothing."""
    machine = MachinePrice("m", 1.0, "", date(2026, 1, 1), "by hand")
    with pytest.raises(FrameError, match="nothing to pay"):
        cost_table(0, 0, 0, 1, seconds=1, busy_s=1, machine=machine, apis={})


def test_cost_by_hand() -> None:
    """600,000 fresh at 1, 400,000 cached at 0.5 and 100,000 generated at 10 USD a million: 1.80; and the failed one by
    the tokens that vLLM saw."""
    table = cost_by(requests(), PRICE, by=["tenant"]).set_index("tenant")
    assert table.usd["a"] == pytest.approx(0.6 + 0.2 + 1.0) and table.failed_usd["a"] == 0
    assert table.usd["b"] == table.failed_usd["b"] == pytest.approx((500 + 70) / 1e6)
    assert cost_by(requests(), PRICE).usd_per_request[0] == pytest.approx((1.8 + 0.00057) / 2)


def test_a_machines_tokens_cost_by_the_hour() -> None:
    """3.6 million tokens in an hour of a 7.2 USD machine: 2 USD a million; half as many cost twice as much each."""
    assert machine_usd_per_mtok(7.2, 3600, 3.6e6) == pytest.approx(2.0)
    assert machine_usd_per_mtok(7.2, 3600, 1.8e6) == pytest.approx(4.0)
    assert math.isnan(machine_usd_per_mtok(1, 1, 0))
