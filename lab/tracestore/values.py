"""Values of rows as OTLP JSON AnyValues: attributes that a query names, groups, aggregates, ids."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from lab.tracestore.anyvalue import double_to_json
from lab.tracestore.columns import PROMOTED
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.text import KIND_NAMES, STATUS_NAMES, attribute_text, go_duration
from lab.tracestore.traceql.validate import implied_type

_JSON_FIELD = {"str": "stringValue", "int": "intValue", "dbl": "doubleValue", "bool": "boolValue"}
# Told by the search result itself, so not repeated among the attributes.
_NOT_REPEATED = {
    "span:name",
    "span:duration",
    "trace:duration",
    "trace:rootName",
    "trace:rootService",
    "trace:id",
    "span:id",
}


def trace_hex(trace: UUID) -> str:
    """A trace id as Tempo prints it in search results: hexadecimal, without leading zeros."""
    return trace.hex.lstrip("0") or "0"


def any_value(type_name: str, value: Any) -> dict[str, Any]:
    """AnyValue of a slot's value; durations, statuses and kinds are their words, as in Tempo."""
    match type_name:
        case "int":
            return {"intValue": str(value)}
        case "dbl":
            return {"doubleValue": double_to_json(value)}
        case "bool":
            return {"boolValue": value}
        case "dur":
            return {"stringValue": go_duration(value)}
        case "status":
            return {"stringValue": STATUS_NAMES.get(value, f"status({value})")}
        case "kind":
            return {"stringValue": KIND_NAMES.get(value, f"kind({value})")}
        case "str":
            return {"stringValue": value}
    return {"arrayValue": {"values": [any_value(type_name[:-2], v) for v in value]}}


def attribute_values(
    row: dict[str, Any], wanted: list[ast.Attribute | ast.Intrinsic]
) -> list[dict[str, Any]]:
    """`{"key", "value"}` of the wanted attributes that the row has. The key is the name without its scope, as in
    Tempo."""
    found = []
    for node in wanted:
        if isinstance(node, ast.Intrinsic):
            value, key = _intrinsic(row, node.name), attribute_text(node)
        else:
            value, key = _attribute(row, node), node.name
        if value is not None and {"key": key, "value": value} not in found:
            found.append({"key": key, "value": value})
    return found


def _intrinsic(row: dict[str, Any], name: str) -> dict[str, Any] | None:
    if name in _NOT_REPEATED:
        return None
    match name:
        case "span:status":
            return any_value("status", row["status"])
        case "span:kind":
            return any_value("kind", row["kind"])
        case "span:statusMessage":
            return any_value("str", row["status_message"] or "")
        case "span:parentID":
            return any_value("str", f"{row['parent_id']:016x}" if row["parent_id"] else "")
        case "instrumentation:name":
            return any_value("str", row["c_name"] or "")
        case "instrumentation:version":
            return any_value("str", row["c_version"] or "")
        case "event:name":
            names = [e["n"] for e in msgspec.json.decode(row["events"] or "[]")]
            return (
                any_value("str", names[0])
                if len(names) == 1
                else any_value("str[]", names)
                if names
                else None
            )
    return None


def _attribute(row: dict[str, Any], node: ast.Attribute) -> dict[str, Any] | None:
    for scope in (
        [node.scope] if node.scope else ["span", "resource", "event", "link", "instrumentation"]
    ):
        value = _scoped(row, scope, node.name)
        if value is not None:
            return value
    return None


def _scoped(row: dict[str, Any], scope: str, name: str) -> dict[str, Any] | None:
    if scope in ("event", "link"):
        found = [
            e["a"][name]
            for e in msgspec.json.decode(row.get(f"{scope}s") or "[]")
            if name in e.get("a", {})
        ]
        return found[0] if len(found) == 1 else {"arrayValue": {"values": found}} if found else None
    if scope == "span" and name in PROMOTED and row.get(name) is not None:
        return any_value(PROMOTED[name], row[name])
    prefix = {"span": "a", "resource": "r", "instrumentation": "c"}[scope]
    for t in _JSON_FIELD:
        held = row.get(f"{prefix}_{t}")
        if held and name in held:
            return any_value(t, held[name])
    held = row.get(f"{prefix}_json")
    return msgspec.json.decode(held[name]) if held and name in held else None


_TYPE_OF_LETTER = {
    "s": "str",
    "i": "int",
    "d": "dbl",
    "b": "bool",
    "u": "dur",
    "t": "status",
    "k": "kind",
}


def group_value(key: str) -> dict[str, Any]:
    """AnyValue of a group's key (see `spansets.group_key`)."""
    type_name, text = _TYPE_OF_LETTER.get(key[0]), key[1:]
    match type_name:
        case None:
            return {"stringValue": "nil" if key == "n" else text}
        case "str":
            return any_value("str", text)
        case "dbl":
            return any_value("dbl", float(text))
        case "bool":
            return any_value("bool", text == "true")
    return any_value(type_name, int(text))


def scalar_value(aggregate: ast.Aggregate, value: Any) -> dict[str, Any]:
    """AnyValue of an aggregate over a spanset."""
    if aggregate.operand is not None and implied_type(aggregate.operand) is ast.Type.DURATION:
        return any_value("dur", int(value))
    return any_value("dbl" if isinstance(value, float) else "int", value)
