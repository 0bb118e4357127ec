"""The SQL answers what a slow, obvious evaluation in Python answers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from lab.tracestore.search import SearchRequest, search
from lab.tracestore.store import SpanStore
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.parse import parse
from lab.tracestore.traceql.spansets import SpansetCompiler, Window
from lab.tracestore.traceql.validate import validate
from tests.tracestore.corpus import random_spans, store_of
from tests.tracestore.hypotheses import LONG, QUICK
from tests.tracestore.queries import conditions, pipelines, spansets
from tests.tracestore.slow_traceql import Corpus


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Corpus, SpanStore]]:
    found = []
    for seed in range(2):
        spans = random_spans(seed, traces=10)
        folder: Path = tmp_path_factory.mktemp("corpus")
        found.append((Corpus(spans), store_of(folder, spans)))
    yield found
    for _, store in found:
        store.close()


def sql_answer(store: SpanStore, query: ast.Query) -> Counter:
    """(trace, how many spansets share this content, span ids) as the SQL sees them."""
    compiler = SpansetCompiler(store.catalogue, Window())
    relation = compiler.pipeline(query.pipeline)
    groups = "".join(f", {g}" for g in relation.group_columns)
    with store.reader() as con:
        sql = compiler.statement(f"SELECT DISTINCT trace_id, span_id{groups} FROM ({relation.sql})")
        rows = con.execute(sql, compiler.parameters.of(sql)).fetchall()
    sets: dict[tuple, set[int]] = {}
    for trace, span_id, *key in rows:
        sets.setdefault((trace.int, *key), set()).add(span_id)
    return Counter((key[0], frozenset(ids)) for key, ids in sets.items())


def slow_answer(corpus: Corpus, query: ast.Query) -> Counter:
    found = corpus.pipeline(query)
    return Counter((trace, frozenset(s.id for s in spans)) for trace, sets in found.items() for _, _, spans in sets)


def searched(store: SpanStore, query: ast.Query, limit: int = 1000) -> list[tuple[int, list[frozenset[int]]]]:
    """(trace, its spansets) in the order of a search."""
    with store.reader() as con:
        answer = search(store, con, SearchRequest(query, limit=limit, spans_per_set=1000))
    return [
        (int(t["traceID"], 16), [frozenset(int(span["spanID"], 16) for span in s["spans"]) for s in t["spanSets"]])
        for t in answer["traces"]
    ]


def check(corpora: list[tuple[Corpus, SpanStore]], text: str) -> None:
    query = validate(parse(text))
    for corpus, store in corpora:
        expected = slow_answer(corpus, query)
        assert sql_answer(store, query) == expected, text
        found = searched(store, query)
        assert Counter((trace, ids) for trace, sets in found for ids in sets) == expected, text
        newest = {trace: max(corpus.by_id[trace, i].start for ids in sets for i in ids) for trace, sets in found}
        assert [t for t, _ in found] == sorted(newest, key=lambda t: (-newest[t], t)), text
        assert searched(store, query, limit=2) == found[:2], text


@QUICK
@given(text=conditions())
def test_filters(corpora: Any, text: str) -> None:
    """Every condition selects the same spans."""
    check(corpora, "{ " + text + " }")


@QUICK
@given(text=spansets(2))
def test_operators_between_spansets(corpora: Any, text: str) -> None:
    """&&, || and all fifteen structural operators."""
    check(corpora, text)


@QUICK
@given(text=pipelines())
def test_pipelines(corpora: Any, text: str) -> None:
    """by(), coalesce(), select(), aggregates and filters, in any order."""
    check(corpora, text)


@pytest.mark.slow
@LONG
@given(text=pipelines())
def test_pipelines_at_length(corpora: Any, text: str) -> None:
    """The same, for longer."""
    check(corpora, text)
