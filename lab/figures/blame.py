"""Who delayed whom: culprits side by side, and one culprit's prefills across everyone's calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lab.errors import FrameError
from lab.figures.style import annotate_end, figure, legend_above, name_rows, need_columns, need_rows

_CULPRIT, _STALLED, _RUNNING, _OTHERS = "#b2182b", "#F0A030", "#9ecae1", "#999999"
_MIN_SHOWN_S = 0.05


@figure
def culprits(table: pd.DataFrame, *, rows: int = 8, ax: Axes) -> None:
    """Draw the seconds that others lost to each culprit, the worst on top.

    A bar with its interval, red where it lies beyond what is usual (the tick). `table` is
    `lab.measures.blame(...).culprits`. Raises FrameError without rows.
    """
    need_rows(table, "culprits")
    need_columns(table, ["culprit", "lost_s", "low_s", "high_s", "usual_s"], "lab.measures.blame")
    shown = table.head(rows)
    colours = [_CULPRIT if blamed else _OTHERS for blamed in shown["blamed"]]
    ax.barh(range(len(shown)), shown["lost_s"], color=colours, height=0.6)
    for y, row in enumerate(shown.itertuples()):
        ax.plot([row.low_s, row.high_s], [y, y], color="black", linewidth=1.2)
        if np.isfinite(row.usual_s):
            ax.plot([row.usual_s] * 2, [y - 0.38, y + 0.38], color="black", linewidth=2)
        text = f"{row.lost_s:,.1f} s from {row.victims} requests"
        annotate_end(ax, text, _right_of(row), y)
    name_rows(ax, [f"{row.culprit}  ({row.calls} calls)" for row in shown.itertuples()])
    right = float(shown[["high_s", "lost_s"]].max().max())
    ax.set_xlim(0, max(right, 1e-3) * 1.45)
    note = "line: 95 % interval; tick: the most that is usual for so many requests; red: beyond it"
    ax.set_xlabel(f"seconds that other requests lost\n{note}")


def _right_of(row: Any) -> float:
    usual_s = row.usual_s if np.isfinite(row.usual_s) else 0.0
    return float(max(row.high_s, row.lost_s, usual_s))


@figure
def stalls(turns: pd.DataFrame, blamed: Any, culprit: object, *, rows: int = 30, ax: Axes) -> None:
    """Draw the calls that lost most to a culprit over time, across the culprit's prefills.

    One line per call, from when it was sent to its last token: orange while the culprit was in
    prefill, with the seconds that it lost at its end. `turns` is the turn frame that `blamed`
    (`lab.measures.blame(...)`) was made from. Raises FrameError where nobody lost anything to it.
    """
    lost = blamed.losses[blamed.losses["culprit"] == culprit]
    by_trace = lost.groupby("victim_trace")["lost_s"].sum()
    by_trace = by_trace[by_trace > _MIN_SHOWN_S].nlargest(rows)
    if by_trace.empty:
        raise FrameError(f"nobody lost anything to {culprit}", fix="name one of Blame.culprits")

    timed = turns.dropna(subset=["called_at", "first_token_at", "ended_at"])
    bands = timed.loc[timed[blamed.by] == culprit, ["scheduled_at", "first_token_at"]]
    victims = timed[timed["trace_id"].isin(by_trace.index)]
    order = victims.groupby("trace_id")["called_at"].min().sort_values().index
    origin = min(victims["called_at"].min(), bands["scheduled_at"].min())
    spans = bands.to_numpy() - origin
    for number, (start, end) in enumerate(spans):
        label = f"{culprit}: in prefill" if number == 0 else None
        ax.axvspan(start, end, color=_CULPRIT, alpha=0.22, linewidth=0, label=label)
    for y, trace in enumerate(order):
        calls = victims[victims["trace_id"] == trace]
        for start, end in calls[["called_at", "ended_at"]].to_numpy() - origin:
            ax.barh(y, end - start, left=start, height=0.6, color=_RUNNING)
            first = np.maximum(spans[:, 0], start)
            width = np.minimum(spans[:, 1], end) - first
            kept = width > 0
            ax.barh(
                np.full(kept.sum(), y), width[kept], left=first[kept], height=0.6, color=_STALLED
            )
        ended = calls["ended_at"].max() - origin
        annotate_end(ax, f"lost {by_trace[trace]:.1f} s", ended, y)
    ax.barh(0, 0, color=_RUNNING, label="a call of others, sent until last token")
    ax.barh(0, 0, color=_STALLED, label="the same, beside that prefill")
    name_rows(ax, [""] * len(order))
    ax.set_xlim(0, (victims["ended_at"].max() - origin) * 1.12)
    ax.set(xlabel="seconds", ylabel=f"{len(order)} calls that lost most")
    legend_above(ax, ncols=3)
