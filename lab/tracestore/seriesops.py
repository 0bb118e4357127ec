"""Series, and what the second stage does with them: topk, bottomk, comparisons."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec
import numpy as np

from lab.tracestore.traceql import ast

_COMPARE = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "!=": operator.ne,
}


class Label(NamedTuple):
    """One label; `json` is its AnyValue as JSON text, which can be hashed."""

    name: str
    json: str

    @staticmethod
    def of(name: str, value: dict[str, Any]) -> Label:
        """Return a label with an AnyValue."""
        return Label(name, msgspec.json.encode(value).decode())

    @property
    def value(self) -> dict[str, Any]:
        """The AnyValue."""
        return msgspec.json.decode(self.json)


@dataclass(frozen=True)
class Series:
    """Labels and one value per interval; NaN is no sample."""

    labels: tuple[Label, ...]
    values: np.ndarray
    exemplars: list[dict[str, Any]] = field(default_factory=list, compare=False)

    def sort_key(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        """Return the key by which Tempo orders series: fewer labels first, then the labels."""
        return len(self.labels), tuple((label.name, label.json) for label in self.labels)


def apply_second(series: list[Series], stages: tuple[ast.SecondStage, ...]) -> list[Series]:
    """Apply second stages in order."""
    for stage in stages:
        if isinstance(stage, ast.MetricsFilter):
            series = _filter(series, stage)
        else:
            series = _top_bottom(series, stage)
    return series


def _filter(series: list[Series], stage: ast.MetricsFilter) -> list[Series]:
    """Keep the samples for which the comparison holds; drop series that keep none."""
    kept = []
    for s in series:
        with np.errstate(invalid="ignore"):
            holds = ~np.isnan(s.values) & _COMPARE[stage.op](s.values, stage.value)
        if holds.any():
            kept.append(replace(s, values=np.where(holds, s.values, np.nan)))
    return kept


def _top_bottom(series: list[Series], stage: ast.TopBottom) -> list[Series]:
    """Keep the k largest (smallest) values of every timestamp.

    Of equal values topk keeps the one whose labels come first, bottomk the one whose labels come
    last, as Tempo does.
    """
    if len(series) <= stage.limit:
        return series

    ordered = sorted(series, key=functools.cmp_to_key(_compare_labels), reverse=True)
    if stage.op == "bottomk":
        ordered.reverse()
    table = np.array([s.values for s in ordered])
    ranked = -table if stage.op == "topk" else table
    order = np.argsort(ranked, axis=0, kind="stable")  # NaN sorts last

    best = order[: stage.limit]
    kept = np.full_like(table, np.nan)
    np.put_along_axis(kept, best, np.take_along_axis(table, best, axis=0), axis=0)
    return [
        replace(s, values=row)
        for s, row in zip(ordered, kept, strict=True)
        if not np.isnan(row).all()
    ]


def _compare_labels(a: Series, b: Series) -> int:
    """Compare as Tempo compares equal values: positive where topk prefers `a`.

    Texts and names that come first are preferred, but larger numbers.
    """
    for left, right in zip(a.labels, b.labels, strict=False):
        x = _plain(left)
        y = _plain(right)
        texts = [v if isinstance(v, str) else "" for v in (x, y)]
        if texts[0] != texts[1]:
            return -1 if texts[0] > texts[1] else 1
        if left.name != right.name:
            return -1 if left.name > right.name else 1
        if x != y:
            return -1 if x < y else 1
    return len(a.labels) - len(b.labels)


def _plain(label: Label) -> Any:
    ((kind, content),) = label.value.items()
    return int(content) if kind == "intValue" else content
