"""Prometheus' answers become frames without any change of the samples."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import FrameError
from lab.frames import series_frame
from tests.frames.telemetry import Metric, Metrics, metrics


def test_one_row_per_sample_with_labels_and_utc() -> None:
    """Series follow each other, missing labels are missing, and times are UTC in milliseconds."""
    frame = series_frame(
        metrics(
            ({"__name__": "up", "job": "vllm", "time": "x"}, [(1.0, "1"), (2.5, "0")]),
            ({"__name__": "up", "job": "node"}, [(1.25, "1")]),
        )
    )
    assert list(frame.columns) == ["time", "metric", "job", "label_time", "value"]
    assert frame.time.dtype == "datetime64[ms, UTC]" and isinstance(
        frame.job.dtype, pd.CategoricalDtype
    )
    assert frame.time.tolist() == [pd.Timestamp(t, unit="s", tz="UTC") for t in (1.0, 2.5, 1.25)]
    assert frame.job.tolist() == ["vllm", "vllm", "node"] and frame.value.tolist() == [1, 0, 1]
    assert frame.label_time.isna().tolist() == [False, False, True]


def test_values_that_are_not_finite_are_kept() -> None:
    """NaN and the infinities stay as Prometheus sent them."""
    frame = series_frame(metrics(({}, [(1, "NaN"), (2, "+Inf"), (3, "-Inf"), (4, "1e-07")])))
    assert math.isnan(frame.value[0]) and frame.value[1:].tolist() == [math.inf, -math.inf, 1e-7]


def test_an_empty_answer_is_an_empty_frame() -> None:
    """An empty answer, or a series without samples, has columns and no rows."""
    assert list(series_frame(metrics()).columns) == ["time", "value"]
    frame = series_frame(metrics(({"a": "b"}, []), ({"a": "c"}, [(1, "2")])))
    assert frame.a.tolist() == ["c"]


def test_pieces_of_a_split_range_are_joined() -> None:
    """A series that arrived in pieces is one series."""
    pieces = (b'[[1,"1"],[2,"2"]]', b'[[3,"3"]]')
    frame = series_frame(Metrics((Metric({"a": "x"}, pieces), Metric({"a": "y"}, (b'[[1,"9"]]',)))))
    assert frame.value.tolist() == [1, 2, 3, 9] and frame.a.tolist() == ["x", "x", "x", "y"]


def ranged(step_s: float, *pieces: bytes) -> SimpleNamespace:
    """Return the answer of a range query with this step, with one series per piece."""
    series = tuple(Metric({"n": str(i)}, (piece,)) for i, piece in enumerate(pieces))
    return SimpleNamespace(series=series, provenance=SimpleNamespace(step_s=step_s))


@pytest.mark.parametrize("step_s", [0.001, 0.25, 1.0, 15.0, 3600.0])
def test_times_of_a_range_are_those_of_the_answer(step_s: float) -> None:
    """Samples keep their times in complete, late, interrupted, short and empty series."""
    times = [round(1_760_000_000.5 + k * step_s, 3) for k in range(6)]
    expected = [times, times[2:], [*times[:2], *times[4:]], times[3:4], [], times[::5]]
    texts = [
        json.dumps([[t, str(t)] for t in series], separators=(",", ":")).encode()
        for series in expected
    ]
    frame = series_frame(ranged(step_s, *texts))
    assert frame.time.astype("int64").tolist() == [
        round(t * 1000) for series in expected for t in series
    ]
    assert frame.value.tolist() == [t for series in expected for t in series]
    assert frame.groupby("n", observed=False).size().tolist() == [6, 4, 4, 1, 0, 2]


def test_parts_of_a_stream_become_one_frame() -> None:
    """Series may appear in some parts only, and the rows are those of the whole range."""
    parts = [
        metrics(({"a": "x"}, [(1, "1"), (2, "2")]), ({"a": "y"}, [(1, "10")])),
        metrics(),
        metrics(({"a": "z"}, [(4, "100")]), ({"a": "y"}, [(3, "30"), (4, "40")])),
        metrics(({"a": "x"}, [(5, "5")])),
    ]
    frame = series_frame(iter(parts))
    assert frame.a.tolist() == ["x", "x", "x", "y", "y", "y", "z"]
    assert frame.value.tolist() == [1, 2, 5, 10, 30, 40, 100]
    assert frame.time.astype("int64").tolist() == [1000, 2000, 5000, 1000, 3000, 4000, 4000]
    assert series_frame(iter(())).empty and series_frame(iter([metrics()])).empty


def test_other_json_notations_are_read() -> None:
    """Spaces between values and numbers without quotes are read correctly."""
    for text in (
        b'[ [1, "1.5"], [2, "2"] ]',
        b"[[1,1.5],[2,2]]",
        b' [\n [1.0 , "1.5" ] ,\n[ 2.0,"2"]\n]\n',
    ):
        for answer in (Metrics((Metric({}, (text,)),)), ranged(1.0, text)):
            frame = series_frame(answer)
            assert frame.value.tolist() == [1.5, 2.0] and frame.time.astype("int64").tolist() == [
                1000,
                2000,
            ]


def test_invalid_samples_are_refused() -> None:
    """The error shows the invalid text."""
    for text in (b'[["yesterday","1"]]', b'[[1,"much"]]', b'[[1,"1"]', b"[[1]]", b'{"a":"b"}', b""):
        with pytest.raises(FrameError, match="Prometheus' format"):
            series_frame(Metrics((Metric({}, (text,)),)))


_SAMPLES = st.lists(
    st.tuples(st.integers(0, 4_000_000_000_000), st.floats(allow_nan=True, allow_infinity=True)),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_SAMPLES, max_size=4))
def test_no_sample_is_changed(series: list) -> None:
    """Times are exact to the millisecond and values to the last bit."""
    pieces = [
        json.dumps([[t / 1000, _text(v)] for t, v in samples], separators=(",", ":")).encode()
        for samples in series
    ]
    frame = series_frame(Metrics(tuple(Metric({"n": str(i)}, (p,)) for i, p in enumerate(pieces))))
    samples = [sample for one_series in series for sample in one_series]
    assert frame.time.astype("int64").tolist() == [t for t, _ in samples]
    np.testing.assert_array_equal(
        frame.value.to_numpy(), np.array([v for _, v in samples], dtype=float)
    )


def _text(value: float) -> str:
    return (
        "NaN"
        if math.isnan(value)
        else "+Inf"
        if value == math.inf
        else "-Inf"
        if value == -math.inf
        else repr(value)
    )
