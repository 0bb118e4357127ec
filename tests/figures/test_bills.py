"""Bills and prices are drawn as they are, and nothing is not drawn at all."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from lab import figures
from lab.errors import FrameError

BILL = pd.DataFrame(
    {
        "tenant": ["a", "b", "c"],
        "requests": [5, 2, 1],
        "prefill_usd": [2e-3, 1e-3, 1e-3],
        "decode_usd": [3e-3, 1e-3, 0.0],
        "idle_usd": [5e-3, 2e-3, 1e-3],
    }
)


@pytest.fixture(autouse=True)
def _close() -> object:
    yield
    plt.close("all")


def test_the_dearest_is_on_top_in_a_unit_that_can_be_read() -> None:
    """Thousandths of a dollar for small sums; the share of the whole at the end of each bar."""
    ax = figures.machine_costs(BILL, by="tenant")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["c  (1)", "b  (2)", "a  (5)"]
    assert [t.get_text() for t in ax.texts] == ["12%", "25%", "62%"] and ax.get_xlabel().startswith(
        "mUSD"
    )
    assert [round(p.get_width(), 9) for p in ax.patches] == [1, 1, 2, 0, 1, 3, 1, 2, 5]


def test_what_would_not_fit_is_drawn_as_one() -> None:
    """Nothing is left out of the sum."""
    ax = figures.machine_costs(BILL, by="tenant", max_rows=2)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["2 others  (3)", "a  (5)"]
    assert [t.get_text() for t in ax.texts] == ["38%", "62%"]


def test_prices_stand_on_a_log_scale() -> None:
    """Every price has its number beside it; groups have a colour each."""
    ax = figures.prices({"own": (20.0, "own"), "list": (0.2, "API"), "unknown": (0.0, "API")})
    assert ax.get_xscale() == "log" and [t.get_text() for t in ax.texts] == ["20", "0.2"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["own", "API"]


def test_nothing_is_refused() -> None:
    """Neither an empty bill nor prices of nothing make a figure;
    a table of another kind is named.
    """
    with pytest.raises(FrameError, match="nothing to draw"):
        figures.machine_costs(BILL.iloc[:0], by="tenant")
    with pytest.raises(FrameError, match="nothing to draw"):
        figures.prices({"own": (0.0, "own")})
    with pytest.raises(FrameError, match="lacks idle_usd"):
        figures.machine_costs(BILL.drop(columns="idle_usd"), by="tenant")
