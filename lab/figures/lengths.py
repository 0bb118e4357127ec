"""How time grows with tokens, and what a histogram's default buckets make of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lab.figures.style import SERVICE_COLOURS, figure, need_rows

_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")


@figure
def growth(
    points: Mapping[str, tuple[Any, Any]],
    lines: Mapping[str, Any] | None = None,
    *,
    xlabel: str,
    ylabel: str,
    ax: Axes,
) -> Axes:
    """Points (x, seconds) of one or more kinds, drawn in milliseconds, each with its fitted line (`lab.measures.Slope`)
    where given. Raises FrameError where there is no point."""
    need_rows([x for xs, _ in points.values() for x in xs], "points")
    for colour, (name, (x, y)) in zip(_COLOURS, points.items(), strict=False):
        xs, ys = np.asarray(x, float), np.asarray(y, float) * 1e3
        there = np.isfinite(xs) & np.isfinite(ys)
        xs, ys = xs[there], ys[there]
        label = f"{name} (n={len(xs)})"
        if lines and name in lines:
            one = lines[name]
            ends = np.array([np.nanmin(xs), np.nanmax(xs)])
            ax.plot(ends, one.at(ends) * 1e3, color=colour, linewidth=1.4)
            factor, unit = (1e3, "ms") if abs(one.per_x) >= 1e-3 else (1e6, "µs")
            low, per, high = (value * factor for value in (one.low, one.per_x, one.high))
            label = f"{name} (n={len(xs)}): {per:.2f} {unit} a token [{low:.2f}, {high:.2f}]"
        ax.plot(xs, ys, "o", markersize=4, alpha=0.5, color=colour, markeredgewidth=0, label=label)
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=9)
    return ax


@figure
def bucketed_against_exact(table: pd.DataFrame, *, ax: Axes) -> Axes:
    """What default buckets would have said beside the truth, one row a quantity and quantile, on a logarithmic axis.

    `table` is `lab.measures.quantiles_by_bucketing(...)`. The band is the bucket, all that the histogram knows. Raises
    FrameError without rows.
    """
    need_rows(table, "quantiles")
    left = min(table["exact_low_s"].min(), table["bucketed_s"].min()) * 0.5
    for y, row in enumerate(table.itertuples()):
        low, high = (
            max(row.low_s, left),
            row.high_s if np.isfinite(row.high_s) else row.bucketed_s * 3,
        )
        ax.barh(y, high - low, left=low, height=0.55, color="#CC79A7", alpha=0.25, linewidth=0)
        ax.plot([row.exact_s, row.bucketed_s], [y, y], color="#bbbbbb", linewidth=1, zorder=1)
        spread = [[row.exact_s - row.exact_low_s], [row.exact_high_s - row.exact_s]]
        ax.errorbar(row.exact_s, y, xerr=spread, fmt="o", color="#0072B2", capsize=3)
        ax.plot(row.bucketed_s, y, "D", color="#CC79A7", markersize=6)
        ax.annotate(f"{row.bucketed_s / row.exact_s:.1f}x", (max(row.bucketed_s, row.exact_s), y), xytext=(8, 0),
                    textcoords="offset points", va="center", fontsize=8)  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlim(left, ax.get_xlim()[1] * 1.4)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_yticks(
        range(len(table)), [f"{row.what}  p{row.q * 100:g}" for row in table.itertuples()]
    )
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_xlabel(
        "seconds\ncircle: truth with its interval; diamond: what the dashboard shows; band: the bucket"
    )
    ax.grid(axis="y", visible=False)
    return ax


@figure
def critical_bars(table: pd.DataFrame, *, rows: int = 12, ax: Axes) -> Axes:
    """Share of the critical path by span, the longest first; `table` is `lab.measures.critical_path(...)`. What is not
    among the first `rows` is one bar of its own. Raises FrameError without rows."""
    need_rows(table, "spans on a critical path")
    shown, rest = table.head(rows), table.iloc[rows:]
    names = [f"{r.service}: {r.name}" for r in shown.itertuples(index=False, name="Row")]
    shares, services = shown["share_ratio"].tolist(), shown["service"].tolist()
    if len(rest):
        names, services = [*names, f"{len(rest)} others"], [*services, ""]
        shares.append(float(rest["share_ratio"].sum()))
    fill = [SERVICE_COLOURS.get(service, "#cccccc") for service in services]
    bars = ax.barh(range(len(names)), np.array(shares) * 100, color=fill)
    ax.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel("percent of the time on the critical path")
    ax.grid(axis="y", visible=False)
    return ax
