"""Shares with their confidence intervals."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from lab.figures.style import figure, need_rows


@figure
def interval_bars(rates: pd.DataFrame, *, ax: Axes) -> Axes:
    """One point with its interval a row. Columns: `rate_ratio`, `low_ratio`, `high_ratio` (0 to 1), and `n`; the index
    names the rows. Raises FrameError without rows."""
    need_rows(rates, "rates")
    y = range(len(rates))
    below, above = (
        rates["rate_ratio"] - rates["low_ratio"],
        rates["high_ratio"] - rates["rate_ratio"],
    )
    ax.errorbar(rates["rate_ratio"] * 100, y, xerr=[below * 100, above * 100], fmt="o", capsize=4)
    ax.set_yticks(y, [f"{name}  (n={n})" for name, n in zip(rates.index, rates["n"], strict=True)])
    ax.set_ylim(len(rates) - 0.5, -0.5)
    ax.set_xlim(-2, 102)
    ax.set_xlabel("percent, with the Wilson 95 % interval")
    ax.grid(axis="y", visible=False)
    return ax
