"""Prometheus' answers as frames."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import FrameError
from lab.frames import series_frame
from tests.frames.telemetry import Metric, Metrics, metrics


def test_one_row_a_sample_with_labels_and_utc() -> None:
    """Series come one after another; a label that a series lacks is missing, not empty; times are UTC, to the ms."""
    frame = series_frame(
        metrics(
            ({"__name__": "up", "job": "vllm", "time": "x"}, [(1.0, "1"), (2.5, "0")]),
            ({"__name__": "up", "job": "node"}, [(1.25, "1")]),
        )
    )
    assert list(frame.columns) == ["time", "metric", "job", "label_time", "value"]
    assert frame.time.dtype == "datetime64[ms, UTC]" and isinstance(frame.job.dtype, pd.CategoricalDtype)
    assert frame.time.tolist() == [pd.Timestamp(t, unit="s", tz="UTC") for t in (1.0, 2.5, 1.25)]
    assert frame.job.tolist() == ["vllm", "vllm", "node"] and frame.value.tolist() == [1, 0, 1]
    assert frame.label_time.isna().tolist() == [False, False, True]


def test_what_is_not_a_number_is_kept() -> None:
    """NaN and the infinities are what Prometheus said."""
    frame = series_frame(metrics(({}, [(1, "NaN"), (2, "+Inf"), (3, "-Inf"), (4, "1e-07")])))
    assert math.isnan(frame.value[0]) and frame.value[1:].tolist() == [math.inf, -math.inf, 1e-7]


def test_nothing_is_an_empty_frame() -> None:
    """An empty answer has columns and no rows; so has a series without samples."""
    assert list(series_frame(metrics()).columns) == ["time", "value"]
    frame = series_frame(metrics(({"a": "b"}, []), ({"a": "c"}, [(1, "2")])))
    assert frame.a.tolist() == ["c"]


def test_pieces_of_a_split_range_follow_each_other() -> None:
    """A series that came in pieces is one series."""
    pieces = (b'[[1,"1"],[2,"2"]]', b'[[3,"3"]]')
    frame = series_frame(Metrics((Metric({"a": "x"}, pieces), Metric({"a": "y"}, (b'[[1,"9"]]',)))))
    assert frame.value.tolist() == [1, 2, 3, 9] and frame.a.tolist() == ["x", "x", "x", "y"]


def test_another_spelling_of_the_json_is_read_too() -> None:
    """Servers that write blanks are slower to read, not wrong."""
    frame = series_frame(Metrics((Metric({}, (b'[ [1, "1.5"], [2, "2"] ]',)),)))
    assert frame.value.tolist() == [1.5, 2.0]


def test_what_is_no_sample_is_refused() -> None:
    """The error shows what was there."""
    with pytest.raises(FrameError, match="Prometheus' format"):
        series_frame(Metrics((Metric({}, (b'[["yesterday","1"]]',)),)))


_SAMPLES = st.lists(
    st.tuples(st.integers(0, 4_000_000_000_000), st.floats(allow_nan=True, allow_infinity=True)),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_SAMPLES, max_size=4))
def test_no_sample_is_changed(series: list) -> None:
    """Every instant to the millisecond and every value to the last bit, as prometheus-api-client's JSON has them."""
    pieces = [
        json.dumps([[t / 1000, _text(v)] for t, v in samples], separators=(",", ":")).encode() for samples in series
    ]
    frame = series_frame(Metrics(tuple(Metric({"n": str(i)}, (p,)) for i, p in enumerate(pieces))))
    samples = [s for one in series for s in one]
    assert frame.time.astype("int64").tolist() == [t for t, _ in samples]
    np.testing.assert_array_equal(frame.value.to_numpy(), np.array([v for _, v in samples], dtype=float))


def _text(value: float) -> str:
    return (
        "NaN" if math.isnan(value) else "+Inf" if value == math.inf else "-Inf" if value == -math.inf else repr(value)
    )
