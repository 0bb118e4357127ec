"""The same quantile by several sources, each with the interval in which the truth lies."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from lab.errors import FrameError
from lab.figures.style import figure, need_rows

_BUCKET, _SAMPLE = "#CC79A7", "#0072B2"


@figure
def quantile_intervals(table: pd.DataFrame, *, unit: str = "seconds", ax: Axes) -> Axes:
    """One row a quantile and source: a point with its bootstrap interval for samples; for histograms the bucket as a
    band, in which the interpolated value is a mere tick, hatched where one bucket holds everything.

    `table` is `lab.measures.quantiles_by_source(...)`. Raises FrameError without rows.
    """
    need_rows(table, "quantiles")
    if missing := {"source", "q", "value", "low", "high", "interval"} - set(table):
        raise FrameError(
            f"the table lacks {', '.join(sorted(missing))}", fix="make it with quantiles_by_source"
        )
    right = table.loc[table["high"] < float("inf"), "high"].max()
    for y, row in enumerate(table.itertuples()):
        if row.n == 0:
            ax.annotate(
                "no data",
                (0, y),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        elif row.interval.startswith("bootstrap"):
            spread = [[row.value - row.low], [row.high - row.value]]
            ax.errorbar(row.value, y, xerr=spread, fmt="o", color=_SAMPLE, capsize=4)
        else:
            width = min(row.high, right * 1.1) - row.low
            hatch = "////" if row.interval != "bucket" else None
            ax.barh(
                y,
                width,
                left=row.low,
                height=0.5,
                color=_BUCKET,
                alpha=0.35,
                hatch=hatch,
                edgecolor=_BUCKET,
            )
            ax.plot(row.value, y, marker="|", markersize=12, color=_BUCKET, markeredgewidth=2)
    names = [f"p{row.q * 100:g}  {row.source}  (n={row.n:,.0f})" for row in table.itertuples()]
    ax.set_yticks(range(len(table)), names)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_xlim(left=0)
    ax.set_xlabel(
        f"{unit}\nline: bootstrap 95 %; band: the histogram's bucket, hatched where it holds all"
    )
    ax.grid(axis="y", visible=False)
    return ax
