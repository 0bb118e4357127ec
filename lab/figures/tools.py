"""Which tool was called where which was expected."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from lab.errors import FrameError
from lab.figures.style import figure


@figure
def tool_confusion(table: pd.DataFrame, *, ax: Axes) -> Axes:
    """Counts of calls: expected tools as rows, called ones as columns; what is right lies on the framed diagonal.

    `table` is `lab.measures.tool_confusion(...)`. The colour is logarithmic, so that single mistakes show beside many
    right calls. Raises FrameError where nothing was counted.
    """
    counts = table.to_numpy(float)
    if not counts.sum() > 0:
        raise FrameError(
            "there is nothing to draw: no calls",
            fix="look at what the query or the run returned first",
        )
    norm = LogNorm(vmin=0.5, vmax=max(counts.max(), 1) * 2)
    ax.imshow(np.ma.masked_equal(counts, 0), cmap="Blues", norm=norm, aspect="auto")
    for row, column in zip(*np.nonzero(counts), strict=True):
        count = counts[row, column]
        colour = "white" if norm(count) > 0.6 else "black"
        ax.text(column, row, f"{count:.0f}", ha="center", va="center", fontsize=9, color=colour)
    for at, name in enumerate(table.index):
        if name in table.columns:
            corner = (list(table.columns).index(name) - 0.5, at - 0.5)
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#D55E00", linewidth=1.2))
    ax.set_xticks(
        range(len(table.columns)), table.columns, rotation=40, ha="right", rotation_mode="anchor"
    )
    ax.set_yticks(range(len(table.index)), table.index)
    ax.set_xlabel("tool that was called")
    ax.set_ylabel("tool that was expected")
    ax.grid(visible=False)
    return ax
