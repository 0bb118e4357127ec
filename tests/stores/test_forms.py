"""The lab's own store over HTTP: the three forms in which spans come give the same frame."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lab.frames import spans_frame
from lab.stores import Tempo
from lab.stores.otlp import JSON, PROTOBUF, missing_parents, span_counts
from tests.tracestore.conftest import start, stop
from tests.tracestore.corpus import T0, random_spans, request_of

FIRST, LAST = T0 // 10**9 - 10, T0 // 10**9 + 60


def test_json_protobuf_and_arrow_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random spans of every kind of value: column by column, and in what is counted of them;
    through Tempo's own API as a Tempo without the bulk endpoint would be asked."""
    parts = start(tmp_path)
    try:
        made = random_spans(5, traces=20)
        assert parts[0].export(request_of(made).SerializeToString()).status_code == 200
        tempo = Tempo(str(parts[0].tempo.base_url))
        streamed = tempo.spans("{}", FIRST, LAST)
        tempo._bulk = frozenset()
        bulk = tempo.spans("{}", FIRST, LAST)
        ids = sorted({f"{s.trace:032x}" for s in made})
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
        assert len(by_proto) == len(made)
        pd.testing.assert_frame_equal(by_proto, by_json, check_categorical=False)
    assert spans_frame(bulk).sort_values("span_id").span_id.tolist() == sorted(
        spans_frame(streamed).span_id
    )
    assert span_counts(answers[JSON]) == span_counts(answers[PROTOBUF]) == span_counts(streamed)
    assert missing_parents(answers[JSON]) == missing_parents(answers[PROTOBUF])
