"""Which tags there are, and which values a tag has."""

from __future__ import annotations

import re
from typing import Any

import duckdb

from lab.tracestore.catalogue import SCOPES, Catalogue
from lab.tracestore.errors import BadRequest, TraceQLError
from lab.tracestore.store import SpanStore
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.literals import KIND, STATUS
from lab.tracestore.traceql.parse import INTRINSICS, SCOPED_INTRINSICS, parse, parse_attribute
from lab.tracestore.traceql.spansets import SpansetCompiler, Window
from lab.tracestore.traceql.text import go_duration
from lab.tracestore.traceql.validate import validate

INTRINSIC_TAGS = sorted(
    [
        "duration", "event:name", "event:timeSinceStart", "instrumentation:name", "instrumentation:version", "kind",
        "name",
        "rootName", "rootServiceName", "span:duration", "span:kind", "span:name", "span:status", "span:statusMessage",
        "status", "statusMessage", "trace:duration", "trace:rootName", "trace:rootService", "traceDuration",
    ]
)  # fmt: skip
_TYPE = {
    "str": "string",
    "int": "int",
    "dbl": "float",
    "bool": "bool",
    "dur": "duration",
    "status": "keyword",
    "kind": "keyword",
}
_CONDITION = re.compile(
    r'(?:\.|span\.|resource\.|event\.|link\.|instrumentation\.|[a-z]+:)?(?:"(?:\\.|[^"\\])*"|[^\s{}()=~!<>&|^,"])+'
    r'\s*(?:=~|!~|!=|>=|<=|=|>|<)\s*(?:"(?:\\.|[^"\\])*"|`[^`]*`|[^\s{}()=~!<>&|^,"]+)'
)


def tag_names(catalogue: Catalogue, scope: str, window: Window, limit: int) -> list[dict[str, Any]]:
    """`[{"name": scope, "tags": [...]}]`; every scope where none is given. Raises BadRequest for an unknown one."""
    if scope not in ("", "none", "intrinsic", *SCOPES):
        raise BadRequest(
            f"invalid scope: {scope[:40]}", fix=f"use one of intrinsic, {', '.join(SCOPES)}"
        )
    found = []
    for name in SCOPES if scope in ("", "none") else [scope]:
        tags = (
            catalogue.keys(name, window.start_ns, window.end_ns)
            if name != "intrinsic"
            else list(INTRINSIC_TAGS)
        )
        if tags:
            found.append({"name": name, "tags": tags[:limit] if limit else tags})
    if scope in ("", "none"):
        found.append({"name": "intrinsic", "tags": list(INTRINSIC_TAGS)})
    return found


def tag_values(
    store: SpanStore,
    con: duckdb.DuckDBPyConnection,
    tag: str,
    query: str,
    window: Window,
    limit: int,
) -> list[dict[str, str]]:
    """`[{"type", "value"}]` of a tag among the spans that the usable conditions of `query` match, most frequent
    first."""
    node = _tag(tag)
    fixed = _fixed_values(node)
    if fixed is not None:
        return fixed
    compiler = SpansetCompiler(store.catalogue, window)
    fields = compiler.fields()
    condition = " AND ".join(["TRUE", *(fields.condition(c) for c in usable_conditions(query))])
    slots = fields.slots(node)
    values: list[dict[str, str]] = []
    for type_name, sql in slots.items():
        listed = type_name.endswith("[]")
        value = f"unnest({sql})" if listed else sql
        inner = f"SELECT {value} AS v FROM {compiler.source(fields.needs)} WHERE {compiler.in_window()} AND {condition}"
        sql = f"SELECT v FROM ({inner}) WHERE v IS NOT NULL GROUP BY v ORDER BY count(*) DESC, v LIMIT {limit or 5000:d}"
        sql = compiler.statement(sql)
        rows = con.execute(sql, compiler.parameters.of(sql)).fetchall()
        kind = type_name.removesuffix("[]")
        values += [
            {"type": _TYPE[kind], "value": _text(kind, row[0])} for row in rows if row[0] != ""
        ]
    return values[:limit] if limit else values


def usable_conditions(query: str) -> list[ast.FieldExpression]:
    """The conditions of a query that make sense. An incomplete query is no error: what cannot be read is left out."""
    if not query.strip():
        return []
    try:
        whole = validate(parse(query))
        stages = whole.pipeline.stages if whole.pipeline else ()
        if len(stages) == 1 and isinstance(stages[0], ast.Filter):
            return [stages[0].condition]
        return []
    except TraceQLError:
        pass
    if "||" in query:
        return []
    found = []
    for text in _CONDITION.findall(query):
        try:
            found.append(validate(parse("{ " + text + " }")).pipeline.stages[0].condition)
        except TraceQLError:
            continue
    return found


def _tag(tag: str) -> ast.Attribute | ast.Intrinsic:
    if tag in INTRINSICS and tag != "parent":
        return ast.Intrinsic(INTRINSICS[tag])
    if tag in SCOPED_INTRINSICS:
        return ast.Intrinsic(tag)
    return parse_attribute(tag)


def _fixed_values(node: ast.Attribute | ast.Intrinsic) -> list[dict[str, str]] | None:
    """Statuses and kinds are known beforehand; ids, durations and the like are not listed, as in Tempo."""
    if not isinstance(node, ast.Intrinsic):
        return None
    match node.name:
        case "span:status":
            return [{"type": "keyword", "value": v} for v in sorted(STATUS)]
        case "span:kind":
            return [{"type": "keyword", "value": v} for v in sorted(KIND)]
        case (
            "span:name"
            | "span:statusMessage"
            | "trace:rootName"
            | "trace:rootService"
            | "event:name"
        ):
            return None
        case "instrumentation:name" | "instrumentation:version":
            return None
    return []


def _text(kind: str, value: Any) -> str:
    if kind == "bool":
        return "true" if value else "false"
    if kind == "dur":
        return go_duration(value)
    return str(value)
