"""Figures of tokens, tools and quantiles draw what they are given, and refuse to draw nothing."""

from __future__ import annotations

import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lab import figures
from lab.errors import FrameError
from lab.schema import Attr, Service, Span

BILL = pd.DataFrame(
    {
        "tenant": ["a", "b"],
        "requests": [2, 1],
        "prompt_tokens": [100.0, 10.0],
        "cached_tokens": [40.0, 0.0],
        "completion_tokens": [5.0, 1.0],
        "usd": [0.5, 0.01],
    }
)
QUANTILES = pd.DataFrame(
    {
        "source": ["spans", "fine", "coarse"],
        "q": [0.5] * 3,
        "value": [0.2, 0.21, 0.15],
        "low": [0.1, 0.2, 0.0],
        "high": [0.3, 0.25, 0.3],
        "n": [9, 9, 9],
        "interval": ["bootstrap 95 %", "bucket", "one bucket holds all"],
    }
)
CONFUSION = pd.DataFrame([[3, 0], [1, 9]], index=["a", "(none)"], columns=["a", "(none)"])


@pytest.fixture(autouse=True)
def _close() -> object:
    yield
    plt.close("all")


def test_tokens_are_stacked_and_priced() -> None:
    """Fresh prompt, cached prompt and generated tokens add up to the group's total;
    the price stands at its end.
    """
    ax = figures.tokens_cost(BILL, by="tenant")
    assert [p.get_width() for p in ax.patches] == [10, 60, 0, 40, 1, 5]
    assert [t.get_text() for t in ax.texts] == ["0.01 USD", "0.5 USD"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["b  (1)", "a  (2)"]


def test_a_confusion_shows_every_count_and_frames_the_diagonal() -> None:
    """Zeros stay empty, mistakes show."""
    ax = figures.tool_confusion(CONFUSION)
    assert sorted(t.get_text() for t in ax.texts) == ["1", "3", "9"]
    assert [(p.get_x(), p.get_y()) for p in ax.patches] == [(-0.5, -0.5), (0.5, 0.5)]


def test_a_bucket_is_drawn_as_wide_as_it_is() -> None:
    """Samples have an error bar, histograms a band from bound to bound, hatched where one bucket
    holds all; a bucket without an end is cut at the figure's edge.
    """
    ax = figures.quantile_intervals(QUANTILES)
    assert [round(p.get_width(), 3) for p in ax.patches] == [0.05, 0.3]
    assert [p.get_hatch() for p in ax.patches] == [None, "////"]
    endless = figures.quantile_intervals(QUANTILES.assign(high=[0.3, math.inf, math.inf]))
    assert all(np.isfinite(p.get_width()) for p in endless.patches)


def test_vllms_phases_stand_where_they_were() -> None:
    """What vLLM did before the queue is left of it: the first token is at the TTFT."""
    tree = pd.DataFrame(
        {
            "name": [Span.VLLM],
            "service": [Service.VLLM],
            "depth": [0],
            "offset_s": [1.0],
            "duration_s": [0.5],
            "status": ["unset"],
            Attr.VLLM_QUEUE_S: [0.1],
            Attr.VLLM_PREFILL_S: [0.1],
            Attr.VLLM_DECODE_S: [0.2],
            Attr.VLLM_TTFT_S: [0.25],
        }
    )
    starts = [round(p.get_x()) for p in figures.waterfall(tree).patches]
    assert starts == [1000, 1050, 1150, 1250]


@pytest.mark.parametrize(
    ("draw", "nothing"),
    [
        (lambda d: figures.tokens_cost(d, by="tenant"), BILL.iloc[:0]),
        (figures.tool_confusion, CONFUSION * 0),
        (figures.quantile_intervals, QUANTILES.iloc[:0]),
    ],
)
def test_nothing_is_refused(draw: object, nothing: object) -> None:
    """An empty figure would look like a result."""
    with pytest.raises(FrameError, match="nothing to draw"):
        draw(nothing)  # type: ignore[operator]


@pytest.mark.parametrize(
    "draw", [lambda d: figures.tokens_cost(d, by="tenant"), figures.quantile_intervals]
)
def test_another_table_is_refused(draw: object) -> None:
    """What is missing is named."""
    with pytest.raises(FrameError, match="lacks"):
        draw(pd.DataFrame({"x": [1]}))  # type: ignore[operator]
