"""Series and what the second stage does with them: topk, bottomk, comparisons, arithmetic."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from lab.tracestore.traceql import ast

_COMPARE = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip


@dataclass(frozen=True)
class Label:
    """One label; `json` is its AnyValue as JSON text, which can be hashed."""

    name: str
    json: str

    @staticmethod
    def of(name: str, value: dict[str, Any]) -> Label:
        return Label(name, msgspec.json.encode(value).decode())

    @property
    def value(self) -> dict[str, Any]:
        return msgspec.json.decode(self.json)


@dataclass(frozen=True)
class Series:
    """Labels and one value an interval; NaN is no sample."""

    labels: tuple[Label, ...]
    values: np.ndarray
    exemplars: list[dict[str, Any]] = field(default_factory=list, compare=False)

    def sort_key(self) -> tuple[tuple[str, str], ...]:
        return tuple((label.name, label.json) for label in self.labels)

    @property
    def name(self) -> str:
        """The value of `__name__`; empty where there is none."""
        return next(
            (label.value["stringValue"] for label in self.labels if label.name == "__name__"), ""
        )

    @property
    def key(self) -> tuple[Label, ...]:
        """The labels that series are matched by: all but the name."""
        return tuple(label for label in self.labels if label.name != "__name__")


def apply_second(series: list[Series], stages: tuple[ast.SecondStage, ...]) -> list[Series]:
    """Apply second stages in order."""
    for stage in stages:
        series = (
            _filter(series, stage)
            if isinstance(stage, ast.MetricsFilter)
            else _top_bottom(series, stage)
        )
    return series


def _filter(series: list[Series], stage: ast.MetricsFilter) -> list[Series]:
    """Keep the samples for which the comparison holds; series that keep none go."""
    kept = []
    for s in series:
        with np.errstate(invalid="ignore"):
            holds = ~np.isnan(s.values) & _COMPARE[stage.op](s.values, stage.value)
        if holds.any():
            kept.append(replace(s, values=np.where(holds, s.values, np.nan)))
    return kept


def _top_bottom(series: list[Series], stage: ast.TopBottom) -> list[Series]:
    """At every timestamp the k largest (smallest) values; ties go by the labels."""
    if len(series) <= stage.limit:
        return series
    ordered = sorted(series, key=lambda s: s.sort_key())
    table = np.array([s.values for s in ordered])
    ranked = -table if stage.op == "topk" else table
    order = np.argsort(ranked, axis=0, kind="stable")  # NaN sorts last
    kept = np.full_like(table, np.nan)
    best = order[: stage.limit]
    np.put_along_axis(kept, best, np.take_along_axis(table, best, axis=0), axis=0)
    return [
        replace(s, values=row)
        for s, row in zip(ordered, kept, strict=True)
        if not np.isnan(row).all()
    ]


def combine(op: str, left: list[Series] | float, right: list[Series] | float) -> list[Series]:
    """Arithmetic of two sets of series, or of one and a number.

    Series meet by their labels; one without labels meets all. No sample counts as 0, and a division by 0 gives no
    sample.
    """
    if isinstance(left, int | float):
        return [
            _calculated(op, s, np.full_like(s.values, left), s.values, f"{left:g}", s.name)
            for s in right
        ]
    if isinstance(right, int | float):
        return [
            _calculated(op, s, s.values, np.full_like(s.values, right), s.name, f"{right:g}")
            for s in left
        ]
    lefts, rights = {s.key: s for s in left}, {s.key: s for s in right}
    found = []
    for key in lefts if () in rights else rights:
        a, b = lefts.get(key, lefts.get(())), rights.get(key, rights.get(()))
        if a is not None and b is not None:
            found.append(_calculated(op, a if a.key else b, a.values, b.values, a.name, b.name))
    return found


def _calculated(
    op: str, like: Series, left: np.ndarray, right: np.ndarray, left_name: str, right_name: str
) -> Series:
    left, right = np.nan_to_num(left, nan=0.0), np.nan_to_num(right, nan=0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if op == "/":
            values = np.where(right == 0, np.nan, left / np.where(right == 0, 1, right))
        else:
            values = {"+": np.add, "-": np.subtract, "*": np.multiply}[op](left, right)
    name = ()
    if left_name and right_name:
        name = (Label.of("__name__", {"stringValue": f"({left_name} {op} {right_name})"}),)
    return Series((*name, *like.key), values)
