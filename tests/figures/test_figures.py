"""Figures draw what they are given, and refuse to draw nothing."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from lab import figures
from lab.errors import FrameError
from lab.schema import Attr

TREE = pd.DataFrame(
    {
        "name": ["lab.request", "llm_request"],
        "service": ["lab-client", "vllm"],
        "depth": [0, 1],
        "offset_s": [0.0, 0.1],
        "duration_s": [1.0, 0.5],
        "status": ["unset", "error"],
        Attr.VLLM_QUEUE_S: [np.nan, 0.1],
        Attr.VLLM_PREFILL_S: [np.nan, 0.1],
        Attr.VLLM_DECODE_S: [np.nan, 0.2],
    }
)


@pytest.fixture(autouse=True)
def _close() -> object:
    yield
    plt.close("all")


def test_waterfall_has_the_spans_and_their_phases() -> None:
    """One bar a span, one hatched where it failed, three phases inside vLLM's, in milliseconds."""
    ax = figures.waterfall(TREE)
    widths = [round(p.get_width()) for p in ax.patches]
    assert widths == [1000, 500, 500, 100, 100, 200]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["lab.request", "  llm_request"]


def test_every_colour_of_the_waterfall_is_in_its_legend() -> None:
    """What vLLM's span has beside its phases, too:
    read as queue, it would be a hundred times as long as that.
    """
    ax = figures.waterfall(TREE)
    legend = {to_hex(p.get_facecolor()): p.get_label() for p in ax.get_legend().get_patches()}
    drawn = {to_hex(bar.get_facecolor()) for bar in ax.patches if bar.get_fill()}
    assert drawn <= set(legend)
    whole_span = ax.patches[1]
    assert legend[to_hex(whole_span.get_facecolor())] == "vllm: engine other"


def test_phases_are_means_of_complete_traces() -> None:
    """An incomplete trace's numbers are not in the bars."""
    frame = pd.DataFrame(
        {
            "kind": ["a", "a", "a"],
            "trace_complete": [True, True, False],
            "queue_s": [1.0, 3.0, 100.0],
            "unexplained_s": [0.0, 0.0, 0.0],
        }
    )
    ax = figures.phases(frame)
    assert [p.get_width() for p in ax.patches] == [2.0]
    assert ax.get_yticklabels()[0].get_text() == "a  (2)"


def test_ecdf_counts_what_is_there() -> None:
    """Missing values are left out and the count says so."""
    ax = figures.ecdf({"client": [1.0, 2.0, np.nan]})
    assert ax.get_legend().get_texts()[0].get_text() == "client (n=2)"


@pytest.mark.parametrize(
    ("draw", "nothing"),
    [
        (figures.waterfall, TREE.iloc[:0]),
        (figures.phases, pd.DataFrame({"kind": ["a"], "trace_complete": [False]})),
        (figures.ecdf, {"client": []}),
        (
            lambda d: figures.timeline(d, label="job", unit="x"),
            pd.DataFrame({"time": [], "value": [], "job": []}),
        ),
        (
            figures.interval_bars,
            pd.DataFrame({"rate_ratio": [], "low_ratio": [], "high_ratio": [], "n": []}),
        ),
    ],
)
def test_nothing_is_refused(draw: object, nothing: object) -> None:
    """An empty figure would look like a result."""
    with pytest.raises(FrameError, match="nothing to draw"):
        draw(nothing)  # type: ignore[operator]
