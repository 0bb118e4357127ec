"""Latency: where the time went, and how it is distributed by each source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from lab.errors import FrameError
from lab.figures.style import PHASE_COLOURS, figure, need_rows

_NOISE = 1e-6  # of the whole: less than that is rounding, not a phase


@figure
def phases(frame: pd.DataFrame, *, by: str = "kind", ax: Axes) -> Axes:
    """Mean seconds of each phase, stacked, one bar a value of column `by`.

    `frame` is a request frame; requests of which `by` is not known are one bar. Only requests whose trace is complete
    are drawn; how many is in the labels. Raises FrameError if there is none.
    """
    whole = frame[frame["trace_complete"].astype(bool)]
    need_rows(whole, "request with a complete trace")
    totals = whole[[p for p in PHASE_COLOURS if p in whole]].fillna(0).abs().sum()
    names = totals.index[totals > _NOISE * totals.sum()]
    groups = whole.groupby(whole[by].astype(object).fillna("(not said)"))
    means, sizes = groups[names].mean().fillna(0.0), groups.size()
    order = means.sum(axis=1).sort_values().index
    left = np.zeros(len(order))
    for name in names:
        width = means.loc[order, name].to_numpy()
        edge = "#555555" if name == "unexplained_s" else "none"
        label = name.removesuffix("_s").replace("_", " ")
        ax.barh(
            range(len(order)),
            width,
            left=left,
            color=PHASE_COLOURS[name],
            edgecolor=edge,
            label=label,
        )
        left += width
    ax.set_yticks(range(len(order)), [f"{g}  ({sizes[g]})" for g in order])
    ax.set_xlabel("mean seconds a request (complete traces; their number in brackets)")
    ax.grid(axis="y", visible=False)
    ax.legend(ncols=5, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=8)
    return ax


@figure
def ecdf(
    sources: Mapping[str, Sequence[float]] | pd.DataFrame,
    *,
    histograms: Mapping[str, pd.DataFrame] | None = None,
    unit: str = "seconds",
    log: bool = True,
    ax: Axes,
) -> Axes:
    """The share of requests that took at most so long, one curve a source. Missing values are left out and counted.

    Of `histograms` (name -> lab.frames.histogram_frame) the curve is known at the buckets' bounds only: in between it
    lies somewhere in the shaded boxes. Raises FrameError if no source has a value.
    """
    drawn = 0
    for name in sources:
        values = np.sort(pd.Series(sources[name], dtype="float64").dropna().to_numpy())
        if len(values):
            drawn += len(values)
            ax.step(
                values,
                np.arange(1, len(values) + 1) / len(values),
                where="post",
                label=f"{name} (n={len(values)})",
            )
    if not drawn:
        raise FrameError(
            "there is nothing to draw: no source has a value",
            got=", ".join(map(str, sources)) or "no source",
        )
    for name, buckets in (histograms or {}).items():
        _boxes(ax, name, buckets)
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(0, 1.02)
    ax.set_xlabel(unit)
    ax.set_ylabel("share of requests")
    ax.legend(loc="lower right", fontsize=9)
    return ax


def _boxes(ax: Axes, name: str, buckets: pd.DataFrame) -> None:
    """Where a histogram lets the curve run: from each bound to the next, between the shares at the two."""
    total = buckets["count"].sum()
    share = buckets["count"].cumsum() / total
    full = (buckets["count"] > 0) & np.isfinite(buckets["upper"])
    label: str | None = f"{name} (n={total:,.0f})"
    for (_, bucket), upto in zip(buckets[full].iterrows(), share[full], strict=True):
        below = upto - bucket["count"] / total
        bounds = [bucket["lower"], bucket["upper"]]
        ax.fill_between(bounds, below, upto, alpha=0.3, linewidth=0, color="#CC79A7", label=label)
        label = None
