"""The vocabulary of `lab.dialects` applied to a span frame: roles and fields, whole columns."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd

from lab.dialects import DIALECTS, MARKS, Role, attributes_of
from lab.frames.spans import numbers
from lab.schema import Service

__all__ = [
    "Role",
    "claimed_roles",
    "field_numbers",
    "field_texts",
    "plain_value",
    "text_column",
]

MAX_TOKENS = 1e9  # sums of agents, too
_UNKNOWN = -1  # no table knows the span


def claimed_roles(spans: pd.DataFrame) -> np.ndarray:
    """Return one Role (int8) per span by its own name and attributes, whatever is around it.

    `lab.frames.calls` decides which of several views of one call is which.
    """
    exact = {name: role for dialect in DIALECTS for name, role in dialect.names.items()}
    roles = _by_category(spans["name"], lambda name: exact.get(name, _UNKNOWN))

    for attribute, values in _kinds().items():
        if attribute in spans and spans[attribute].dtype != "float64":
            claimed = _by_category(spans[attribute], partial(_role_of_value, values))
            roles = np.where(roles == _UNKNOWN, claimed, roles)

    roles = np.where(roles == _UNKNOWN, _by_category(spans["name"], _role_of_prefix), roles)
    has_usage = ~np.isnan(field_numbers(spans, "prompt_tokens"))
    unknown = roles == _UNKNOWN
    for attribute, role in MARKS.items():
        if attribute in spans:
            roles[unknown & spans[attribute].notna().to_numpy(bool)] = role

    roles[(roles == _UNKNOWN) & has_usage] = Role.MODEL_CALL
    weak = {name for dialect in DIALECTS for name in dialect.with_usage}
    is_weak = _by_category(spans["name"], lambda name: int(name in weak)) == 1
    roles[(roles == _UNKNOWN) | (is_weak & ~has_usage)] = Role.OTHER

    # Embeddings belong to a file search, which counts as a tool call.
    is_embedding = (spans["service"] == Service.VLLM_EMBED).to_numpy(bool)
    roles[(roles == Role.ENGINE) & is_embedding] = Role.OTHER
    return roles


def field_numbers(spans: pd.DataFrame, name: str) -> np.ndarray:
    """Return a field as float64 per span: the first of its attributes that the span has, or NaN.

    A number that cannot be a number of tokens is NaN.
    """
    values = np.full(len(spans), np.nan)
    for path in attributes_of(name):
        attribute, _, key = path.partition("#")
        if attribute in spans:
            given = _numbers_in_json(spans, attribute, key) if key else numbers(spans, attribute)
            values = np.where(np.isnan(values), given, values)
    is_odd = np.fmin.reduce(values, initial=0) < 0 or np.fmax.reduce(values, initial=0) > MAX_TOKENS
    if name.endswith("_tokens") and is_odd:
        values[(values < 0) | (values > MAX_TOKENS)] = np.nan
    return values


def _numbers_in_json(spans: pd.DataFrame, attribute: str, key: str) -> np.ndarray:
    """Return the sum of numbers in an attribute that is an object, NaN without the first."""
    values = np.full(len(spans), np.nan)
    texts = text_column(spans, attribute)
    if texts is None:
        return values
    paths = [path.split(".") for path in key.split("+")]
    for row in np.flatnonzero(pd.notna(texts)):
        found = [_at(plain_value(texts[row]), path) for path in paths]
        values[row] = found[0] + np.nansum(found[1:])
    return values


def _at(value: Any, path: list[str]) -> float:
    """Return the number at a path of keys and of places in lists, NaN for none."""
    try:
        for step in path:
            value = value[int(step) if isinstance(value, list) else step]
        return float(value)
    except (KeyError, IndexError, TypeError, ValueError):
        return float("nan")


@lru_cache(maxsize=64)
def plain_value(text: str) -> Any:
    """Return the value of JSON, or of an object as Python prints it; else the text itself."""
    try:
        return _without_types(json.loads(text))
    except (ValueError, RecursionError):
        return _printed_by_python(text) if text[:1] in "{[" else text


def _printed_by_python(text: str) -> Any:
    """Return the value of an object as Python prints it, with JSON's types; else the text itself.

    What JSON does not have (a set, bytes) becomes text.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # of its backslashes
            return json.loads(json.dumps(ast.literal_eval(text), default=str))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text


def field_texts(spans: pd.DataFrame, name: str, rows: np.ndarray) -> np.ndarray:
    """Return a field of these spans as text, None where one has none of its attributes."""
    values = np.full(len(rows), None, dtype=object)
    for attribute in attributes_of(name):
        given = text_column(spans, attribute, rows)
        if given is not None:
            values = np.where(pd.isna(values), given, values)
    return values


def text_column(
    spans: pd.DataFrame, attribute: str, rows: np.ndarray | slice = slice(None)
) -> np.ndarray | None:
    """Return an attribute of these spans as objects, None where none of them has it."""
    if attribute not in spans:
        return None
    column = spans[attribute].iloc[rows]
    if column.isna().all():
        return None
    values = column.astype(object)
    return values.where(values.notna(), None).to_numpy(object)


def _without_types(value: Any) -> Any:
    """Return OTLP's AnyValue (an attribute that is not a text, as JSON) as plain JSON."""
    if isinstance(value, list):
        return [_without_types(item) for item in value]
    name = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else ""
    if name == "values":
        return _items(value[name])
    return _without_types(value[name]) if name.endswith("Value") else value


def _items(items: list[Any]) -> Any:
    """Return the values of an AnyValue: an object where all of them are pairs, else a list."""
    pair = {"key", "value"}
    if items and all(isinstance(item, dict) and set(item) == pair for item in items):
        return {item["key"]: _without_types(item["value"]) for item in items}
    return [_without_types(item) for item in items]


def _kinds() -> dict[str, dict[str, Role]]:
    """Return {attribute: {value: role}} of all dialects."""
    kinds: dict[str, dict[str, Role]] = {}
    for dialect in DIALECTS:
        for attribute, values in dialect.kinds.items():
            kinds.setdefault(attribute, {}).update(values)
    return kinds


def _role_of_value(values: dict[str, Role], value: str) -> int:
    ends = [end for end in values if end.startswith("*") and value.endswith(end[1:])]
    return values.get(ends[0] if ends else value, _UNKNOWN)


def _role_of_prefix(name: str) -> int:
    for dialect in DIALECTS:
        for prefix, role in dialect.prefixes.items():
            if name.startswith(prefix) or name == prefix.rstrip():
                return role
    return _UNKNOWN


def _by_category(column: pd.Series, role_of: Callable[[str], int]) -> np.ndarray:
    """Return a number for every row, found once per distinct text; _UNKNOWN for a missing one."""
    texts = column.astype("category").cat
    # The last element serves code -1.
    roles = [*(role_of(str(text)) for text in texts.categories), _UNKNOWN]
    return np.array(roles, dtype=np.int8)[texts.codes]
