"""Retrievals of several libraries make the same table."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from lab.frames import retrieval_frame, spans_frame
from tests.frames.telemetry import Answer, document, span

FOUND = [{"id": "a", "score": 0.9, "content": "one"}, {"id": "b", "score": 0.4, "content": "two"}]
OPENINFERENCE = {
    f"retrieval.documents.{i}.document.{name}": value
    for i, each in enumerate(FOUND)
    for name, value in each.items()
}
LANGCHAIN = {"documents": [{"page_content": "one", "metadata": {}}, {"page_content": "two"}]}
QUERY = "opening hours"
LIBRARIES: dict[str, dict[str, Any]] = {
    "semconv": {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.data_source.id": "kb",
        "gen_ai.retrieval.query.text": QUERY,
        "gen_ai.retrieval.top_k": 5,
        "gen_ai.retrieval.documents": json.dumps(FOUND),
    },
    "openinference": {
        "openinference.span.kind": "RETRIEVER",
        "input.value": QUERY,
        **OPENINFERENCE,
    },
    "openinference of langchain": {
        "openinference.span.kind": "RETRIEVER",
        "input.value": json.dumps({"query": QUERY}),
        "output.value": json.dumps(LANGCHAIN),
    },
    "spring ai": {
        "spring.ai.kind": "vector_store",
        "db.operation.name": "query",
        "db.collection.name": "kb",
        "db.vector.query.content": QUERY,
        "db.vector.query.top_k": 5,
    },
    "openllmetry": {"db.system": "chroma", "db.chroma.query.n_results": 5},
}
EXPECTED = {
    "semconv": ("kb", QUERY, 5, 2, [0.9, 0.4]),
    "openinference": (None, QUERY, None, 2, [0.9, 0.4]),
    "openinference of langchain": (None, QUERY, None, 2, None),
    "spring ai": ("kb", QUERY, 5, None, None),
    "openllmetry": ("chroma", None, 5, None, None),
}


def retrievals(*spans: tuple) -> pd.DataFrame:
    return retrieval_frame(spans_frame(Answer((document(*spans),))))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_retrieval(library: str) -> None:
    """What a library does not record is missing, not 0."""
    (row,) = retrievals(span(1, 0, "app", "search", 0.0, 0.25, **LIBRARIES[library])).to_dict(
        "records"
    )
    names = ("source", "query", "top_k", "documents", "scores")
    assert [None if row[name] is pd.NA else row[name] for name in names] == list(EXPECTED[library])
    assert row["duration_s"] == 0.25 and not row["failed"] and row["error"] == ""


def test_a_retriever_and_its_database_are_one_retrieval() -> None:
    """The outer span has the query, the inner one the collection; a failure is either's."""
    spans = (
        span(1, 0, "app", "Retriever", 0.0, 0.3, error="no", **LIBRARIES["openinference"]),
        span(2, 1, "app", "pg_vector query", 0.1, 0.2, **LIBRARIES["spring ai"]),
        span(3, 0, "app", "chroma.query", 0.4, 0.5, **LIBRARIES["openllmetry"]),
    )
    table = retrievals(*spans)
    assert table["source"].tolist() == ["kb", "chroma"] and table["top_k"].tolist() == [5, 5]
    assert table["failed"].tolist() == [True, False] and table["error"].tolist() == ["no", ""]


def test_what_is_not_a_retrieval() -> None:
    """Adding to a vector store; and nothing at all."""
    add = {**LIBRARIES["spring ai"], "db.operation.name": "add"}
    assert retrievals(span(1, 0, "app", "pg_vector add", 0.0, 0.1, **add)).empty
    assert retrievals(span(1, 0, "app", "GET /", 0.0, 0.1)).empty


@pytest.mark.parametrize("documents", ["", "{}", "[", "null", '{"0": 1}', '{"documents": "x"}'])
def test_odd_documents(documents: str) -> None:
    """Malformed documents have no scores, and raise no error."""
    odd = {**LIBRARIES["semconv"], "gen_ai.retrieval.documents": documents}
    (row,) = retrievals(span(1, 0, "app", "search", 0.0, 0.1, **odd)).to_dict("records")
    assert row["scores"] is None
