"""Figures of quality draw what they are given,
keep their words off the curves, and refuse to draw nothing.
"""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from lab import figures
from lab.errors import FrameError
from lab.figures.style import spread
from lab.measures import power_curve, share_table


@pytest.fixture(autouse=True)
def _close() -> object:
    yield
    plt.close("all")


def _shares() -> pd.DataFrame:
    rows = {
        "model": ["a"] * 4 + ["b"] * 4,
        "right_tool": [True] * 4 + [False] * 4,
        "exact": [True, None] * 4,
    }
    return share_table(pd.DataFrame(rows), ["right_tool", "exact"], by=["model"])


def test_versions_stand_beside_each_other_in_a_row() -> None:
    """One point a version and measure, at its share,
    with how many requests it is of; notes at their rows' end.
    """
    ax = figures.share_rows(_shares(), colour="model", notes={"exact": "p = 1"})
    drawn = {c.get_label(): c.lines[0].get_xdata().tolist() for c in ax.containers}
    assert drawn == {"a": [100.0, 100.0], "b": [0.0, 100.0]}
    assert [t.get_text() for t in ax.get_yticklabels()] == ["right tool  (n=4)", "exact  (n=2)"]
    assert [t.get_text() for t in ax.texts] == ["p = 1"]


def test_the_axis_says_what_the_shares_are_of() -> None:
    """Requests, unless said otherwise; pairs beside a paired test."""
    assert (
        figures.share_rows(_shares(), colour="model")
        .get_xlabel()
        .startswith("percent of the n requests")
    )
    ax = figures.share_rows(_shares(), colour="model", of="pairs in which both were judged")
    assert ax.get_xlabel().startswith("percent of the n pairs in which both were judged")
    assert (
        figures.interval_bars(_shares(), of="answers")
        .get_xlabel()
        .startswith("percent of the n answers")
    )


def test_shares_at_the_right_edge_are_spread_over_the_axis() -> None:
    """Where every interval is above 50 %,
    the axis begins below the lowest one and says so; else it begins at 0.
    """
    shares = share_table(pd.DataFrame({"good": [True] * 100}), ["good"])
    ax = figures.interval_bars(shares)
    assert 80 < ax.get_xlim()[0] < 96 and "the axis begins at 90" in ax.get_xlabel()
    low = figures.interval_bars(share_table(pd.DataFrame({"good": [True, False]}), ["good"]))
    assert low.get_xlim()[0] < 0 and "begins" not in low.get_xlabel()


def test_a_share_of_nothing_is_not_drawn() -> None:
    """No request, no point: the interval from 0 to 1 would look like a result."""
    shares = _shares()
    shares.loc["exact", "n"] = 0
    ax = figures.share_rows(shares, colour="model")
    assert [len(c.lines[0].get_xdata()) for c in ax.containers] == [1, 1]


def test_power_curves_are_named_at_their_ends_and_not_over_them() -> None:
    """Each name is right of the axes, and no two of them touch."""
    asked = list(range(5, 400, 5))
    curves = {f"measure_{i}": power_curve(0.3 - i / 100, 0.01, asked) for i in range(6)}
    ax = figures.power_curves(pd.DataFrame(curves, index=asked), done=100)
    ax.figure.canvas.draw()
    names = [t for t in ax.texts if t.get_text().startswith("measure")]
    boxes = sorted((t.get_window_extent() for t in names), key=lambda box: box.y0)
    assert len(boxes) == 6 and all(box.x0 >= ax.get_window_extent().x1 for box in boxes)
    assert all(low.y1 <= high.y0 + 1 for low, high in zip(boxes, boxes[1:], strict=False))


def test_labels_move_no_more_than_they_must() -> None:
    """Places that are far enough apart stay; crowded ones at the top go down."""
    assert spread([0.1, 0.5, 0.9], 0.05) == [0.1, 0.5, 0.9]
    assert spread([1.0, 1.0, 1.0], 0.1, top=1.02) == pytest.approx([0.82, 0.92, 1.02])


def test_nothing_is_not_drawn() -> None:
    """A blank figure would look like a result."""
    with pytest.raises(FrameError, match="nothing to draw"):
        figures.share_rows(_shares().iloc[:0], colour="model")
    with pytest.raises(FrameError, match="nothing to draw"):
        figures.power_curves(pd.DataFrame(index=[5, 10]))
