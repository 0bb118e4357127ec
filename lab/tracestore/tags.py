"""The tags that spans have, and the values of a tag."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

import duckdb

from lab.tracestore.catalogue import SCOPES
from lab.tracestore.columns import MAP_TYPES, PROMOTED, quote
from lab.tracestore.errors import BadRequest, TraceQLError
from lab.tracestore.store import SpanStore
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.expressions import INTRINSICS, SCOPED_INTRINSICS
from lab.tracestore.traceql.literals import KIND, STATUS
from lab.tracestore.traceql.parse import parse, parse_attribute
from lab.tracestore.traceql.spansets import SpansetCompiler, Window
from lab.tracestore.traceql.text import go_duration
from lab.tracestore.traceql.validate import validate

# As Tempo lists them: in both spellings, and without nested sets and the number of children.
INTRINSIC_TAGS = [
    "duration",
    "event:name",
    "event:timeSinceStart",
    "instrumentation:name",
    "instrumentation:version",
    "kind",
    "link:spanID",
    "link:traceID",
    "name",
    "rootName",
    "rootServiceName",
    "span:duration",
    "span:id",
    "span:kind",
    "span:name",
    "span:parentID",
    "span:status",
    "span:statusMessage",
    "status",
    "statusMessage",
    "trace:duration",
    "trace:id",
    "trace:rootName",
    "trace:rootService",
    "traceDuration",
]
MAX_VALUES = 5_000
# A name with braces, which a query would have to quote; clients send it as it is.
_WITH_BRACES = re.compile(
    r'(span|resource|event|link|instrumentation)?\.([^\s=<>!~|&^"()]*[{}][^\s=<>!~|&^"()]*)'
)
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
    r"(?:\.|span\.|resource\.|event\.|link\.|instrumentation\.|[a-z]+:)?"
    r'(?:"(?:\\.|[^"\\])*"|[^\s{}()=~!<>&|^,"])+'
    r'\s*(?:=~|!~|!=|>=|<=|=|>|<)\s*(?:"(?:\\.|[^"\\])*"|`[^`]*`|[^\s{}()=~!<>&|^,"]+)'
)


@dataclass(frozen=True)
class TagRequest:
    """Which tags are requested: of spans in the window that meet `query`, if it is usable."""

    scope: str = ""
    query: str = ""
    window: Window = Window()
    limit: int = 0


def tag_names(
    store: SpanStore, con: duckdb.DuckDBPyConnection, request: TagRequest
) -> list[dict[str, Any]]:
    """Return `[{"name": scope, "tags": [...]}]`, every scope where none is given.

    Raises BadRequest for an unknown one.
    """
    scope = "" if request.scope == "none" else request.scope
    if scope not in ("", "intrinsic", *SCOPES):
        raise BadRequest(
            f"invalid scope: {scope[:40]}", fix=f"use one of intrinsic, {', '.join(SCOPES)}"
        )

    scopes = SCOPES if not scope else [scope] if scope != "intrinsic" else []
    conditions = usable_conditions(request.query)
    found = []
    for name in scopes:
        if conditions:
            tags = _keys_of_spans(store, con, name, conditions, request.window)
        else:
            window = request.window
            tags = store.catalogue.keys(name, window.start_ns, window.end_ns)
        if tags:
            found.append({"name": name, "tags": tags[: request.limit or None]})
    if scope in ("", "intrinsic"):
        found.append({"name": "intrinsic", "tags": list(INTRINSIC_TAGS)})
    return found


def _keys_of_spans(
    store: SpanStore,
    con: duckdb.DuckDBPyConnection,
    scope: str,
    conditions: list[ast.FieldExpression],
    window: Window,
) -> list[str]:
    """Return the sorted keys of a scope among the spans that meet the conditions."""
    compiler = SpansetCompiler(store.catalogue, window)
    fields = compiler.fields()
    parts = [compiler.in_window(), *(fields.condition(c) for c in conditions)]
    where = " AND ".join(f"({p})" for p in parts)
    spans = compiler.name(f"SELECT s.* FROM {compiler.source(fields.needs)} WHERE {where}")
    compiler.prepare(con)
    sql = compiler.statement(_KEYS[scope].format(spans=spans))
    rows = con.execute(sql, compiler.parameters.of(sql)).fetchall()
    return sorted(row[0] for row in rows)


def _map_keys(relation: str) -> str:
    keys = [f"SELECT unnest(map_keys(a_{t})) AS key FROM {relation}" for t in MAP_TYPES]
    return " UNION ".join(keys)


def _bag_keys(column: str) -> str:
    bags = f"SELECT unnest(json_extract({column}, '$[*].a')) AS bag FROM {{spans}}"
    return f"SELECT DISTINCT unnest(json_keys(bag)) AS key FROM ({bags})"


_PROMOTED_KEYS = " UNION ".join(
    f"SELECT '{key}' AS key FROM {{spans}} WHERE {quote(key)} IS NOT NULL" for key in PROMOTED
)
_KEYS = {
    "span": f"{_map_keys('{spans}')} UNION {_PROMOTED_KEYS}",
    "resource": _map_keys("(SELECT * FROM resources WHERE id IN (SELECT res_id FROM {spans}))"),
    "instrumentation": _map_keys(
        "(SELECT * FROM scopes WHERE id IN (SELECT scope_id FROM {spans}))"
    ),
    "event": _bag_keys("events"),
    "link": _bag_keys("links"),
}


def tag_values(
    store: SpanStore,
    con: duckdb.DuckDBPyConnection,
    node: ast.Attribute | ast.Intrinsic,
    request: TagRequest,
) -> list[dict[str, str]]:
    """Return `[{"type", "value"}]` of a tag, most frequent first."""
    fixed = _fixed_values(node)
    if fixed is not None:
        return fixed

    compiler = SpansetCompiler(store.catalogue, request.window)
    fields = compiler.fields()
    conditions = [fields.condition(c) for c in usable_conditions(request.query)]
    where = " AND ".join([compiler.in_window(), *(f"({c})" for c in conditions)])
    values: list[dict[str, str]] = []
    for slot, sql in fields.slots(node).items():
        kind = slot.removesuffix("[]")
        value = f"unnest({sql})" if slot.endswith("[]") else sql
        inner = f"SELECT {value} AS v FROM {compiler.source(fields.needs)} WHERE {where}"
        compiler.prepare(con)
        statement = compiler.statement(
            f"SELECT v FROM ({inner}) WHERE v IS NOT NULL GROUP BY v "
            f"ORDER BY count(*) DESC, v LIMIT {request.limit or MAX_VALUES:d}"
        )
        rows = con.execute(statement, compiler.parameters.of(statement)).fetchall()
        values += [_typed(kind, row[0]) for row in rows if row[0] != "" or _may_be_empty(node)]
    return values[: request.limit or None]


def _typed(kind: str, value: Any) -> dict[str, str]:
    """Return a value and its type; Tempo leaves an empty value out."""
    text = _text(kind, value)
    return {"type": _TYPE[kind], "value": text} if text else {"type": _TYPE[kind]}


def _may_be_empty(node: ast.Attribute | ast.Intrinsic) -> bool:
    return node == ast.Intrinsic("span:statusMessage")


def usable_conditions(query: str) -> list[ast.FieldExpression]:
    """Return the conditions of a query that make sense.

    A query may be incomplete: what cannot be read is left out.
    """
    if not query.strip():
        return []
    try:
        condition = _only_condition(validate(parse(query)))
        return [] if condition is None else [condition]
    except TraceQLError:
        texts = [] if "||" in query else _CONDITION.findall(query)

    conditions = []
    for text in texts:
        with contextlib.suppress(TraceQLError):
            condition = _only_condition(validate(parse("{ " + text + " }")))
            if condition is not None:
                conditions.append(condition)
    return conditions


def _only_condition(query: ast.Query) -> ast.FieldExpression | None:
    """Return the condition of a query that is one filter; None for any other."""
    first, *others = query.pipeline.stages
    if isinstance(query, ast.MetricsQuery) or others or not isinstance(first, ast.Filter):
        return None
    return first.condition


def read_tag(text: str) -> ast.Attribute | ast.Intrinsic:
    """Return the attribute or intrinsic that a query would write so.

    Raises BadRequest for anything else.
    """
    braces = _WITH_BRACES.fullmatch(text)
    if braces:
        return ast.Attribute(braces.group(1) or "", braces.group(2))
    try:
        condition = _only_condition(parse("{" + text + "}"))
    except TraceQLError as e:
        raise BadRequest("please provide a valid tag name", got=repr(text[:100])) from e

    if not isinstance(condition, ast.Attribute | ast.Intrinsic):
        raise BadRequest("please provide a valid tag name", got=repr(text[:100]))
    return condition


def read_tag_v1(text: str) -> ast.Attribute | ast.Intrinsic:
    """Return the attribute of a name as the older endpoint takes it: any text, without a scope."""
    if text in INTRINSICS and text != "parent":
        return ast.Intrinsic(INTRINSICS[text])
    if text in SCOPED_INTRINSICS:
        return ast.Intrinsic(text)
    return parse_attribute(text)


def _fixed_values(node: ast.Attribute | ast.Intrinsic) -> list[dict[str, str]] | None:
    """Return the values that are known beforehand, as in Tempo.

    Statuses and kinds are; ids and durations have none.
    """
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
