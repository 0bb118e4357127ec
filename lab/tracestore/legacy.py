"""The older search parameters (`tags`, `minDuration`, `maxDuration`) as a TraceQL query."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lab.tracestore.errors import BadRequest
from lab.tracestore.http_params import duration_ns

_PAIR = re.compile(r'\s*([^\s=]+)=(?:"((?:\\.|[^"\\])*)"|([^\s"]*))(?:\s+|$)')
_INTRINSIC = {"name": "name", "status": "status", "kind": "kind"}


def legacy_query(params: Mapping[str, str]) -> str:
    """`{}` with one condition a tag. Tags are logfmt: `service.name=api http.method="GET"`.

    Raises BadRequest.
    """
    conditions = [_condition(key, value) for key, value in _logfmt(params.get("tags", ""))]
    for name, operator in (("minDuration", ">="), ("maxDuration", "<=")):
        if params.get(name):
            conditions.append(f"traceDuration {operator} {duration_ns(params[name], name)}ns")
    return "{ " + " && ".join(conditions) + " }" if conditions else "{}"


def _condition(key: str, value: str) -> str:
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if key in ("status", "kind") and re.fullmatch(r"[a-z]+", value):
        return f"{key} = {value}"
    if key in _INTRINSIC:
        return f"{_INTRINSIC[key]} = {quoted}"
    name = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    number = f" || .{name} = {value}" if re.fullmatch(r"-?\d+(\.\d+)?|true|false", value) else ""
    return f"(.{name} = {quoted}{number})"


def _logfmt(text: str) -> list[tuple[str, str]]:
    pairs = []
    position = 0
    while position < len(text.rstrip()):
        match = _PAIR.match(text, position)
        if not match:
            raise BadRequest(
                "invalid tags: not logfmt",
                got=text[:200],
                fix='write them as key=value key2="a value"',
            )
        key, quoted, plain = match.groups()
        pairs.append((key, re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain))
        position = match.end()
    return pairs
