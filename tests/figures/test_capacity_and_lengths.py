"""Figures of capacity and of growth with tokens draw what they are given,
and refuse to draw nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from lab import figures
from lab.errors import FrameError
from lab.figures.style import spread
from lab.measures import critical_path, quantiles_by_bucketing, slope, slopes_by_half
from tests.measures.recorded import recorded_calls, recorded_records

STEPS = pd.DataFrame(
    {
        "offered_per_s": [10.0, 20.0],
        "arrived_per_s": [9.0, 21.0],
        "answered_per_s": [9.0, 15.0],
        "answered_low": [8.0, 13.0],
        "answered_high": [10.0, 17.0],
        "goodput_per_s": [9.0, 1.0],
        "e2e_mean_s": [0.1, 2.0],
        "e2e_low_s": [0.09, 1.0],
        "e2e_high_s": [0.11, 3.0],
        "e2e_p95_s": [0.2, 4.0],
        "verdict": ["keeps up", "saturated"],
    }
)
TOLD = pd.DataFrame(
    {
        "offered_per_s": [10.0, 20.0],
        "value_s": [0.1, np.inf],
        "low_s": [0.05, 1.0],
        "high_s": [0.2, np.inf],
    }
)
LEVELS = pd.DataFrame(
    {"users": [1, 8, 1, 8], "round": [1, 1, 2, 2], "e2e_mean_s": [0.1, 0.2, 0.11, 0.21]}
)
PARTS = pd.DataFrame(
    {"users": [1, 8], "queue_s": 0.0, "prefill_s": 0.01, "decode_s": [0.1, 0.2], "outside_s": 0.02}
)
SAMPLES = pd.DataFrame({"value": [1, 20], "true": [2, 90]})
TREES = pd.DataFrame(
    {
        "trace_id": "t",
        "service": "vllm",
        "name": ["a", "b"],
        "depth": [0, 1],
        "duration_s": [1.0, 0.25],
        "critical_s": [0.75, 0.25],
    }
)


@pytest.fixture(autouse=True)
def _close() -> object:
    yield
    plt.close("all")


def test_a_point_a_level_and_a_line_a_round() -> None:
    """In milliseconds; the line's label once."""
    ax = figures.service_line(LEVELS, [(0.1, 0.014), (0.11, 0.014)])
    assert [len(line.get_xdata()) for line in ax.lines[:2]] == [2, 2] and ax.lines[0].get_ydata()[
        1
    ] == 200
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "round 1",
        "round 2",
        "fitted, one line per round",
    ]


def test_parts_are_stacked_to_the_whole() -> None:
    """130 ms alone, 230 beside seven others."""
    ax = figures.engine_parts(PARTS)
    tops = [
        max(p.get_y() + p.get_height() for p in ax.patches if round(p.get_x() + 0.35) == x)
        for x in (0, 1)
    ]
    assert tops == pytest.approx([130, 230])


def test_latency_by_load_shows_verdict_and_band() -> None:
    """A saturated step is another colour, and a rate without a steady state has no band."""
    ax = figures.load_latency(STEPS, TOLD)
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert "measured mean: saturated" in labels and any(
        label.startswith("predicted") for label in labels
    )
    assert ax.get_yscale() == "log" and figures.load_latency(STEPS).get_legend() is not None


def test_goodput_below_throughput() -> None:
    """The diagonal, answers and good answers."""
    ax = figures.throughput_goodput(STEPS, slo="TTFT 0.2 s")
    assert "good: TTFT 0.2 s" in [t.get_text() for t in ax.get_legend().get_texts()]


@pytest.mark.parametrize("draw", [figures.load_latency, figures.throughput_goodput])
def test_steps_in_which_the_driver_lagged_are_marked_in_the_figure(
    draw: Callable[..., Axes],
) -> None:
    """A ring around that step, explained in the legend; no legend entry where no step lagged."""
    ax = draw(STEPS.assign(lagged=[False, True]))
    (ring,) = [line for line in ax.lines if str(line.get_label()).startswith("the driver lagged")]
    assert len(ring.get_xdata()) == 1 and ring.get_xdata()[0] > 15
    labels = [t.get_text() for t in draw(STEPS.assign(lagged=False)).get_legend().get_texts()]
    assert not any("lagged" in label for label in labels)


def test_labels_of_backlogs_stay_apart() -> None:
    """Ends that coincide are labelled one above the other."""
    assert spread([5.0, 5.0, 0.0], 2.0) == [5.0, 7.0, 0.0]
    at = np.array([0.0, 1.0])
    ax = figures.backlogs(
        [("1/s", "keeps up", at, np.array([0, 1])), ("9/s", "saturated", at, np.array([0, 1]))]
    )
    places = [t.xyann[1] for t in ax.texts]
    assert len(places) == 2 and abs(places[0] - places[1]) == pytest.approx(0.045)


def test_labels_of_backlogs_stand_right_of_every_line() -> None:
    """A step that ends early is named at the right edge, not upon the lines that go on."""
    short, long = np.array([0.0, 1.0]), np.array([0.0, 9.0])
    ax = figures.backlogs(
        [
            ("25/s", "keeps up", short, np.array([0, 1])),
            ("9/s", "saturated", long, np.array([0, 9])),
        ]
    )
    assert [t.get_text() for t in ax.texts] == ["25/s", "9/s"]
    assert all(t.xyann[0] > 9 for t in ax.texts)


def test_a_gauge_beside_the_truth() -> None:
    """One point a scrape."""
    ax = figures.gauge_against_truth(SAMPLES)
    assert ax.lines[1].get_xdata().tolist() == [2, 90] and ax.get_xscale() == "symlog"


def test_growth_says_the_slope_in_a_unit_that_fits() -> None:
    """Microseconds for a prompt token, milliseconds for a generated one."""
    x = np.arange(10.0)
    points = {"prefill": (x, 5e-5 * x), "decode": (x, 5e-3 * x)}
    ax = figures.growth(
        points, {name: slope(*xy) for name, xy in points.items()}, xlabel="x", ylabel="y"
    )
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels[0].startswith("prefill (n=10): 50.00 µs") and labels[1].startswith(
        "decode (n=10): 5.00 ms"
    )


def test_a_fitted_line_is_not_drawn_below_zero() -> None:
    """A recorded probe: prefill grows faster than a line, so its line starts below 0.

    By halves it does not.
    """
    run_id = "run-20261126T171121-4c29"
    probe = recorded_records(run_id).sort_values("scheduled_at").drop_duplicates("prompt")
    probe = probe.merge(recorded_calls(run_id)[["trace_id", "prefill_s"]], on="trace_id")
    tokens, seconds = probe["prompt_tokens"], probe["prefill_s"]
    whole = slope(tokens, seconds)
    assert whole.at(tokens.min()) < 0

    ax = figures.growth({"p": (tokens, seconds)}, {"p": whole}, xlabel="x", ylabel="y")
    assert ax.lines[0].get_ydata().min() >= 0 and ax.lines[0].get_xdata().max() == tokens.max()

    halves = slopes_by_half(tokens, seconds)
    ax = figures.growth({"p": (tokens, seconds)}, {"p": halves}, xlabel="x", ylabel="y")
    assert len(ax.lines) == 3 and "; then " in ax.get_legend().get_texts()[0].get_text()


def test_what_a_dashboard_says_beside_the_truth() -> None:
    """One row a quantity and quantile, with how many times too high."""
    table = quantiles_by_bucketing({"prefill": [0.01] * 50}, {"prefill": [0.3, 0.5]}, [0.5])
    ax = figures.bucketed_against_exact(table)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["prefill  p50"] and ax.texts[
        0
    ].get_text() == "15.0x"


def test_critical_bars_lose_nothing() -> None:
    """What is not among the first is one bar of its own; all bars are 100 %."""
    ax = figures.critical_bars(critical_path(TREES), rows=1)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["vllm: a", "1 others"]
    assert sum(p.get_width() for p in ax.patches) == pytest.approx(100)


@pytest.mark.parametrize(
    ("draw", "nothing"),
    [
        (figures.service_line, LEVELS.iloc[:0]),
        (figures.engine_parts, PARTS.iloc[:0]),
        (figures.load_latency, STEPS.iloc[:0]),
        (figures.throughput_goodput, STEPS.iloc[:0]),
        (figures.backlogs, []),
        (figures.gauge_against_truth, SAMPLES.iloc[:0]),
        (figures.critical_bars, critical_path(TREES).iloc[:0]),
        (figures.bucketed_against_exact, pd.DataFrame()),
        (lambda d: figures.growth(d, xlabel="x", ylabel="y"), {"a": ([], [])}),
    ],
)
def test_nothing_is_refused(draw: object, nothing: object) -> None:
    """An empty figure would look like a result."""
    with pytest.raises(FrameError, match="nothing to draw"):
        draw(nothing)  # type: ignore[operator]
