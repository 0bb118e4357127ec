"""Shares of several versions beside each other, and how many requests it takes to tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from lab.figures.style import figure, need_rows

_ROOM = 0.62  # of a row's height is for its points
_APART = 0.052  # of the axes' height, between two labels at the right


@figure
def share_rows(
    shares: pd.DataFrame,
    *,
    colour: str,
    notes: Mapping[str, str] | None = None,
    of: str = "requests",
    ax: Axes,
) -> Axes:
    """Draw one row per index value, in it one share with its interval per value of column `colour`.

    `shares` is a share_table (rate_ratio, low_ratio, high_ratio, n) with one more column; `notes` is a text for the
    right end of a row, `of` says what the n of each row are. Raises FrameError without rows.
    """
    need_rows(shares, "shares")
    rows, groups = list(dict.fromkeys(shares.index)), list(dict.fromkeys(shares[colour]))
    step = _ROOM / max(1, len(groups) - 1) if len(groups) > 1 else 0.0
    for number, group in enumerate(groups):
        part = shares[(shares[colour] == group) & (shares["n"] > 0)]
        y = (
            np.array([rows.index(name) for name in part.index])
            + (number - (len(groups) - 1) / 2) * step
        )
        rate = part["rate_ratio"].to_numpy(float) * 100
        low, high = (
            part["low_ratio"].to_numpy(float) * 100,
            part["high_ratio"].to_numpy(float) * 100,
        )
        ax.errorbar(
            rate,
            y,
            xerr=[rate - low, high - rate],
            fmt="o",
            markersize=4.5,
            capsize=2.5,
            label=str(group),
        )
    ax.set_yticks(
        range(len(rows)), [f"{_words(name)}{_sizes(shares.loc[[name], 'n'])}" for name in rows]
    )
    for at, name in enumerate(rows):
        if notes and notes.get(name):
            ax.text(
                1.01, at, notes[name], transform=ax.get_yaxis_transform(), va="center", fontsize=8.5
            )
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(-2, 102)
    ax.set_xlabel(f"percent of the n {of}, with the Wilson 95 % interval")
    ax.grid(axis="y", visible=False)
    for between in np.arange(0.5, len(rows) - 1):
        ax.axhline(between, color="#e6e6e6", linewidth=0.8)
    ax.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=9, borderaxespad=0.2)
    return ax


@figure
def power_curves(
    curves: pd.DataFrame, *, power: float = 0.8, done: int | None = None, ax: Axes
) -> Axes:
    """How probable it is to see each difference, by how many pairs were asked: one curve a column, index the pairs.

    Each curve is named at its right end, so that no legend covers one. `power` is what one wants, `done` how many pairs
    were really asked. Raises FrameError without curves.
    """
    need_rows(curves.columns, "curves")
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    order = sorted(curves, key=lambda name: (round(curves[name].iloc[-1], 2), curves[name].mean()))
    ends = curves[order].iloc[
        -1
    ]  # of those that all reach the top, the one that gets there first stands highest
    for number, name in enumerate(curves.columns):
        ax.plot(curves.index, curves[name] * 100, color=colours[number % len(colours)])
    for name, at in zip(ends.index, _spread(ends.to_numpy(), _APART * 1.04), strict=True):
        number = list(curves.columns).index(name)
        ax.annotate(
            _words(name), (1, at * 100), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=8.5, color=colours[number % len(colours)], annotation_clip=False,
        )  # fmt: skip
    ax.axhline(power * 100, color="#666666", linewidth=1, linestyle=(0, (4, 3)))
    if done:
        ax.axvline(done, color="#666666", linewidth=1, linestyle=(0, (1, 2)))
        ax.annotate(
            f"asked here: {done}",
            (done, 0),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=8.5,
        )
    ax.set_xscale("log")
    ticks = [
        n
        for n in (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
        if curves.index[0] <= n <= curves.index[-1]
    ]
    ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(curves.index[0], curves.index[-1])
    ax.set_ylim(0, 104)
    ax.set_xlabel("requests that both versions answer")
    ax.set_ylabel("chance to see the difference, percent")
    return ax


def _spread(values: np.ndarray, apart: float) -> np.ndarray:
    """Sorted places moved so far that neighbours are `apart`, as little as that takes, and none above the top."""
    places = values.astype(float).copy()
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + apart)
    over = max(0.0, places[-1] - 1.02) if len(places) else 0.0
    if over:
        places[-1] -= over
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - apart)
    return places


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _sizes(n: Sequence[int]) -> str:
    found = sorted({int(x) for x in n})
    return f"  (n={found[0]})" if len(found) == 1 else f"  (n={found[0]} to {found[-1]})"
