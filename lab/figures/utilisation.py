"""Series over time, signals before and after a change, CPU modes, and how busy it was by source."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lab.figures.style import annotate_end, figure, legend_above, name_rows, need_rows, time_axis

MODES = {  # node-exporter's, in the order in which they are stacked
    "user": "#0072B2",
    "nice": "#56B4E9",
    "system": "#D55E00",
    "irq": "#E69F00",
    "softirq": "#E69F00",
    "iowait": "#CC79A7",
    "steal": "#000000",
    "idle": "#eeeeee",
}
_SHOWN = 0.002  # of all: less is not drawn, only a colour in the legend
_GAP = 3.5  # median intervals between samples: a longer pause has no data


@figure
def timeline(series: pd.DataFrame, *, label: str, unit: str, ax: Axes) -> None:
    """Draw one stepped line per value of column `label`: column `value` over the UTC column `time`.

    Steps, since a sample holds until the next scrape and nothing is known in between. The line is
    broken where samples are missing. Raises FrameError without rows.
    """
    need_rows(series, "samples")
    for name, part in series.groupby(label, observed=True):
        line = _with_gaps(part.set_index("time")[["value"]])
        ax.step(line.index, line["value"], where="post", label=str(name))
    if (series["value"] % 1 == 0).all():
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    time_axis(ax)
    ax.set(ylim=(0, None), ylabel=unit)
    legend_above(ax, ncols=4)


@figure
def cpu_modes(cores: pd.DataFrame, *, ax: Axes) -> None:
    """Draw the cores in each mode over time, stacked up to all there are; empty where unknown.

    `cores` is `lab.measures.cores_by_mode`. Raises FrameError without rows.
    """
    need_rows(cores, "samples of CPU time")
    table = cores.pivot_table(
        index="time", columns="mode", values="value", aggfunc="sum", observed=True
    ).fillna(0.0)
    order = [*MODES, *sorted(set(table.columns) - set(MODES))]
    shown = table.loc[:, table.sum() > _SHOWN * table.to_numpy().sum()]
    shown = _with_gaps(shown[[mode for mode in order if mode in shown]])
    colours = [MODES.get(mode, "#999999") for mode in shown]
    ax.stackplot(shown.index, shown.T, labels=shown.columns, colors=colours, linewidth=0)
    time_axis(ax)
    ax.set(ylim=(0, table.sum(axis=1).max()), ylabel="cores")
    legend_above(ax, ncols=7)


@figure
def busy_by(answers: Mapping[str, float], *, ax: Axes) -> None:
    """Draw how busy it was by each source: one bar per source (0 to 1), the first on top.

    NaN is labelled 'no data'. Raises FrameError where no source has an answer.
    """
    table = pd.Series(answers, dtype=float) * 100
    need_rows(table.dropna(), "source has an answer")
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    ax.barh(range(len(table)), table.fillna(0.0), color=colours, linewidth=0)
    for row, percent in enumerate(table):
        text = f"{percent:.2g}%" if percent < 10 else f"{percent:.0f}%"
        annotate_end(ax, "no data" if np.isnan(percent) else text, np.nan_to_num(percent), row)
    name_rows(ax, table.index)
    ax.set(xlim=(0, max(100.0, table.max()) * 1.1), xlabel="percent of what there is")


def _with_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table by time with an empty row after each sample that a long pause follows."""
    times = table.index.drop_duplicates().sort_values()
    pause = times.to_series().diff()
    usual = pause.median()
    before_gap = times[(pause > _GAP * usual).shift(-1, fill_value=False)]
    empty = pd.DataFrame(np.nan, index=before_gap + usual, columns=table.columns)
    return pd.concat([table, empty]).sort_index(kind="stable")


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
