"""Tokens and what they cost."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lab.errors import FrameError
from lab.figures.style import figure, need_rows

_PARTS = (("fresh prompt", "#E69F00"), ("prompt from the cache", "#F0E442"), ("generated", "#D55E00"))


@figure
def tokens_cost(bill: pd.DataFrame, *, by: str, ax: Axes) -> Axes:
    """Tokens of each group, stacked by what they are, with the group's cost at the end of its bar.

    `bill` is `lab.measures.cost_by(..., by=[by])`. Raises FrameError without rows or where a column is missing.
    """
    need_rows(bill, "groups with tokens")
    if missing := {by, "prompt_tokens", "cached_tokens", "completion_tokens", "usd", "requests"} - set(bill):
        raise FrameError(f"the bill lacks {', '.join(sorted(missing))}", do="make it with lab.measures.cost_by")
    bill = bill.assign(total=bill["prompt_tokens"] + bill["completion_tokens"]).sort_values("total")
    fresh = bill["prompt_tokens"] - bill["cached_tokens"]
    y, left = np.arange(len(bill)), np.zeros(len(bill))
    for (name, colour), tokens in zip(_PARTS, (fresh, bill["cached_tokens"], bill["completion_tokens"]), strict=True):
        ax.barh(y, tokens, left=left, color=colour, label=name, linewidth=0)
        left += tokens.to_numpy(float)
    for at, total, usd in zip(y, left, bill["usd"], strict=True):
        ax.annotate(f"{usd:.3g} USD", (total, at), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_yticks(y, [f"{name}  ({n})" for name, n in zip(bill[by], bill["requests"], strict=True)])
    ax.set_xlim(0, float(left.max()) * 1.22)
    ax.xaxis.set_major_formatter(lambda tokens, _: f"{tokens:,.0f}")
    ax.set_xlabel("tokens (number of requests in brackets)")
    ax.grid(axis="y", visible=False)
    ax.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=9)
    return ax
