"""Shares with their intervals, versions beside each other, and which tool was called for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from lab.figures.style import figure, legend_above, need_rows, percent_axis, spread

_ROOM = 0.62  # of a row's height is for its points
_APART = 0.054  # of the axes' height, between two labels at the right
_TOP = 1.02  # the place of the highest one
_PAIRS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@figure
def interval_bars(rates: pd.DataFrame, *, of: str = "requests", ax: Axes) -> None:
    """Draw one share with its interval per row.

    `rates` has `rate_ratio`, `low_ratio`, `high_ratio` (0 to 1) and `n`; its index names the rows.
    `of` says what the n of each row are. Raises FrameError without rows.
    """
    need_rows(rates, "rates")
    rows = np.arange(len(rates))
    _points(ax, rates, rows, markersize=6, capsize=4)
    names = zip(rates.index, rates["n"], strict=True)
    ax.set_yticks(rows, [f"{name}  (n={n})" for name, n in names])
    _share_axes(ax, rates, len(rates), of)


@figure
def share_rows(
    shares: pd.DataFrame,
    *,
    colour: str,
    notes: Mapping[str, str] | None = None,
    of: str = "requests",
    ax: Axes,
) -> None:
    """Draw one row per index value, in it one share with its interval per value of column `colour`.

    `shares` is a share_table (rate_ratio, low_ratio, high_ratio, n) with one more column; `notes`
    is a text for the right end of a row, `of` says what the n of each row are. Raises FrameError
    without rows.
    """
    need_rows(shares, "shares")
    names = shares.index.drop_duplicates()
    groups = shares[colour].drop_duplicates()
    offsets = np.linspace(-0.5, 0.5, len(groups)) * _ROOM if len(groups) > 1 else [0.0]
    for group, offset in zip(groups, offsets, strict=True):
        part = shares[(shares[colour] == group) & (shares["n"] > 0)]
        y = names.get_indexer(part.index) + offset
        _points(ax, part, y, label=str(group), markersize=4.5, capsize=2.5)

    labels = [f"{_words(name)}{_sizes(shares.loc[[name], 'n'])}" for name in names]
    ax.set_yticks(range(len(names)), labels)
    at_right_end = ax.get_yaxis_transform()
    for row, name in enumerate(names):
        note = (notes or {}).get(name, "")
        if note:
            ax.text(1.01, row, note, transform=at_right_end, va="center", fontsize=8.5)
    _share_axes(ax, shares[shares["n"] > 0], len(names), of)
    for between in np.arange(0.5, len(names) - 1):
        ax.axhline(between, color="#e6e6e6", linewidth=0.8)
    legend_above(ax, ncols=4, borderaxespad=0.2)


def _points(ax: Axes, shares: pd.DataFrame, y: np.ndarray, **style: Any) -> None:
    percent = shares[["low_ratio", "rate_ratio", "high_ratio"]].to_numpy(float).T * 100
    below, above = np.diff(percent, axis=0)
    ax.errorbar(percent[1], y, xerr=[below, above], fmt="o", **style)


def _share_axes(ax: Axes, shares: pd.DataFrame, rows: int, of: str) -> None:
    ax.set_ylim(rows - 0.5, -0.5)
    label = f"percent of the n {of}, with the Wilson 95 % interval"
    percent_axis(ax, shares["low_ratio"].min() * 100, label)
    ax.grid(axis="y", visible=False)


@figure
def power_curves(
    curves: pd.DataFrame, *, power: float = 0.8, done: int | None = None, ax: Axes
) -> None:
    """Draw how probable it is to find each difference, by the number of pairs.

    One curve per column; the index is the number of pairs. Each curve is named at its right end, so
    that no legend covers one. `power` is the goal, `done` how many pairs there were. Raises
    FrameError without curves.
    """
    need_rows(curves.columns, "curves")
    cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    colours = {name: cycle[i % len(cycle)] for i, name in enumerate(curves)}
    for name, colour in colours.items():
        ax.plot(curves.index, curves[name] * 100, color=colour)

    # Of curves that all reach the top, the one that gets there first is named highest.
    ends = pd.DataFrame({"end": curves.iloc[-1].round(2), "mean": curves.mean()})
    order = ends.sort_values(["end", "mean"], kind="stable").index
    places = spread(curves[order].iloc[-1].to_numpy(), _APART, top=_TOP)
    for name, place in zip(order, places, strict=True):
        ax.annotate(
            _words(name),
            (1, place * 100),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=colours[name],
            annotation_clip=False,
        )
    ax.axhline(power * 100, color="#666666", linewidth=1, linestyle=(0, (4, 3)))
    if done:
        ax.axvline(done, color="#666666", linewidth=1, linestyle=(0, (1, 2)))
        ax.text(done, 2, f" pairs here: {done}", fontsize=8.5)
    low, high = curves.index[[0, -1]]
    ticks = [n for n in _PAIRS if low <= n <= high]
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(
        xlim=(low, high),
        ylim=(0, 104),
        xlabel="requests that both versions answer",
        ylabel="chance to find the difference, percent",
    )


@figure
def tool_confusion(table: pd.DataFrame, *, ax: Axes) -> None:
    """Draw counts of calls: expected tools as rows, called ones as columns, the diagonal framed.

    `table` is `lab.measures.tool_confusion(...)`. The colour is logarithmic, so that single
    mistakes show beside many right calls. Raises FrameError where nothing was counted.
    """
    counts = table.to_numpy(float)
    need_rows(np.flatnonzero(counts), "calls")
    norm = LogNorm(vmin=0.5, vmax=counts.max() * 2)
    ax.imshow(np.ma.masked_equal(counts, 0), cmap="Blues", norm=norm, aspect="auto")
    for row, column in zip(*np.nonzero(counts), strict=True):
        count = counts[row, column]
        colour = "white" if norm(count) > 0.6 else "black"
        ax.text(column, row, f"{count:.0f}", ha="center", va="center", fontsize=9, color=colour)
    for row, column in enumerate(table.columns.get_indexer(table.index)):
        if column >= 0:
            frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#D55E00")
            ax.add_patch(frame)
    ax.set_xticks(range(len(table.columns)), table.columns)
    ax.tick_params(axis="x", labelrotation=40)
    plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(table.index)), table.index)
    ax.set(xlabel="tool that was called", ylabel="tool that was expected")
    ax.grid(visible=False)


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _sizes(n: Sequence[int] | pd.Series) -> str:
    low = int(min(n))
    high = int(max(n))
    return f"  (n={low})" if low == high else f"  (n={low} to {high})"
