"""Series of many engines are summed, counted once or left out, as their meaning requires."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import pandas as pd
import pytest

from lab.frames.replicas import merge_copies, per_engine, series_summary
from lab.measures import read_histogram


@dataclass
class OneSeries:
    """An object with the fields of a Series."""

    labels: dict[str, str]
    pieces: Sequence[bytes] = ()


@dataclass
class Answer:
    series: list[OneSeries] = field(default_factory=list)


def series(labels: dict[str, str], *samples: tuple[float, str]) -> OneSeries:
    return OneSeries(
        labels, [msgspec.Raw(json.dumps([list(sample) for sample in samples]).encode())]
    )


def test_a_series_of_a_target_that_was_scraped_before_counts_from_0() -> None:
    """A new label set starts at 0, but a new target may have counted before its first scrape."""
    old = {"__name__": "n", "instance": "a"}
    answer = Answer(
        [
            series({**old, "reason": "stop"}, (0, "5"), (10, "6"), (20, "8")),
            series({**old, "reason": "length"}, (20, "3")),
            series({"__name__": "n", "instance": "b"}, (10, "1000"), (20, "1001")),
        ]
    )
    table = series_summary(answer, 5, 20)
    assert table["increase"].tolist() == [3, 3, 1]
    assert table["total"].tolist() == [8, 3, 1001]


def test_a_restart_counts_from_0() -> None:
    """A value below the previous one counts from zero."""
    answer = Answer([series({"__name__": "n"}, (0, "5"), (10, "9"), (20, "2"))])
    assert series_summary(answer, 0, 20)["increase"].tolist() == [6]


def test_a_gauge_is_valid_until_its_next_sample_but_not_long_after_its_target_ended() -> None:
    """2 and 4 for 10 s each are 3, and a series that ended counts for five more minutes."""
    alive = series({"__name__": "g", "instance": "a"}, (0, "2"), (10, "4"), (20, "4"))
    gone = series({"__name__": "g", "instance": "b"}, (0, "7"))
    table = series_summary(Answer([alive, gone]), 0, 20)
    assert table["mean"].tolist() == [3, 7]
    later = series_summary(Answer([gone]), 400, 500)
    assert later["mean"].isna().all()


def test_samples_that_are_not_numbers_are_left_out_and_counted() -> None:
    """NaN and both infinities are left out."""
    answer = Answer([series({"__name__": "g"}, (0, "NaN"), (1, "+Inf"), (2, "-Inf"), (3, "0.2"))])
    table = series_summary(answer, 0, 10)
    assert table["mean"].tolist() == [0.2]
    assert table.attrs["not_finite"] == 3


def test_shares_are_never_summed() -> None:
    """Of a share the largest part counts, whatever labels divide it; requests are summed."""
    parts = [
        series({"__name__": "g", "instance": "a", "part": part}, (0, value), (10, value))
        for part, value in (("x", "0.4"), ("y", "0.7"))
    ]
    table = series_summary(Answer(parts), 0, 10)
    assert per_engine(table, ["instance"], "share")["max"].tolist() == [0.7]
    assert per_engine(table, ["instance"], "gauge")["max"].tolist() == [1.1]


def test_replica_is_a_copy_only_where_the_target_is_known() -> None:
    """`replica` may be a label of Thanos or of an engine."""
    rows = pd.DataFrame({"replica": ["a", "b"], "value": [1.0, 2.0]})
    assert merge_copies(rows, ["value"])["value"].tolist() == [1, 2]
    assert merge_copies(rows.assign(instance="i"), ["value"])["value"].tolist() == [2]


def buckets(*counts: float) -> pd.DataFrame:
    upper = [0.1, 0.3, float("inf")][-len(counts) :]
    return pd.DataFrame({"lower": [0.0, *upper[:-1]], "upper": upper, "count": counts})


@pytest.mark.parametrize(
    ("counts", "sum_s", "why"),
    [
        ((5.0, 5.0, 0.0), 1.5, ""),
        ((0.0, 0.0, 0.0), 0.0, "no observation"),
        ((10.0, 0.0, 0.0), 0.0, "sum of 10 durations is 0"),
        ((10.0, 0.0, 0.0), 0.4, "one bucket"),
        ((10.0, 0.0, 0.0), 9.0, "not possible with its buckets"),
        ((0.0, 10.0, 0.0), 0.5, "not possible with its buckets"),
        ((5.0, -2.0, 0.0), 0.4, "contradict each other"),
        ((0.0, 0.0, 10.0), 90.0, "one bucket"),
    ],
)
def test_a_missing_quantile_of_a_histogram_is_explained(
    counts: tuple[float, ...], sum_s: float, why: str
) -> None:
    """There is a number only if buckets and sum are consistent."""
    reading = read_histogram(buckets(*counts), sum_s)
    assert why in reading.why_not
    assert bool(reading.why_not) == bool(why)
    known = why in ("", "one bucket")
    assert (reading.mean_s == reading.mean_s) == known
