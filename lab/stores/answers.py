"""What a store answered, together with its origin.

Plain values; nothing is parsed before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lab.errors import NoData, StoreError
from lab.stores.timestamps import utc

MAX_S = 253_402_300_799.999  # the end of the year 9999


@dataclass(frozen=True)
class Provenance:
    """The origin of an answer: the store, its address, the query, its window, and how long it took.

    Times are seconds since the epoch; `step_s` is 0 for a query without a step. `warnings` are the
    server's warnings and infos, and what the lab left out.
    """

    store: str
    url: str
    query: str
    start: float
    end: float
    step_s: float = 0.0
    queried_at: float = 0.0
    took_s: float = 0.0
    requests: int = 1
    received_bytes: int = 0
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.store} {self.url}: {self.query} from {utc(self.start)} to {utc(self.end)}"
        return "; ".join((text, *self.warnings))


@dataclass(frozen=True)
class Series:
    """One series: its labels, and its samples as Prometheus wrote them, in order of time.

    The labels include `__name__`. `pieces` are JSON texts `[[seconds,"value"],...]`: usually one,
    several where a long range was split.
    """

    labels: dict[str, str]
    pieces: tuple[msgspec.Raw, ...]


@dataclass(frozen=True)
class MetricAnswer:
    """The answer of a Prometheus. `kind` is 'vector' (one sample per series) or 'matrix' (many)."""

    kind: str
    series: tuple[Series, ...]
    provenance: Provenance
    diagnose: Callable[[], str] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.series)

    def __iter__(self) -> Iterator[Series]:
        return iter(self.series)

    def require(self) -> MetricAnswer:
        """Return this answer if it holds any series.

        Raises NoData with the reason why it does not, as far as the server knows it.
        """
        if self.series:
            return self
        reason = self.diagnose() if self.diagnose else "the recorded answer is empty"
        raise NoData(
            f"Prometheus has nothing for this query: {reason}",
            query=self.provenance.query,
            got=str(self.provenance),
        )

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Return the answer as prometheus-api-client has it.

        That is a list of {"metric", "values"} or {"metric", "value"}, for its `MetricsList`,
        `MetricRangeDataFrame` and `MetricSnapshotDataFrame`; slow for large answers. Raises
        StoreError for samples that are not Prometheus' JSON.
        """
        metrics: list[dict[str, Any]] = []
        for series in self.series:
            samples: list[Any] = []
            try:
                for piece in series.pieces:
                    samples += msgspec.json.decode(piece, type=list[tuple[float, str]])
                for time_s, value in samples:
                    float(value)
                    if not abs(time_s) <= MAX_S:
                        raise ValueError(f"the time {time_s:g} s")
            except (msgspec.DecodeError, ValueError, RecursionError) as e:
                raise StoreError(
                    "samples are not in Prometheus' format",
                    query=self.provenance.query,
                    got=f"{series.labels}: {e}",
                    fix="check that the address is that of a Prometheus",
                ) from e
            if self.kind == "vector":
                metrics.append({"metric": series.labels, "value": list(samples[0])})
            else:
                metrics.append({"metric": series.labels, "values": [list(s) for s in samples]})
        return metrics


@dataclass(frozen=True)
class TraceSummary:
    """One row of a search.

    `matched` spans matched the query; `start` is seconds since the epoch.
    """

    trace_id: str
    root_service: str
    root_name: str
    start: float
    duration_s: float
    matched: int


@dataclass(frozen=True)
class SearchAnswer:
    """The traces that a search returned.

    `limited`: as many as the limit allows, so there may be more.
    """

    traces: tuple[TraceSummary, ...]
    limited: bool
    provenance: Provenance

    def __len__(self) -> int:
        return len(self.traces)

    def __iter__(self) -> Iterator[TraceSummary]:
        return iter(self.traces)

    @property
    def trace_ids(self) -> tuple[str, ...]:
        """Return the ids of the traces, 32 hex digits each."""
        return tuple(t.trace_id for t in self.traces)

    def require(self) -> SearchAnswer:
        """Return this answer if it holds any trace. Raises NoData."""
        if not self.traces:
            raise NoData(
                "Tempo found no trace for this query in this window",
                query=self.provenance.query,
                got=str(self.provenance),
                fix="widen the window, loosen the query ({} matches everything), or wait: spans "
                "arrive with a delay",
            )
        return self


@dataclass(frozen=True)
class SpansAnswer:
    """Spans as OTLP protobuf, or as an Arrow stream from the lab's own store.

    `protobufs` has one TracesData per trace. At most one of the two forms is used. `partial` are
    ids of traces that the store itself reports as cut. `refused` is {trace id: the store's words}
    of traces that it did not return, although it had found them or was asked for them by id.
    """

    provenance: Provenance
    protobufs: tuple[bytes, ...] = field(default=(), repr=False)
    arrow: bytes | None = field(default=None, repr=False)
    partial: tuple[str, ...] = ()
    limited: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def documents(self) -> tuple[bytes, ...]:
        """Return the traces as OTLP JSON, one text per trace, as Tempo writes it. Slow."""
        from google.protobuf import json_format
        from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

        traces = map(TracesData.FromString, self.protobufs)
        return tuple(msgspec.json.encode(json_format.MessageToDict(trace)) for trace in traces)
