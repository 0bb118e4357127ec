"""The SQL gives the same answers as a slow and obvious evaluation in Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given

from lab.tracestore.search import SearchRequest, search
from lab.tracestore.store import SpanStore
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.fetch import FetchPlan, fetch_plan
from lab.tracestore.traceql.parse import parse
from lab.tracestore.traceql.spansets import SpansetCompiler, Window
from lab.tracestore.traceql.validate import validate
from tests.tracestore.corpus import random_spans, store_of
from tests.tracestore.hypotheses import LONG, QUICK
from tests.tracestore.queries import conditions, pipelines, spansets
from tests.tracestore.slow_traceql import Corpus


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Corpus, SpanStore]]:
    """Yield twenty traces as plain objects and in a store."""
    generated = random_spans(0, traces=20)
    store = store_of(tmp_path_factory.mktemp("corpus"), generated)
    yield Corpus(generated), store
    store.close()


def sql_answer(store: SpanStore, query: ast.Query) -> Counter:
    """Count (trace, number of spansets with this content, span ids) in the SQL's answer."""
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


def slow_answer(corpus: Corpus, query: ast.Query, plan: FetchPlan | None = None) -> Counter:
    sets_by_trace = corpus.pipeline(query, plan)
    return Counter(
        (trace, frozenset(s.id for s in spans))
        for trace, sets in sets_by_trace.items()
        for _, _, spans in sets
    )


def searched(
    store: SpanStore, query: ast.Query, limit: int = 1000
) -> list[tuple[int, list[frozenset[int]]]]:
    """Return (trace, its spansets) in the order of a search."""
    with store.reader() as con:
        answer = search(store, con, SearchRequest(query, limit=limit, spans_per_set=1000))
    return [
        (
            int(t["traceID"], 16),
            [frozenset(int(span["spanID"], 16) for span in s["spans"]) for s in t["spanSets"]],
        )
        for t in answer["traces"]
    ]


def check(spans: tuple[Corpus, SpanStore], text: str) -> None:
    (corpus, store), query = spans, validate(parse(text))
    assert sql_answer(store, query) == slow_answer(corpus, query), text
    expected = slow_answer(corpus, query, fetch_plan(query))
    results = searched(store, query)
    assert Counter((trace, ids) for trace, sets in results for ids in sets) == expected, text
    newest = {
        trace: max(corpus.by_id[trace, i].start for ids in sets for i in ids)
        for trace, sets in results
    }
    assert [t for t, _ in results] == sorted(newest, key=lambda t: (-newest[t], t)), text
    if len(results) >= 2:  # a shorter result cannot show whether the limit is applied
        assert searched(store, query, limit=2) == results[:2], text


@QUICK
@given(text=conditions())
def test_filters(spans: tuple[Corpus, SpanStore], text: str) -> None:
    """Every condition selects the same spans."""
    check(spans, "{ " + text + " }")


@QUICK
@given(text=spansets(2))
def test_operators_between_spansets(spans: tuple[Corpus, SpanStore], text: str) -> None:
    """&&, || and all fifteen structural operators select the same spans."""
    check(spans, text)


@QUICK
@given(text=pipelines())
def test_pipelines(spans: tuple[Corpus, SpanStore], text: str) -> None:
    """by(), coalesce(), select(), aggregates and filters work in any order."""
    check(spans, text)


@pytest.mark.slow
@LONG
@given(text=pipelines())
def test_pipelines_at_length(spans: tuple[Corpus, SpanStore], text: str) -> None:
    """Many more random pipelines agree."""
    check(spans, text)
