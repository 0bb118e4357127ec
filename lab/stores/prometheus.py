"""Prometheus' HTTP API: instant and range queries, raw samples, targets, names."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from lab.errors import NoData, StoreError
from lab.settings import Settings
from lab.stores import diagnosis
from lab.stores.answers import MetricAnswer, Provenance, Series
from lab.stores.http import Asker
from lab.stores.instants import Instant, epoch_s, utc, window_s

if TYPE_CHECKING:
    from prometheus_api_client import PrometheusConnect

MAX_POINTS = 11_000  # per series and query; more is refused by Prometheus
POLL_S = 0.2


_ABSENT = msgspec.Raw()


class _Result(msgspec.Struct):
    metric: dict[str, str] = {}
    value: msgspec.Raw = _ABSENT
    values: msgspec.Raw = _ABSENT
    histogram: msgspec.Raw = _ABSENT
    histograms: msgspec.Raw = _ABSENT


class _Data(msgspec.Struct):
    resultType: str
    result: msgspec.Raw


class _Envelope(msgspec.Struct):
    status: str
    data: msgspec.Raw = _ABSENT
    error: str = ""
    errorType: str = ""
    warnings: list[str] = []


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_data = msgspec.json.Decoder(_Data).decode
_decode_results = msgspec.json.Decoder(list[_Result]).decode


@dataclass(frozen=True)
class Target:
    """A scrape target. Where the last scrape failed, `up` is False and `error` says how; `last_scrape` is epoch
    seconds."""

    job: str
    instance: str
    up: bool
    last_scrape: float
    error: str


class Prometheus:
    """Questions to one Prometheus. Take it from settings (`Prometheus(load_settings())`) or from a base URL.

    `headers` go with every question, for a server behind a login. Every question may raise StoreUnreachable (no answer)
    or QueryRejected (a refusal, with the server's words).
    """

    def __init__(
        self, where: Settings | str, *, timeout_s: float | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        url = where if isinstance(where, str) else where.endpoint("prometheus")
        self.timeout_s = timeout_s or (30.0 if isinstance(where, str) else where.timeout_s)
        self.headers = dict(headers or {})
        self._asker = Asker("Prometheus", url, self.timeout_s, headers)

    @property
    def url(self) -> str:
        return self._asker.url

    def query(self, promql: str, at: Instant | None = None) -> MetricAnswer:
        """The value of an expression at one instant (now, if none is given)."""
        instant = time.time() if at is None else epoch_s(at)
        return self._ask("/api/v1/query", {"query": promql, "time": f"{instant:.3f}"}, promql, instant, instant)

    def range(self, promql: str, start: Instant, end: Instant, step: float | None = None) -> MetricAnswer:
        """The values of an expression from start to end (both included), every `step` seconds.

        Without a step, one that gives about 500 points, at least 1 s. Beyond 11,000 points the range is asked for in
        pieces, which are joined by their labels.
        """
        first, last = window_s(start, end)
        step_s = float(step) if step is not None else max(1.0, math.ceil((last - first) / 500))
        if not step_s >= 0.001:
            raise StoreError("the step must be at least a millisecond", had=f"step {step!r}", query=promql)
        answers = [
            self._ask(
                "/api/v1/query_range",
                {"query": promql, "start": f"{a:.3f}", "end": f"{b:.3f}", "step": f"{step_s:.3f}"},
                promql, a, b,
            )
            for a, b in pieces(first, last, step_s)
        ]  # fmt: skip
        return _joined(answers, first, last, step_s)

    def samples(self, selector: str, start: Instant, end: Instant, *, lookback_s: float = 300.0) -> MetricAnswer:
        """The samples themselves, as scraped: all between start and end, and those of `lookback_s` before start.

        `selector` is a plain selector without a range (`vllm:prompt_tokens_total{job="vllm"}`). For exact increases
        (`lab.frames.increase_exact`): PromQL's increase() extrapolates.
        """
        first, last = window_s(start, end)
        reach_ms = math.ceil((last - first + lookback_s) * 1000) + 1
        promql = f"{selector}[{reach_ms}ms]"
        answer = self._ask("/api/v1/query", {"query": promql, "time": f"{last:.3f}"}, promql, first, last)
        return replace(answer, provenance=replace(answer.provenance, start=first, end=last))

    def metric_names(self) -> list[str]:
        """Every metric name that the server knows."""
        return self.label_values("__name__")

    def label_values(self, label: str, *, match: str = "") -> list[str]:
        """Every value of a label; with `match` (a selector) only of the series that it selects."""
        body = self._asker.get(f"/api/v1/label/{label}/values", {"match[]": match} if match else None)
        return self._decode(body, list[str], f"values of label {label}")

    def first_present(self, *names: str) -> str:
        """The first of these metric names that the server has. Raises NoData where it has none of them.

        For names that differ between versions: llama_stack_... and ogx_..., vLLM's renames.
        """
        known = set(self.metric_names())
        for name in names:
            if name in known:
                return name
        raise NoData(
            f"this Prometheus has none of the metrics {', '.join(names)}",
            had=diagnosis.similar(names[0], known) or f"{len(known)} other metrics",
            do="check that the part which exports it is scraped (`targets()`), and its version",
        )

    def targets(self) -> list[Target]:
        """Every active scrape target, in order of job and instance."""
        body = self._asker.get("/api/v1/targets", {"state": "active"})
        found = self._decode(body, dict[str, Any], "targets").get("activeTargets", [])
        targets = [
            Target(
                job=t["labels"].get("job", ""),
                instance=t["labels"].get("instance", ""),
                up=t.get("health") == "up",
                last_scrape=datetime.fromisoformat(t["lastScrape"]).timestamp(),
                error=t.get("lastError", ""),
            )
            for t in found
        ]
        return sorted(targets, key=lambda t: (t.job, t.instance))

    def wait_for_scrape(self, after: Instant, *, jobs: Sequence[str] = (), timeout_s: float = 30.0) -> float:
        """Wait until every target (of these jobs) has been scraped later than `after`; how long that took, in seconds.

        After a run: only then do the counters hold all of it. Raises StoreError if a target is down or does not come.
        """
        moment, begun = epoch_s(after), time.monotonic()
        while True:
            wanted = [t for t in self.targets() if not jobs or t.job in jobs]
            missing = set(jobs) - {t.job for t in wanted}
            late = [t for t in wanted if t.last_scrape <= moment or not t.up]
            waited = time.monotonic() - begun
            if not late and not missing:
                return waited
            if waited > timeout_s:
                names = [f"{t.job} ({t.error or 'last scrape ' + utc(t.last_scrape)})" for t in late]
                raise StoreError(
                    f"no scrape after {utc(moment)} within {timeout_s:g} s",
                    had=", ".join([*names, *(f"{job} (no such target)" for job in sorted(missing))]),
                    do="see `lab status` for the part that is named, or wait longer",
                )
            time.sleep(POLL_S)

    def api_client(self) -> PrometheusConnect:
        """prometheus-api-client's own client for the same server, for what it does better than we do."""
        from prometheus_api_client import PrometheusConnect

        return PrometheusConnect(url=self.url, headers=self.headers or None, timeout=self.timeout_s)

    def close(self) -> None:
        self._asker.close()

    def _ask(self, path: str, params: dict[str, str], promql: str, start: float, end: float) -> MetricAnswer:
        asked_at, begun = time.time(), time.monotonic()
        response = self._asker.ask(path, {**params, "timeout": f"{self.timeout_s:g}s"}, query=promql)
        body = response.content
        envelope = self._envelope(body, response.status_code, promql)
        try:
            data = _decode_data(envelope.data)
            series = _series(data)
        except msgspec.DecodeError as e:
            raise self._asker.not_its_api(body, promql, str(e)) from e
        provenance = Provenance(
            "Prometheus", self.url, promql, start, end,
            asked_at=asked_at, took_s=time.monotonic() - begun,
            received_bytes=len(body), warnings=tuple(envelope.warnings),
        )  # fmt: skip
        kind = "matrix" if data.resultType == "matrix" else "vector"
        return MetricAnswer(kind, series, provenance, lambda: diagnosis.why_empty(self, provenance))

    def _envelope(self, body: bytes, status: int, query: str) -> _Envelope:
        try:
            envelope = _decode_envelope(body)
        except msgspec.DecodeError as e:
            if status >= 400:
                raise self._asker.refusal(status, body, query) from e
            raise self._asker.not_its_api(body, query, str(e)) from e
        if status >= 400 or envelope.status != "success":
            raise self._asker.refusal(status, body, query, f"{envelope.errorType}: {envelope.error}")
        return envelope

    def _decode(self, body: bytes, kind: Any, query: str) -> Any:
        envelope = self._envelope(body, 200, query)
        try:
            return msgspec.json.decode(envelope.data, type=kind)
        except msgspec.DecodeError as e:
            raise self._asker.not_its_api(body, query, str(e)) from e


def pieces(start: float, end: float, step_s: float) -> list[tuple[float, float]]:
    """Windows of at most MAX_POINTS points each, whose points together are those of the whole (no point twice)."""
    start_ms, step_ms = round(start * 1000), round(step_s * 1000)
    points = max(0, round(end * 1000) - start_ms) // step_ms + 1
    firsts = range(0, points, MAX_POINTS)
    return [
        ((start_ms + i * step_ms) / 1000, (start_ms + (min(i + MAX_POINTS, points) - 1) * step_ms) / 1000)
        for i in firsts
    ]


def _series(data: _Data) -> tuple[Series, ...]:
    if data.resultType in ("scalar", "string"):
        return (Series({}, (msgspec.Raw(b"[" + bytes(data.result) + b"]"),)),)
    series = []
    for r in _decode_results(data.result):
        if r.histogram is not _ABSENT or r.histograms is not _ABSENT:
            raise StoreError(
                "the answer holds native histograms",
                had=str(r.metric),
                do="ask for histogram_quantile(), histogram_sum() or histogram_count() of it, or for classic buckets",
            )
        raw = r.values if r.values is not _ABSENT else msgspec.Raw(b"[" + bytes(r.value) + b"]")
        series.append(Series(r.metric, (raw,)))
    return tuple(series)


def _joined(answers: list[MetricAnswer], start: float, end: float, step_s: float) -> MetricAnswer:
    """One answer of the pieces of a range."""
    first = answers[0]
    provenance = replace(
        first.provenance, start=start, end=end, step_s=step_s, requests=len(answers),
        took_s=sum(a.provenance.took_s for a in answers),
        received_bytes=sum(a.provenance.received_bytes for a in answers),
        warnings=tuple(dict.fromkeys(w for a in answers for w in a.provenance.warnings)),
    )  # fmt: skip
    if len(answers) == 1:
        return replace(first, provenance=provenance)
    by_labels: dict[frozenset[tuple[str, str]], list[Series]] = {}
    for one in (s for answer in answers for s in answer.series):
        by_labels.setdefault(frozenset(one.labels.items()), []).append(one)
    joined = tuple(
        Series(parts[0].labels, tuple(piece for part in parts for piece in part.pieces)) for parts in by_labels.values()
    )
    return replace(first, series=joined, provenance=provenance)
