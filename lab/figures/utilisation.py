"""What a processor did: modes over time, and how busy it was by whom one asks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

from lab.errors import FrameError
from lab.figures.style import figure, need_rows

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


@figure
def cpu_modes(cores: pd.DataFrame, *, ax: Axes) -> Axes:
    """Cores in each mode over time, stacked up to all there are. `cores` is `lab.measures.cores_by_mode`.

    Raises FrameError without rows.
    """
    need_rows(cores, "samples of CPU time")
    table = cores.pivot_table(
        index="time", columns="mode", values="value", aggfunc="sum", observed=True
    ).fillna(0.0)
    total = float(table.to_numpy().sum())
    names = [
        m
        for m in (*MODES, *sorted(set(map(str, table.columns)) - set(MODES)))
        if m in table.columns
    ]
    names = [m for m in names if table[m].sum() > _SHOWN * total]
    colours = [MODES.get(m, "#999999") for m in names]
    ax.stackplot(table.index, *(table[m] for m in names), labels=names, colors=colours, linewidth=0)
    _time_axis(ax)
    ax.set_ylim(0, float(table.sum(axis=1).max()))
    ax.set_ylabel("cores")
    ax.legend(ncols=min(len(names), 7), loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=9)
    return ax


@figure
def busy_by(answers: Mapping[str, float], *, ax: Axes) -> Axes:
    """How busy it was by whom one asks: one bar a question (0 to 1), its percentage beside it, the first on top.

    NaN is 'no data', and said so. Raises FrameError where nothing is known at all.
    """
    known = {name: ratio for name, ratio in answers.items() if ratio == ratio}
    if not known:
        raise FrameError(
            "there is nothing to draw: no source has an answer",
            got=", ".join(answers) or "no question",
        )
    y = np.arange(len(answers))
    widths = [100 * ratio if ratio == ratio else 0.0 for ratio in answers.values()]
    colours = ["#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#000000"]
    ax.barh(y, widths, color=[colours[i % len(colours)] for i in range(len(y))], linewidth=0)
    for at, width, ratio in zip(y, widths, answers.values(), strict=True):
        text = "no data" if ratio != ratio else f"{width:.2g}%" if width < 10 else f"{width:.0f}%"
        ax.annotate(
            text, (width, at), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
        )
    ax.set_yticks(y, list(answers))
    ax.set_ylim(len(y) - 0.4, -0.6)
    ax.set_xlim(0, max(100.0, max(widths)) * 1.1)
    ax.set_xlabel("percent of what there is")
    ax.grid(axis="y", visible=False)
    return ax


def _time_axis(ax: Axes) -> None:
    locator = AutoDateLocator()
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz="UTC"))
    ax.set_xlabel("time (UTC)")
