"""Stacked bars with what they come to at their ends: every bill and every breakdown is drawn by this one function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

ROOM = 1.22  # of the longest bar: for the text at its end


@dataclass(frozen=True)
class Part:
    """One colour of the bars: its name in the legend, and one value a bar."""

    name: str
    colour: str
    values: Sequence[float]
    hatch: str = ""


def stacked(
    ax: Axes, labels: Sequence[str], parts: Sequence[Part], ends: Sequence[str], *, xlabel: str
) -> Axes:
    """Horizontal bars, the first label at the bottom, the parts from left to right; `ends` stand at the bars' ends."""
    y, left = np.arange(len(labels)), np.zeros(len(labels))
    for part in parts:
        values = np.asarray(part.values, dtype=float)
        edge = {"hatch": part.hatch, "edgecolor": "#888888"} if part.hatch else {}
        ax.barh(y, values, left=left, color=part.colour, label=part.name, linewidth=0, **edge)
        left = left + values
    for at, total, text in zip(y, left, ends, strict=True):
        ax.annotate(
            text, (total, at), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
        )
    ax.set_yticks(y, list(labels))
    ax.set_xlim(0, float(left.max()) * ROOM)
    ax.set_xlabel(xlabel)
    ax.grid(axis="y", visible=False)
    ax.legend(ncols=min(len(parts), 4), loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=9)
    return ax
