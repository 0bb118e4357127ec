"""OTLP's AnyValue as JSON (the mapping of the OTLP specification), both ways.

Types survive: 1 and 1.0 stay apart.
"""

from __future__ import annotations

import base64
import math
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue

MAX_DEPTH = 64

_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_json(value: AnyValue) -> dict[str, Any]:
    """Return `{"stringValue": ...}` and so on.

    64-bit integers become strings, bytes base64, NaN and infinities words.
    """
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return {"stringValue": value.string_value}
    if kind == "int_value":
        return {"intValue": str(value.int_value)}
    if kind == "double_value":
        return {"doubleValue": double_to_json(value.double_value)}
    if kind == "bool_value":
        return {"boolValue": value.bool_value}
    if kind == "bytes_value":
        return {"bytesValue": base64.b64encode(value.bytes_value).decode()}
    if kind == "array_value":
        return {"arrayValue": {"values": [to_json(v) for v in value.array_value.values]}}
    if kind == "kvlist_value":
        return {
            "kvlistValue": {
                "values": [
                    {"key": kv.key, "value": to_json(kv.value)} for kv in value.kvlist_value.values
                ]
            }
        }
    return {}


def double_to_json(value: float) -> float | str:
    """Return a JSON number, or protobuf's word for a value that JSON has no number for."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def from_json(obj: dict[str, Any], into: AnyValue) -> None:
    """Fill an AnyValue from JSON: the inverse of `to_json`."""
    into.SetInParent()  # a value that is there and says nothing
    for kind, value in obj.items():
        if kind == "stringValue":
            into.string_value = value
        elif kind == "intValue":
            into.int_value = int(value)
        elif kind == "doubleValue":
            into.double_value = _SPECIAL[value] if isinstance(value, str) else value
        elif kind == "boolValue":
            into.bool_value = value
        elif kind == "bytesValue":
            into.bytes_value = base64.b64decode(value)
        elif kind == "arrayValue":
            into.array_value.SetInParent()
            for item in value.get("values", ()):
                from_json(item, into.array_value.values.add())
        elif kind == "kvlistValue":
            into.kvlist_value.SetInParent()
            for item in value.get("values", ()):
                kv = into.kvlist_value.values.add()
                kv.key = item["key"]
                from_json(item.get("value", {}), kv.value)


def attributes_to_json(attributes: Any) -> dict[str, Any]:
    """Return KeyValues as one object, key -> AnyValue in JSON; the first of a repeated key wins."""
    found: dict[str, Any] = {}
    for kv in attributes:
        found.setdefault(kv.key, to_json(kv.value))
    return found
