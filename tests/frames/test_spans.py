"""Spans become the same frame in every format."""

from __future__ import annotations

import json
import math

import pandas as pd
import pyarrow as pa
import pytest

from lab.errors import FrameError
from lab.frames import spans_frame, trace_problems
from lab.schema import SPAN_ATTRIBUTES, SPAN_FRAME, Attr, Span
from tests.frames.telemetry import CLIENT, T0, Answer, agent_request, document, span

MIXED = span(
    255,
    0,
    "svc",
    "mixed",
    0,
    1.5,
    CLIENT,
    error="boom",
    text="a",
    whole=3,
    real=0.5,
    yes=True,
    many=["x", 1],
)


def test_a_span_becomes_a_row() -> None:
    """Ids are hexadecimal, times are UTC, and requested attributes come last."""
    frame = spans_frame(Answer((document(MIXED),)), attributes=["real", "text", "nowhere"])
    assert list(frame.columns) == [*(c.name for c in SPAN_FRAME), "real", "text", "nowhere"]
    row = frame.iloc[0]
    assert row.span_id == "00000000000000ff" and row.trace_id == f"{1:032x}" and row.parent_id == ""
    assert row.start_at == pd.Timestamp(T0, unit="s", tz="UTC") and row.duration_s == 1.5
    assert (row.kind, row.status, row.status_message, row.service) == (
        "client",
        "error",
        "boom",
        "svc",
    )
    assert row.real == 0.5 and row.text == "a" and math.isnan(row.nowhere)


def test_every_attribute_on_request() -> None:
    """Types are kept, lists are JSON text, and spans without an attribute have a gap."""
    frame = spans_frame(
        Answer((document(MIXED, span(2, 255, "svc", "bare", 0, 1)),)), attributes=None
    )
    assert frame.whole.tolist()[0] == 3 and math.isnan(frame.whole.tolist()[1])
    assert frame.yes.tolist() == [True, pd.NA] and frame.text.isna().tolist() == [False, True]
    assert json.loads(frame.many[0]) == {"values": [{"stringValue": "x"}, {"intValue": "1"}]}


def test_the_older_layout_and_hex_ids_are_read() -> None:
    """`batches`, hexadecimal ids and numbers for kinds and status codes are read."""
    service, fields = MIXED
    fields = {
        **fields,
        "traceId": "ab" * 16,
        "spanId": "cd" * 8,
        "parentSpanId": "0" * 16,
        "kind": 3,
        "status": {"code": 2},
    }
    row = spans_frame(Answer((document((service, fields), key="batches"),)), attributes=()).iloc[0]
    assert (row.trace_id, row.span_id, row.parent_id, row.kind, row.status) == (
        "ab" * 16,
        "cd" * 8,
        "",
        "client",
        "error",
    )


def test_no_spans_is_an_empty_frame_with_the_same_columns() -> None:
    """Columns and types do not depend on the rows."""
    full = spans_frame(Answer((document(*agent_request()),)))
    empty = spans_frame(Answer(()))
    assert list(empty.columns) == list(full.columns) and empty.start_at.dtype == full.start_at.dtype
    assert trace_problems(empty).empty


@pytest.mark.parametrize(
    "bad", [b"<html>", b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"x"}]}]}]}', b"{"]
)
def test_an_invalid_trace_is_refused(bad: bytes) -> None:
    """The error shows how the document begins."""
    with pytest.raises(FrameError, match="not OTLP JSON"):
        spans_frame(Answer((bad,)))


def arrow_of(frame: pd.DataFrame, **extra: list) -> bytes:
    """Return the spans as the lab's trace store streams them (lab.tracestore.bulk.COLUMNS)."""
    start = frame.start_at.astype("int64")
    table = pa.table(
        {
            "trace_id": frame.trace_id.tolist(),
            "span_id": frame.span_id.tolist(),
            "parent_span_id": frame.parent_id.tolist(),
            "name": frame.name.tolist(),
            "kind": frame.kind.tolist(),
            "service_name": frame.service.tolist(),
            "start_time_unix_nano": start.to_numpy(),
            "end_time_unix_nano": (
                start + (frame.duration_s * 1e9).round().astype("int64")
            ).to_numpy(),
            "status": frame.status.tolist(),
            "status_message": frame.status_message.tolist(),
            **extra,
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_arrow_and_json_give_the_same_frame() -> None:
    """The Arrow stream of the lab's trace store and Tempo's OTLP JSON have the same spans."""
    attributes = [Attr.VLLM_PROMPT_TOKENS, Attr.LLAMA_STACK_TOOL_NAME, "loose"]
    by_json = spans_frame(Answer((document(*agent_request()),)), attributes=attributes)
    stream = arrow_of(
        by_json,
        **{
            Attr.VLLM_PROMPT_TOKENS: pa.array(
                by_json[Attr.VLLM_PROMPT_TOKENS], pa.int64(), from_pandas=True
            ),
            Attr.LLAMA_STACK_TOOL_NAME: by_json[Attr.LLAMA_STACK_TOOL_NAME]
            .astype(object)
            .where(lambda s: s.notna(), None),
            "attributes": ["{}"] * len(by_json),
        },
    )
    by_arrow = spans_frame(Answer(arrow=stream), attributes=attributes)
    for column in by_json:
        if isinstance(by_json[column].dtype, pd.CategoricalDtype):
            assert by_arrow[column].astype(str).tolist() == by_json[column].astype(str).tolist(), (
                column
            )
        else:
            pd.testing.assert_series_equal(
                by_arrow[column], by_json[column], check_dtype=column != "loose"
            )


def test_loose_attributes_come_from_the_json_object() -> None:
    """Attributes without a column are read from the JSON object of the other attributes."""
    frame = spans_frame(
        Answer((document(MIXED, span(2, 255, "svc", "bare", 0, 1)),)), attributes=()
    )
    stream = arrow_of(
        frame, attributes=['{"a.b":1.5,"list":[1],"s":"x"}', "{}"], **{"own.one": [1, 2]}
    )
    every = spans_frame(Answer(arrow=stream), attributes=None)
    assert (
        every["a.b"].tolist()[0] == 1.5
        and every["list"].tolist()[0] == "[1]"
        and every["own.one"].tolist() == [1, 2]
    )
    assert list(spans_frame(Answer(arrow=stream), attributes=["s", "own.one"]).columns[-2:]) == [
        "s",
        "own.one",
    ]


def test_a_stream_requested_without_the_attribute_is_refused() -> None:
    """An empty column would look like spans without the attribute."""
    frame = spans_frame(Answer((document(MIXED),)), attributes=())
    with pytest.raises(FrameError, match="without the attributes gen_ai"):
        spans_frame(Answer(arrow=arrow_of(frame)), attributes=[Attr.VLLM_QUEUE_S])
    with pytest.raises(FrameError, match="cannot be read"):
        spans_frame(Answer(arrow=arrow_of(frame)[:-200]))


def test_the_most_serious_problem_of_each_trace_is_named() -> None:
    """There is one text per trace, indexed by trace id."""
    complete = agent_request(1)
    rootless = agent_request(2)[1:]
    engineless = [s for s in agent_request(3) if s[1]["name"] != Span.VLLM]
    problems = trace_problems(
        spans_frame(Answer((document(*complete), document(*rootless), document(*engineless))))
    )
    assert problems.to_dict() == {
        f"{1:032x}": "",
        f"{2:032x}": "it has no root span",
        f"{3:032x}": "2 of its model calls lack vLLM's span",
    }


def test_the_default_attributes_are_the_schemas() -> None:
    """The attributes that the request frame needs are included by default."""
    assert set(SPAN_ATTRIBUTES) <= set(spans_frame(Answer(())).columns)


def test_a_damaged_stream_is_an_error_and_not_the_end_of_the_process() -> None:
    """A wrong byte anywhere either changes nothing that matters or is refused."""
    frame = spans_frame(Answer((document(*agent_request()),)), attributes=())
    stream = arrow_of(frame, attributes=['{"a":1}'] * len(frame))
    refused = 0
    for position in range(0, len(stream), 29):
        damaged = stream[:position] + b"\xff" + stream[position + 1 :]
        try:
            spans_frame(Answer(arrow=damaged), attributes=None)
        except FrameError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("column", ["trace_id", "start_time_unix_nano", "attributes", "own.one"])
def test_a_column_of_another_type_is_refused(column: str) -> None:
    """Lists in a column of texts or times are refused."""
    frame = spans_frame(Answer((document(MIXED),)), attributes=())
    columns = {"attributes": ["{}"], "own.one": [1]} | {column: [[1]]}
    with pytest.raises(FrameError, match="Arrow stream lacks|not text|not a JSON object"):
        spans_frame(Answer(arrow=arrow_of(frame, **columns)), attributes=None)
