"""Tokens and what they cost."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from lab.errors import FrameError
from lab.figures.stacked import Part, stacked
from lab.figures.style import figure, need_rows


@figure
def tokens_cost(bill: pd.DataFrame, *, by: str, usd: str = "usd", ax: Axes) -> Axes:
    """Tokens of each group, stacked by what they are, with the group's cost (column `usd`) at the end of its bar.

    `bill` is `lab.measures.cost_by(..., by=[by])`, or `bill_by` with `usd="api_usd"`. Raises FrameError without rows or
    where a column is missing.
    """
    need_rows(bill, "groups with tokens")
    if missing := {
        by,
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        usd,
        "requests",
    } - set(bill):
        raise FrameError(
            f"the bill lacks {', '.join(sorted(missing))}", fix="make it with lab.measures.cost_by"
        )
    bill = bill.assign(total=bill["prompt_tokens"] + bill["completion_tokens"]).sort_values("total")
    parts = [
        Part("fresh prompt", "#E69F00", bill["prompt_tokens"] - bill["cached_tokens"]),
        Part("prompt from the cache", "#F0E442", bill["cached_tokens"]),
        Part("generated", "#D55E00", bill["completion_tokens"]),
    ]
    labels = [f"{name}  ({n})" for name, n in zip(bill[by], bill["requests"], strict=True)]
    ends = [f"{cost:.3g} USD" for cost in bill[usd]]
    stacked(ax, labels, parts, ends, xlabel="tokens (number of requests in brackets)")
    ax.xaxis.set_major_formatter(lambda tokens, _: f"{tokens:,.0f}")
    return ax
