"""Values of rows as OTLP JSON AnyValues: attributes that a query names, groups, aggregates, ids."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec

from lab.tracestore.anyvalue import double_to_json
from lab.tracestore.columns import MAP_TYPES, PROMOTED
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.fetch import (
    ABSENT,
    ANY,
    DEDICATED,
    EXISTS,
    Condition,
    FetchPlan,
    Reference,
    passes,
)
from lab.tracestore.traceql.text import KIND_NAMES, STATUS_NAMES, attribute_text, go_duration
from lab.tracestore.traceql.validate import implied_type

# Shown in fields of their own, so not among the attributes.
_SHOWN_ELSEWHERE = {
    "span:name",
    "span:duration",
    "trace:duration",
    "trace:rootName",
    "trace:rootService",
    "trace:id",
    "span:id",
}


def trace_hex(trace: UUID) -> str:
    """Return a trace id as Tempo's searches print it: hexadecimal, without leading zeros."""
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


class ShownFields:
    """The name and attributes that a search shows of a span: what Tempo reads for the query.

    Where a query has conditions on names, only the names that meet one are shown. Keys have no
    scope, as in Tempo.
    """

    def __init__(self, plan: FetchPlan) -> None:
        """Prepare one reader per key that the plan's query reads."""
        self._name = plan.column(ast.Intrinsic("span:name"), "")
        self._readers = [reader for r in plan.references for reader in _readers(r, plan)]

    def of(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return `name` and `attributes`, as far as there are any."""
        shown: dict[str, Any] = {}
        if not self._name or passes(self._name, ast.Type.STRING, row["name"]):
            shown["name"] = row["name"]

        attributes: list[dict[str, Any]] = []
        for key, read in self._readers:
            value = read(row)
            if value is not None:
                attribute = {"key": key, "value": value}
                if attribute not in attributes:
                    attributes.append(attribute)
        if attributes:
            shown["attributes"] = attributes
        return shown


Reader = Callable[[dict[str, Any]], dict[str, Any] | None]


def _readers(reference: Reference, plan: FetchPlan) -> list[tuple[str, Reader]]:
    """Return (key, reader) of a reference.

    An unscoped attribute is read of the span and of its resource.
    """
    if isinstance(reference, ast.Attribute):
        scopes = [reference.scope] if reference.scope else ["span", "resource"]
        return [
            (reference.name, functools.partial(_attribute, scope, reference, plan))
            for scope in scopes
        ]
    if reference.name in _SHOWN_ELSEWHERE:
        return []
    conditions = plan.column(reference, "")
    read = _listed_intrinsic if reference.name in _LISTED else _intrinsic
    return [(attribute_text(reference), functools.partial(read, reference.name, conditions))]


def _intrinsic(
    name: str, conditions: list[Condition], row: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the value of an intrinsic; None where Tempo did not read it."""
    slot, value = _plain_intrinsic(row, name)
    return any_value(slot, value) if passes(conditions, _TYPE_OF_SLOT[slot], value) else None


def _listed_intrinsic(
    name: str, conditions: list[Condition], row: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the value of an intrinsic of events or links: of several the last is shown."""
    listed = _LISTED[name](row)
    read = [v for v in listed if passes(conditions, ast.Type.STRING, v)]
    if read:
        return any_value("str", read[-1])
    unconditional = any(c.op == ANY for c in conditions)
    return any_value("str", "") if unconditional and not listed else None


def _plain_intrinsic(row: dict[str, Any], name: str) -> tuple[str, Any]:
    """Return the type and value of an intrinsic that every span has."""
    if name == "span:parentID":
        return "str", f"{row['parent_id']:016x}"
    if name == "event:timeSinceStart":
        events = msgspec.json.decode(row["events"] or "[]")
        return "dur", events[-1]["t"] - row["start_ns"] if events else 0

    slot, column = _COLUMN_OF_INTRINSIC[name]
    value = row[column]
    return slot, "" if slot == "str" and value is None else value


def _names_of_events(row: dict[str, Any]) -> list[str]:
    return [e["n"] for e in msgspec.json.decode(row["events"] or "[]")]


def _traces_of_links(row: dict[str, Any]) -> list[str]:
    return [k["t"].lstrip("0") for k in msgspec.json.decode(row["links"] or "[]")]


def _spans_of_links(row: dict[str, Any]) -> list[str]:
    return [k["s"] for k in msgspec.json.decode(row["links"] or "[]")]


_LISTED = {
    "event:name": _names_of_events,
    "link:traceID": _traces_of_links,
    "link:spanID": _spans_of_links,
}
_COLUMN_OF_INTRINSIC = {
    "span:status": ("status", "status"),
    "span:kind": ("kind", "kind"),
    "span:statusMessage": ("str", "status_message"),
    "instrumentation:name": ("str", "c_name"),
    "instrumentation:version": ("str", "c_version"),
    "span:childCount": ("int", "children"),
    "nestedSetLeft": ("int", "n_left"),
    "nestedSetRight": ("int", "n_right"),
    "nestedSetParent": ("int", "n_parent"),
}


def _attribute(
    scope: str, reference: ast.Attribute, plan: FetchPlan, row: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the value of an attribute in a scope, as far as Tempo read it."""
    conditions = plan.column(reference, scope)
    held = _scoped(row, scope, reference.name)
    read = [v for v in held if _passes_json(conditions, v)]
    if scope in ("event", "link"):
        read = read[-1:]  # of several events or links the last is shown
    if len(read) > 1:
        return {"arrayValue": {"values": read}}
    if read or held:
        return read[0] if read else None

    own = {c.op for c in conditions if c.attribute.name == reference.name}
    return any_value("str", "nil") if _is_shown_absent(own, scope, reference.name) else None


def _is_shown_absent(operators: set[str], scope: str, name: str) -> bool:
    """Return whether an attribute that a span lacks is shown as nil, by what reads it."""
    return ABSENT in operators or (ANY in operators and (scope, name) in DEDICATED)


def _passes_json(conditions: list[Condition], value: dict[str, Any]) -> bool:
    field = next(iter(value), "")
    kind = _TYPE_OF_FIELD.get(field)
    if kind is None:
        return any(c.op in (ANY, EXISTS) for c in conditions)
    content = value[field]
    return passes(conditions, kind, int(content) if kind is ast.Type.INT else content)


def _scoped(row: dict[str, Any], scope: str, name: str) -> list[dict[str, Any]]:
    """Return the AnyValues that a scope holds under a name.

    Several for arrays, events and links.
    """
    if scope in ("event", "link"):
        return _in_bags(row.get(f"{scope}s"), name)
    if scope == "resource" and name == "service.name":
        return [any_value("str", row["service"])] if row["service"] is not None else []
    if scope == "span" and name in PROMOTED and row.get(name) is not None:
        return [any_value(PROMOTED[name], row[name])]
    return _in_maps(row, {"span": "a", "resource": "r", "instrumentation": "c"}[scope], name)


def _in_bags(json_text: str | None, name: str) -> list[dict[str, Any]]:
    """Return the AnyValues that events or links have under a name."""
    bags = msgspec.json.decode(json_text or "[]")
    values = [bag["a"][name] for bag in bags if name in bag.get("a", {})]
    return [element for value in values for element in _elements(value)]


def _in_maps(row: dict[str, Any], prefix: str, name: str) -> list[dict[str, Any]]:
    """Return the AnyValues that the maps of a row, one per type, have under a name."""
    for type_name in MAP_TYPES:
        values = row.get(f"{prefix}_{type_name}") or {}
        if name not in values:
            continue
        if type_name == "json":
            return _elements(msgspec.json.decode(values[name]))
        return [any_value(type_name, values[name])]
    return []


def _elements(value: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the elements of an array of scalars of one type; anything else is one value."""
    values = value.get("arrayValue", {}).get("values", [])
    fields = {field for v in values for field in v}
    return values if len(fields) == 1 and fields <= set(_TYPE_OF_FIELD) else [value]


_TYPE_OF_FIELD = {
    "stringValue": ast.Type.STRING,
    "intValue": ast.Type.INT,
    "doubleValue": ast.Type.FLOAT,
    "boolValue": ast.Type.BOOLEAN,
}
_TYPE_OF_SLOT = {
    "str": ast.Type.STRING,
    "int": ast.Type.INT,
    "dur": ast.Type.DURATION,
    "status": ast.Type.STATUS,
    "kind": ast.Type.KIND,
}
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
    """Return the AnyValue of a group's key (see `spansets.group_key`)."""
    if key == "n":
        return {"stringValue": "nil"}

    type_name = _TYPE_OF_LETTER[key[0].lower()]
    if key[0].isupper():
        elements = json.loads(key[1:])  # msgspec refuses NaN and Infinity, which DuckDB writes
        return any_value(f"{type_name}[]", elements)
    return any_value(type_name, _of_text(type_name, key[1:]))


def _of_text(type_name: str, text: str) -> Any:
    match type_name:
        case "str":
            return text
        case "dbl":
            return float(text)
        case "bool":
            return text == "true"
    return int(text)


def scalar_value(aggregate: ast.Aggregate, value: Any) -> dict[str, Any]:
    """AnyValue of an aggregate over a spanset."""
    if aggregate.operand is not None and implied_type(aggregate.operand) is ast.Type.DURATION:
        return any_value("dur", int(value))
    return any_value("dbl" if isinstance(value, float) else "int", value)
