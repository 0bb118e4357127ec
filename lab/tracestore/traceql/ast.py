"""The syntax tree of a TraceQL query. Every node knows its offset in the text (`pos`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Type(Enum):
    """Static types of field expressions. ATTRIBUTE: known only when the span is seen."""

    NIL = "nil"
    ATTRIBUTE = "attribute"
    INT = "int"
    FLOAT = "float"
    STRING = "string"
    BOOLEAN = "bool"
    DURATION = "duration"
    STATUS = "status"
    KIND = "kind"

    @property
    def is_numeric(self) -> bool:
        """Whether values of this type can be calculated with."""
        return self in (Type.INT, Type.FLOAT, Type.DURATION)


@dataclass(frozen=True)
class Node:
    """A node of the tree; `pos` is its offset in the text."""

    pos: int = field(kw_only=True, default=0, compare=False)


# ---- field expressions


@dataclass(frozen=True)
class Static(Node):
    """A literal. Durations are nanoseconds, status and kind are OTLP's enum numbers."""

    type: Type
    value: Any


@dataclass(frozen=True)
class Attribute(Node):
    """`span.foo` and its like; scope "" for `.foo`. `parent` for `parent.foo`."""

    scope: str
    name: str
    parent: bool = False


@dataclass(frozen=True)
class Intrinsic(Node):
    """`duration`, `trace:rootName`, ... under its scoped name."""

    name: str


@dataclass(frozen=True)
class Unary(Node):
    """`-x` or `!x`."""

    op: str
    operand: FieldExpression


@dataclass(frozen=True)
class Exists(Node):
    """`x != nil`, or `x = nil` where negated."""

    operand: FieldExpression
    negated: bool


@dataclass(frozen=True)
class Binary(Node):
    """`left op right`: a comparison, arithmetic, or `&&` and `||`."""

    op: str
    left: FieldExpression
    right: FieldExpression


FieldExpression = Static | Attribute | Intrinsic | Unary | Exists | Binary


# ---- spansets and scalars


@dataclass(frozen=True)
class Filter(Node):
    """`{ condition }`."""

    condition: FieldExpression


@dataclass(frozen=True)
class SpansetOp(Node):
    """`&&`, `||` and the structural operators between spansets."""

    op: str
    left: SpansetExpression
    right: SpansetExpression


@dataclass(frozen=True)
class Aggregate(Node):
    """count, avg, min, max, sum over the spans of a spanset."""

    op: str
    operand: FieldExpression | None


@dataclass(frozen=True)
class ScalarOp(Node):
    """Arithmetic between scalars."""

    op: str
    left: ScalarExpression
    right: ScalarExpression


@dataclass(frozen=True)
class ScalarFilter(Node):
    """A comparison of scalars, such as `count() > 2`."""

    op: str
    left: ScalarExpression
    right: ScalarExpression


@dataclass(frozen=True)
class GroupBy(Node):
    """`by(operand)`."""

    operand: FieldExpression


@dataclass(frozen=True)
class Coalesce(Node):
    """`coalesce()`."""


@dataclass(frozen=True)
class Select(Node):
    """`select(attributes)`."""

    attributes: tuple[Attribute | Intrinsic, ...]


@dataclass(frozen=True)
class Pipeline(Node):
    """Stages in order; a spanset expression itself where it stands in parentheses."""

    stages: tuple[Stage, ...]


SpansetExpression = Filter | SpansetOp | Pipeline
ScalarExpression = Aggregate | ScalarOp | Static | Pipeline
Stage = Filter | SpansetOp | ScalarFilter | GroupBy | Coalesce | Select | Aggregate


# ---- metrics


@dataclass(frozen=True)
class Compare(Node):
    """`compare()`.

    `selection` says which spans are selected, `limit` how many values per attribute are kept.
    Unless both times are 0, only spans that start between them (unix ns) can be selected.
    """

    selection: Filter
    limit: int = 10
    start_ns: int = 0
    end_ns: int = 0


@dataclass(frozen=True)
class MetricsAggregate(Node):
    """`rate() by (...)` and its like.

    `attribute` is None where spans are counted; `quantiles` are those of quantile_over_time.
    """

    op: str
    attribute: Attribute | Intrinsic | None
    quantiles: tuple[float, ...]
    by: tuple[Attribute | Intrinsic, ...]

    @property
    def operand(self) -> Attribute | Intrinsic:
        """The attribute that is aggregated. Raises TypeError where spans are counted."""
        if self.attribute is None:
            raise TypeError(f"{self.op}() has no attribute")
        return self.attribute


@dataclass(frozen=True)
class TopBottom(Node):
    """`topk(limit)` or `bottomk(limit)`."""

    op: str
    limit: int


@dataclass(frozen=True)
class MetricsFilter(Node):
    """A comparison of samples, such as `> 10`."""

    op: str
    value: float


SecondStage = TopBottom | MetricsFilter


# ---- whole queries


@dataclass(frozen=True)
class Query(Node):
    """A query for spansets."""

    text: str
    pipeline: Pipeline
    hints: dict[str, int | float | str | bool] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class MetricsQuery(Query):
    """A query for series: what is computed of the spans that the pipeline leaves."""

    aggregate: MetricsAggregate | Compare
    second: tuple[SecondStage, ...] = ()
