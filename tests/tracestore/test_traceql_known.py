"""TraceQL gives answers worked out by hand, for every construct over one small tree.

A (api, server, n=5, f=2.5, s="x", b=true, 1000 ns)
├── B (api, client, error, n=7, 500 ns)
│   └── C (api, n=7.0, arr=["p", "q"], 100 ns)
└── D (db, 50 ns)
E (api, ok, "m", 20 ns), a separate trace
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.tracestore.search import SearchRequest, read_query, search
from lab.tracestore.store import SpanStore
from tests.tracestore.corpus import T0, store_of
from tests.tracestore.slow_traceql import Span

# {query: the spansets, each by the names of its spans}
KNOWN = r"""
{ name="A" } > { }  ->  BD
{ name="A" } >> { }  ->  BCD
{ name="C" } < { }  ->  B
{ name="C" } << { }  ->  AB
{ name="B" } ~ { }  ->  D
{ name="A" } !> { }  ->  AC E
{ name="A" } !>> { }  ->  A E
{ name="C" } !< { }  ->  ACD E
{ name="C" } !<< { }  ->  CD E
{ name="B" } !~ { }  ->  ABC E
{ name="A" } &> { name="B" }  ->  AB
{ name="A" } &>> { name="C" }  ->  AC
{ name="C" } &< { name="B" }  ->  BC
{ name="C" } &<< { name="A" }  ->  AC
{ name="B" } &~ { name="D" }  ->  BD
{ name="A" } && { name="D" }  ->  AD
{ name="A" } || { name="E" }  ->  A E
{ name="A" } && { name="E" }  ->  -
{ .n = 7 }  ->  B
{ .n = 7.0 }  ->  C
{ .n > 5 }  ->  B
{ .n > 5 && .s = nil }  ->  B
{ .n > 5 && .n != nil }  ->  BC
{ !(.n = 7) }  ->  -
{ !(.n = 7) && name = "A" }  ->  A
{ !(.n != nil) }  ->  -
{ nestedSetParent < 0 }  ->  A E
{ nestedSetParent = 1 }  ->  BD
{ nestedSetLeft > 2 }  ->  CD
{ nestedSetRight = nestedSetLeft + 1 }  ->  CD E
{ } | by(nestedSetParent)  ->  A BD C E
{ .n != 7 }  ->  A
{ .missing != 1 }  ->  -
{ .missing = nil }  ->  ABCD E
{ .n = nil }  ->  D E
{ .arr = "p" }  ->  C
{ .arr != "p" }  ->  -
{ .arr =~ "p|z" }  ->  C
{ .n + 1 = 8 }  ->  BC
{ .f * 2 = 5 }  ->  A
{ .b }  ->  A
{ !.b }  ->  -
{ .s =~ "X" }  ->  -
{ .s =~ "(?i)X" }  ->  A
{ kind = server }  ->  A
{ status != unset }  ->  B E
{ statusMessage = "m" }  ->  E
{ span:childCount = 2 }  ->  A
{ span:childCount = 0 }  ->  CD E
{ rootName = "A" }  ->  ABCD
{ trace:rootService = "api" }  ->  ABCD E
{ resource.service.name = "db" }  ->  D
{ .service.name = "db" }  ->  D
{ duration >= 500ns }  ->  AB
{ span:parentID = "0000000000000002" }  ->  C
{ span:id = "0000000000000004" }  ->  D
{ } | count() > 3  ->  ABCD
{ } | count() = 1  ->  E
{ } | avg(.n) > 6  ->  ABCD
{ } | max(duration) < 100ns  ->  E
{ } | sum(.n) = 19  ->  ABCD
{ } | min(.n) = 5  ->  ABCD
{ } | by(resource.service.name)  ->  ABC D E
{ } | by(resource.service.name) | count() > 1  ->  ABC
{ } | by(resource.service.name) | coalesce()  ->  ABCD E
{ } | by(status) | count() = 1  ->  B E
{ } | { name = "A" }  ->  A
{ } | count() > 3 | { name =~ "A|B" }  ->  AB
({ name="A" } | count() = 1) && ({ name="D" } | count() = 1)  ->  AD
{ name =~ "A|B" } | select(.n)  ->  AB
count() = 1  ->  E
{ 1 = 1 }  ->  ABCD E
{ false }  ->  -
{ name = "A" || name = "B" && name = "C" }  ->  -
{ trace:duration > 900ns }  ->  ABCD
{ trace:id = "2" }  ->  E
"""


def _span(
    number: int,
    parent: int,
    name: str,
    duration_ns: int,
    service: str = "api",
    trace: int = 1,
    **more: object,
) -> Span:
    start = T0 + number * 10
    resource = {"service.name": ("str", service)}
    return Span(trace, number, parent, name, start, start + duration_ns, resource=resource, **more)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpanStore]:
    of_a = {"n": ("int", 5), "f": ("dbl", 2.5), "s": ("str", "x"), "b": ("bool", True)}
    spans = [
        _span(1, 0, "A", 1000, kind=2, attributes=of_a),
        _span(2, 1, "B", 500, kind=3, status=2, attributes={"n": ("int", 7)}),
        _span(3, 2, "C", 100, attributes={"n": ("dbl", 7.0), "arr": ("str[]", ["p", "q"])}),
        _span(4, 1, "D", 50, service="db"),
        _span(5, 0, "E", 20, trace=2, status=1, message="m"),
    ]
    folder: Path = tmp_path_factory.mktemp("known")
    loaded_store = store_of(folder, spans)
    yield loaded_store
    loaded_store.close()


@pytest.mark.parametrize("line", KNOWN.strip().split("\n"))
def test_known_answers(store: SpanStore, line: str) -> None:
    """The spansets are those that a reader of the tree would name."""
    query, _, expected = line.partition("  ->  ")
    with store.reader() as con:
        traces = search(store, con, SearchRequest(read_query(query), spans_per_set=100))["traces"]
    names = [
        "".join(sorted("ABCDE"[int(span["spanID"], 16) - 1] for span in s["spans"]))
        for t in traces
        for s in t["spanSets"]
    ]
    assert sorted(names) == sorted(expected.split() if expected != "-" else [])
