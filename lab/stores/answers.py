"""What a store answered, raw, with where it came from. Pure values; nothing is parsed that need not be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lab.errors import NoData
from lab.stores.timestamps import utc


@dataclass(frozen=True)
class Provenance:
    """Who was asked what, when, and how long it took. Times are seconds since the epoch, `step_s` is 0 for none."""

    store: str
    url: str
    query: str
    start: float
    end: float
    step_s: float = 0.0
    asked_at: float = 0.0
    took_s: float = 0.0
    requests: int = 1
    received_bytes: int = 0
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.store} {self.url}: {self.query} from {utc(self.start)} to {utc(self.end)}"


@dataclass(frozen=True)
class Series:
    """One series: its labels (`__name__` included), and its samples as Prometheus wrote them, in order of time.

    `pieces` are JSON texts `[[seconds,"value"],...]`: one as a rule, several where a long range was split.
    """

    labels: dict[str, str]
    pieces: tuple[msgspec.Raw, ...]


@dataclass(frozen=True)
class MetricAnswer:
    """Prometheus' answer. `kind` is 'vector' (one sample a series) or 'matrix' (many)."""

    kind: str
    series: tuple[Series, ...]
    provenance: Provenance
    diagnose: Callable[[], str] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.series)

    def __iter__(self) -> Iterator[Series]:
        return iter(self.series)

    def require(self) -> MetricAnswer:
        """Itself, if there is anything in it. Raises NoData that says why there is not, as far as the server knows."""
        if self.series:
            return self
        why = self.diagnose() if self.diagnose else "the recorded answer is empty"
        raise NoData(
            f"Prometheus has nothing for this query: {why}",
            query=self.provenance.query,
            got=str(self.provenance),
        )

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The answer as prometheus-api-client has it: a list of {"metric", "values"} or {"metric", "value"}.

        For its `MetricsList`, `MetricRangeDataFrame` and `MetricSnapshotDataFrame`; slow for large answers.
        """
        out: list[dict[str, Any]] = []
        for one in self.series:
            values = [sample for piece in one.pieces for sample in msgspec.json.decode(piece)]
            if self.kind == "vector":
                out.append({"metric": one.labels, "value": values[0]})
            else:
                out.append({"metric": one.labels, "values": values})
        return out


@dataclass(frozen=True)
class TraceSummary:
    """One row of a search. `matched` spans matched the query; `start` is seconds since the epoch."""

    trace_id: str
    root_service: str
    root_name: str
    start: float
    duration_s: float
    matched: int


@dataclass(frozen=True)
class SearchAnswer:
    """What Tempo's search found. `limited`: as many as the limit allows, so there may be more."""

    traces: tuple[TraceSummary, ...]
    limited: bool
    provenance: Provenance

    def __len__(self) -> int:
        return len(self.traces)

    def __iter__(self) -> Iterator[TraceSummary]:
        return iter(self.traces)

    @property
    def trace_ids(self) -> tuple[str, ...]:
        return tuple(t.trace_id for t in self.traces)

    def require(self) -> SearchAnswer:
        """Itself, if there is anything in it. Raises NoData."""
        if not self.traces:
            raise NoData(
                "Tempo found no trace for this query in this window",
                query=self.provenance.query,
                got=str(self.provenance),
                fix="widen the window, loosen the query ({} finds everything), or wait: spans arrive with a delay",
            )
        return self


@dataclass(frozen=True)
class SpansAnswer:
    """Spans as the store sent them: OTLP, a trace each, as JSON (`documents`) or as protobuf (`protobufs`, each a
    TracesData), or an Arrow stream from the lab's own store.

    At most one of the three is used. `partial` are ids of traces that the store itself calls cut.
    """

    provenance: Provenance
    documents: tuple[bytes, ...] = field(default=(), repr=False)
    protobufs: tuple[bytes, ...] = field(default=(), repr=False)
    arrow: bytes | None = field(default=None, repr=False)
    partial: tuple[str, ...] = ()
    limited: bool = False
