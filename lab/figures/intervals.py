"""Shares with their confidence intervals."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from lab.figures.style import figure, need_rows


@figure
def interval_bars(rates: pd.DataFrame, *, of: str = "requests", ax: Axes) -> Axes:
    """Draw one share with its interval per row.

    `rates` has `rate_ratio`, `low_ratio`, `high_ratio` (0 to 1) and `n`; its index names the rows. `of` says what the n
    of each row are. Raises FrameError without rows.
    """
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
    ax.set_xlabel(f"percent of the n {of}, with the Wilson 95 % interval")
    ax.grid(axis="y", visible=False)
    return ax
