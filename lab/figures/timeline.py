"""Series over time, as Prometheus has them."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

from lab.figures.style import figure, need_rows


@figure
def timeline(series: pd.DataFrame, *, label: str, unit: str, ax: Axes) -> Axes:
    """One stepped line for each value of column `label`, over the UTC column `time`, of the column `value`.

    Steps, since a sample holds until the next scrape and nothing is known in between. Raises FrameError without rows.
    """
    need_rows(series, "samples")
    for name, line in series.groupby(label, observed=True):
        ax.step(line["time"], line["value"], where="post", label=str(name))
    locator = AutoDateLocator()
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz="UTC"))
    ax.set_ylim(bottom=0)
    ax.set_xlabel("time (UTC)")
    ax.set_ylabel(unit)
    ax.legend(loc="upper left", fontsize=9)
    return ax
