"""The lab's trace store gives the same frame for the three formats in which it sends spans."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lab.dialects import ATTRIBUTES, attributes_of
from lab.frames import join_split_traces, spans_frame, tool_frame
from lab.schema import SPAN_ATTRIBUTES
from lab.stores import SpansAnswer, Tempo, read_otlp_json
from lab.stores.otlp import JSON, PROTOBUF, missing_parents, span_counts
from tests.frames.agents import AGENTS
from tests.frames.telemetry import T0 as TELEMETRY_T0
from tests.frames.telemetry import document, span
from tests.tracestore.conftest import start, stop
from tests.tracestore.corpus import T0, random_spans, request_of

FIRST = T0 // 10**9 - 10
LAST = T0 // 10**9 + 60


def test_json_protobuf_and_arrow_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random spans of every value type give equal columns and counts in all formats.

    JSON and protobuf come through Tempo's API, as from a Tempo without the bulk endpoint.
    """
    parts = start(tmp_path)
    try:
        generated = random_spans(5, traces=20)
        assert parts[0].export(request_of(generated).SerializeToString()).status_code == 200
        tempo = Tempo(str(parts[0].tempo.base_url))
        streamed = tempo.spans("{}", FIRST, LAST)
        tempo._bulk = frozenset()
        bulk = tempo.spans("{}", FIRST, LAST)
        ids = sorted({f"{s.trace:032x}" for s in generated})
        answers = {PROTOBUF: tempo.traces(ids)}
        monkeypatch.setattr("lab.stores.tempo.PROTOBUF", JSON)
        answers[JSON] = tempo.traces(ids)
    finally:
        stop(*parts)
    assert bulk.protobufs and len(bulk.protobufs) == len(ids) and streamed.arrow is not None
    for attributes in (("foo", "bar", "gen_ai.usage.prompt_tokens"), None):
        by_json, by_proto = (
            spans_frame(answers[form], attributes=attributes) for form in (JSON, PROTOBUF)
        )
        assert len(by_proto) == len(generated)
        pd.testing.assert_frame_equal(by_proto, by_json, check_categorical=False)
    assert spans_frame(bulk).sort_values("span_id").span_id.tolist() == sorted(
        spans_frame(streamed).span_id
    )
    assert span_counts(answers[JSON]) == span_counts(answers[PROTOBUF]) == span_counts(streamed)
    assert missing_parents(answers[JSON]) == missing_parents(answers[PROTOBUF])


@pytest.mark.parametrize("name", attributes_of("response_id"))
def test_repeated_calls_are_counted_once_in_the_stream_too(name: str, tmp_path: Path) -> None:
    """The store streams the response ids by which they are known."""
    usage = {"gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 7}
    call = {"gen_ai.operation.name": "chat", name: "r1", **usage}
    traces = [document(span(n, 0, "app", "chat m", 0.1, 0.4, trace=n, **call)) for n in (1, 2)]
    parts = start(tmp_path)
    try:
        for body in read_otlp_json(*traces).protobufs:
            assert parts[0].export(body).status_code == 200
        tempo = Tempo(str(parts[0].tempo.base_url))
        answer = tempo.spans("{}", TELEMETRY_T0 - 10, TELEMETRY_T0 + 10)
    finally:
        stop(*parts)
    assert answer.arrow is not None
    spans = spans_frame(answer)
    assert spans["trace_id"].nunique() == 2
    assert join_split_traces(spans)["trace_id"].nunique() == 1


def test_messages_in_events_are_read_from_the_stream_too(tmp_path: Path) -> None:
    """Strands has its tools' arguments and failures in the events of spans only."""
    parts = start(tmp_path)
    try:
        body = read_otlp_json(document(*AGENTS["strands"]())).protobufs[0]
        assert parts[0].export(body).status_code == 200
        tempo = Tempo(str(parts[0].tempo.base_url))
        names = list(dict.fromkeys((*SPAN_ATTRIBUTES, *ATTRIBUTES)))
        answer = tempo.spans("{}", TELEMETRY_T0 - 10, TELEMETRY_T0 + 10, attributes=names)
    finally:
        stop(*parts)
    assert answer.arrow is not None
    table = tool_frame(spans_frame(answer, attributes=names))
    expected = tool_frame(spans_frame(SpansAnswer(answer.provenance, (body,))))
    pd.testing.assert_frame_equal(table, expected)
    assert table["arguments"].notna().all() and table["failed"].tolist() == [False, True]
