"""Signals before and after a change."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.dates as mdates
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lab.figures.style import figure, legend_above, need_rows, time_axis

BLOCKS = 40  # of the whole time: each is drawn as a mean


@figure
def signal_change(
    points: Mapping[str, pd.DataFrame],
    *,
    window: tuple[float, float],
    onset: tuple[float, float] | None = None,
    ax: Axes,
) -> None:
    """Draw signals over time, each as a multiple of its mean before the window.

    `points` has `time` (epoch seconds) and `value` per signal. The window is shaded, and so is the
    interval of the onset. A signal that was 0 before is drawn as a share of its maximum. Raises
    FrameError without points.
    """
    need_rows(points, "signals that changed")
    for name, table in points.items():
        width = max((table["time"].max() - table["time"].min()) / BLOCKS, 1.0)
        means = table["value"].groupby(np.floor(table["time"] / width) * width).mean()
        usual = table.loc[table["time"] < window[0], "value"].mean()
        scale = usual if usual > 0 else max(means.max(), 1e-9)
        label = name if usual > 0 else f"{name} (of its maximum)"
        ax.plot(pd.to_datetime(means.index, unit="s", utc=True), means / scale, label=label)
    start, end = (mdates.date2num(pd.Timestamp(at, unit="s", tz="UTC")) for at in window)
    ax.axvspan(start, end, color="#f0f0f0", zorder=0)
    if onset:
        low, high = (mdates.date2num(pd.Timestamp(at, unit="s", tz="UTC")) for at in onset)
        ax.axvspan(low, high, color="#D55E00", alpha=0.3, lw=0, label="begin of the change")
    time_axis(ax)
    ax.set(ylim=(0, None), ylabel="times the mean before")
    legend_above(ax, ncols=2)
