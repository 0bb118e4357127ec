"""Colours with a meaning that stays the same in every figure, and what figures have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import LogLocator, NullFormatter

from lab.errors import FrameError, require_columns
from lab.schema import Service

STYLE = Path(__file__).with_name("lab.mplstyle")

SERVICE_COLOURS = {
    Service.CLIENT: "#999999",
    Service.LLAMA_STACK: "#0072B2",
    Service.VLLM: "#D55E00",
    Service.VLLM_EMBED: "#CC79A7",
    Service.VLLM_CANARY: "#E69F00",
    Service.TOOLS: "#009E73",
}
OTHER_SERVICE = "#56B4E9"

PHASE_COLOURS = {
    "lag_s": "#000000",
    "network_s": "#999999",
    "stack_s": "#0072B2",
    "tool_list_s": "#56B4E9",
    "model_http_s": "#CC79A7",
    "queue_s": "#F0E442",
    "prefill_s": "#E69F00",
    "decode_s": "#D55E00",
    "engine_other_s": "#8c510a",
    "tool_s": "#009E73",
    "unexplained_s": "#ffffff",
}


def figure(draw: Callable[..., None]) -> Callable[..., Axes]:
    """Turn a function that draws into `ax` into one that returns its axes.

    It uses the lab's style, and makes axes where none are given.
    """

    @wraps(draw)
    def styled(*args: Any, ax: Axes | None = None, **kwargs: Any) -> Axes:
        with plt.style.context(STYLE):
            if ax is None:
                _, ax = plt.subplots()
            draw(*args, ax=ax, **kwargs)
        return ax

    return styled


def need_rows(data: Any, what: str) -> None:
    """Raise FrameError where there is nothing to draw: an empty figure would look like a result."""
    if len(data) == 0:
        raise FrameError(
            f"there is nothing to draw: no {what}",
            fix="look at what the query or the run returned first",
        )


def need_columns(table: Any, columns: Iterable[str], maker: str) -> None:
    """Raise FrameError where a table lacks columns; `maker` is the function that makes it."""
    require_columns(table, sorted(columns), "the table lacks {}", fix=f"make it with {maker}")


def legend_above(ax: Axes, **options: Any) -> None:
    """Put the legend above the axes, flush left, where it covers nothing."""
    ax.legend(**{"loc": "lower left", "bbox_to_anchor": (0, 1.0), "fontsize": 9} | options)


def name_rows(ax: Axes, names: Iterable[str]) -> None:
    """Name the rows of a horizontal chart, the first one on top, and draw no lines between them."""
    rows = list(names)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)


def annotate_end(ax: Axes, text: str, x: float, y: float) -> None:
    """Write a text right of a point."""
    ax.annotate(text, (x, y), (6, 0), textcoords="offset points", va="center", fontsize=9)


def spread(values: Sequence[float], apart: float, top: float = math.inf) -> list[float]:
    """Return places near these values for their labels, in the values' order.

    They are moved as little as makes neighbours `apart`, none above `top`.
    """
    order = np.argsort(values, kind="stable")
    places = np.asarray(values, dtype=float)[order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + apart)
    places[-1:] = np.minimum(places[-1:], top)
    for i in range(len(places) - 2, -1, -1):
        places[i] = min(places[i], places[i + 1] - apart)
    return places[np.argsort(order)].tolist()


def log_axis(ax: Axes, name: str) -> None:
    """Make the x or y axis logarithmic, with plain numbers at 1, 2 and 5."""
    getattr(ax, f"set_{name}scale")("log")
    axis: Axis = getattr(ax, f"{name}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def time_axis(ax: Axes) -> None:
    """Label the x axis with UTC times."""
    locator = AutoDateLocator()
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz="UTC"))
    ax.set_xlabel("time (UTC)")


def percent_axis(ax: Axes, lowest: float, label: str) -> None:
    """Label the x axis in percent up to 100; from 0 unless `lowest` leaves its left half empty."""
    start = 10 * int((lowest - 5) // 10) if lowest >= 50 else 0
    ax.set_xlim(start - (100 - start) * 0.02, 102)
    ax.set_xlabel(f"{label} (the axis begins at {start})" if start else label)
