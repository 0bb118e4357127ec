"""Increases of counters are exact, and histograms are computed from them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import FrameError
from lab.frames import histogram_frame, increase_exact
from tests.frames.telemetry import metrics


def counter(*values: float, start: float = 0.0, **labels: str):
    return labels, [(start + i, str(v)) for i, v in enumerate(values)]


def test_the_increase_is_exact() -> None:
    """The last samples at or before both ends of the window count, without extrapolation."""
    table = increase_exact(metrics(counter(5, 7, 11, 20, job="a")), 1.5, 2.9)
    assert table.increase.tolist() == [4.0] and table.job.tolist() == ["a"]
    assert table.first_at[0].timestamp() == 1 and table.last_at[0].timestamp() == 2


def test_a_restart_counts_from_zero() -> None:
    """A value below the previous one is a reset, and counts from zero."""
    table = increase_exact(metrics(counter(100, 110, 3, 5, 1)), 0, 10)
    assert table.increase.tolist() == [10 + 3 + 2 + 1] and table.resets.tolist() == [2]


def test_a_series_that_starts_in_the_window_is_marked() -> None:
    """Its first value counts and the row is marked, while PromQL's increase() loses it."""
    table = increase_exact(metrics(counter(4, 6, start=10)), 5, 20)
    assert (
        table.increase.tolist() == [6.0]
        and table.from_zero.tolist() == [True]
        and table.first_at.isna().all()
    )


def test_a_series_that_starts_after_the_window_is_left_out() -> None:
    """A series without a sample up to the end of the window is missing, not zero."""
    assert increase_exact(metrics(counter(4, start=10)), 0, 9).empty


def test_stale_samples_do_not_count() -> None:
    """NaN is not a value."""
    assert increase_exact(
        metrics(({}, [(0, "1"), (1, "NaN"), (2, "4")])), 0, 5
    ).increase.tolist() == [3.0]


def test_a_timestamp_needs_a_time_zone() -> None:
    """A naive datetime is refused, and an aware one equals its seconds."""
    answer = metrics(counter(1, 2, 3))
    assert increase_exact(answer, datetime.fromtimestamp(0, UTC), 2).increase.tolist() == [2.0]
    with pytest.raises(FrameError, match="time zone"):
        increase_exact(answer, datetime(2026, 1, 1), 2)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=20),
    st.integers(0, 19),
    st.integers(0, 19),
)
def test_every_event_counts_once_across_resets(steps: list, a: int, b: int) -> None:
    """The increase between two scrapes is the number of events, whenever the process restarts.

    No event may be lost between the last scrape and the restart.
    """
    shown = []
    events = []
    total = 0
    visible = 0
    for count, restarts in steps:
        visible = count if restarts and count < visible else visible + count
        total += count
        shown.append(visible)
        events.append(total)
    first, last = sorted((a % len(steps), b % len(steps)))
    table = increase_exact(metrics(counter(*shown)), first, last)
    assert table.increase[0] == events[last] - events[first]


def buckets(**series: list[tuple[str, float]]):
    """Return one histogram per replica, [(le, count)], from 0 at time 0 to count at time 1."""
    return metrics(
        *(
            ({"le": le, "replica": replica}, [(0, "0"), (1, str(count))])
            for replica, bounds in series.items()
            for le, count in bounds
        )
    )


def test_buckets_are_sorted_by_their_bounds() -> None:
    """Buckets are summed over replicas and sorted by number: '10.0' comes after '2.5'."""
    answer = buckets(
        a=[("10.0", 5), ("+Inf", 6), ("2.5", 2)], b=[("10.0", 1), ("+Inf", 1), ("2.5", 0)]
    )
    table = histogram_frame(answer, 0, 1)
    assert table.upper.tolist() == [2.5, 10.0, float("inf")] and table.lower.tolist() == [
        0,
        2.5,
        10.0,
    ]
    assert table["count"].tolist() == [2, 4, 1] and table.cumulative.tolist() == [2, 6, 7]
    by = histogram_frame(answer, 0, 1, by=["replica"])
    assert by[by.replica == "b"]["count"].tolist() == [0, 1, 0]


def test_invalid_histograms_are_refused() -> None:
    """Counts that fall, a missing +Inf bucket and missing buckets have different errors."""
    with pytest.raises(FrameError, match="contradict"):
        histogram_frame(buckets(a=[("1", 5), ("+Inf", 3)]), 0, 1)
    with pytest.raises(FrameError, match="Inf bucket"):
        histogram_frame(buckets(a=[("1", 5)]), 0, 1)
    with pytest.raises(FrameError, match="no label le"):
        histogram_frame(metrics(counter(1, 2, job="x")), 0, 1)
    assert histogram_frame(metrics(), 0, 1).empty
