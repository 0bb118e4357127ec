"""Prometheus' HTTP API: instant and range queries, raw samples, targets, names."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from lab.errors import NoData, StoreError
from lab.schema import names_of
from lab.settings import Settings
from lab.stores import diagnosis
from lab.stores.answers import MetricAnswer, Provenance
from lab.stores.http import Asker
from lab.stores.promjson import (
    Answer,
    Envelope,
    decode_data,
    decode_envelope,
    joined,
    series_of,
    usual_answer,
)
from lab.stores.timestamps import Instant, epoch_s, utc, window_s

if TYPE_CHECKING:
    from prometheus_api_client import PrometheusConnect

MAX_POINTS = 11_000  # per series and query; more is refused by Prometheus
PIECE_POINTS = 1_375  # a long range is asked for in pieces of so many, since a query keeps one core of the server busy
PARALLEL = 3  # of the 20 that Prometheus works on at once by default
POLL_S = 0.2
_OF_WHOLE_RANGE = re.compile(
    r"@\s*(?:start|end)\s*\("
)  # its value depends on the range that is asked for


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
        self,
        where: Settings | str,
        *,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        url = where if isinstance(where, str) else where.endpoint("prometheus")
        self.timeout_s = timeout_s or (30.0 if isinstance(where, str) else where.timeout_s)
        self.headers = {
            **({} if isinstance(where, str) else where.store_headers),
            **(headers or {}),
        }
        self._asker = Asker("Prometheus", url, self.timeout_s, self.headers)

    @property
    def url(self) -> str:
        return self._asker.url

    def query(self, promql: str, at: Instant | None = None) -> MetricAnswer:
        """The value of an expression at one instant (now, if none is given)."""
        instant = time.time() if at is None else epoch_s(at)
        return self._ask(
            "/api/v1/query", {"query": promql, "time": f"{instant:.3f}"}, promql, instant, instant
        )

    def range(
        self, promql: str, start: Instant, end: Instant, step: float | None = None
    ) -> MetricAnswer:
        """The values of an expression from start to end (both included), every `step` seconds.

        Without a step, one that gives about 500 points, at least 1 s. Beyond 1,375 points the range is asked for in
        pieces, several at once, which are joined by their labels: one query keeps only one core of the server busy, and
        11,000 points is the most that it answers. Raises StoreError for `@ start()` and `@ end()` beyond 11,000 points,
        since in a piece they would mean another instant.
        """
        first, last = window_s(start, end)
        step_s = _step(max(1.0, math.ceil((last - first) / 500)) if step is None else step, promql)
        return joined(list(self._pieces(promql, first, last, step_s)), first, last, step_s)

    def stream(
        self, promql: str, start: Instant, end: Instant, step: float
    ) -> Iterator[MetricAnswer]:
        """A long range as its parts, in order of time, each as it comes, while the server works on the next ones.

        `lab.frames.series_frame` takes them and lets each go, so that the whole answer is never in memory. Raises
        NoData after the last part where there was nothing in any; else as `range`.
        """
        first, last = window_s(start, end)
        found = False
        for answer in self._pieces(promql, first, last, _step(step, promql)):
            found = found or bool(answer.series)
            yield answer
        if not found:
            answer.require()

    def _pieces(
        self, promql: str, first: float, last: float, step_s: float
    ) -> Iterator[MetricAnswer]:
        """The parts of a range, asked for a few at a time."""
        whole = _OF_WHOLE_RANGE.search(promql) is not None
        windows = pieces(first, last, step_s, MAX_POINTS if whole else PIECE_POINTS)
        if whole and len(windows) > 1:
            got = f"{len(windows)} windows of {MAX_POINTS:,} points"
            fix = "ask for a coarser step, or for the parts of the window one by one"
            raise StoreError(
                "`@ start()` and `@ end()` cannot be asked for in pieces",
                query=promql,
                got=got,
                fix=fix,
            )

        def ask(window: tuple[float, float]) -> MetricAnswer:
            a, b = window
            params = {
                "query": promql,
                "start": f"{a:.3f}",
                "end": f"{b:.3f}",
                "step": f"{step_s:.3f}",
            }
            answer = self._ask("/api/v1/query_range", params, promql, a, b)
            return replace(answer, provenance=replace(answer.provenance, step_s=step_s))

        if len(windows) == 1:
            yield ask(windows[0])
            return
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="prometheus") as pool:
            asked: deque[Future[MetricAnswer]] = deque()
            try:
                for window in windows:
                    asked.append(pool.submit(ask, window))
                    if len(asked) == PARALLEL:
                        yield asked.popleft().result()
                while asked:
                    yield asked.popleft().result()
            finally:
                for waiting in asked:
                    waiting.cancel()

    def samples(
        self, selector: str, start: Instant, end: Instant, *, lookback_s: float = 300.0
    ) -> MetricAnswer:
        """The samples themselves, as scraped: all between start and end, and those of `lookback_s` before start.

        `selector` is a plain selector without a range (`vllm:prompt_tokens_total{job="vllm"}`). For exact increases
        (`lab.frames.increase_exact`): PromQL's increase() extrapolates.
        """
        first, last = window_s(start, end)
        reach_ms = math.ceil((last - first + lookback_s) * 1000) + 1
        promql = f"{selector}[{reach_ms}ms]"
        answer = self._ask(
            "/api/v1/query", {"query": promql, "time": f"{last:.3f}"}, promql, first, last
        )
        return replace(answer, provenance=replace(answer.provenance, start=first, end=last))

    def metric_names(self) -> list[str]:
        """Every metric name that the server knows."""
        return self.label_values("__name__")

    def label_values(self, label: str, *, match: str = "") -> list[str]:
        """Every value of a label; with `match` (a selector) only of the series that it selects."""
        body = self._asker.get(
            f"/api/v1/label/{label}/values", {"match[]": match} if match else None
        )
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
            got=diagnosis.similar(names[0], known) or f"{len(known)} other metrics",
            fix="check that the part which exports it is scraped (`targets()`), and its version",
        )

    def present(self, metric: str) -> str:
        """What this server calls a metric, whatever the version of the part that exports it (lab.schema.names_of).

        Raises NoData where it has it under none of its names.
        """
        return self.first_present(*names_of(metric))

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

    def wait_for_scrape(
        self, after: Instant, *, jobs: Sequence[str] = (), timeout_s: float = 30.0
    ) -> float:
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
                names = [
                    f"{t.job} ({t.error or 'last scrape ' + utc(t.last_scrape)})" for t in late
                ]
                raise StoreError(
                    f"no scrape after {utc(moment)} within {timeout_s:g} s",
                    got=", ".join(
                        [*names, *(f"{job} (no such target)" for job in sorted(missing))]
                    ),
                    fix="see `lab status` for the part that is named, or wait longer",
                )
            time.sleep(POLL_S)

    def api_client(self) -> PrometheusConnect:
        """prometheus-api-client's own client for the same server, for what it does better than we do."""
        from prometheus_api_client import PrometheusConnect

        return PrometheusConnect(url=self.url, headers=self.headers or None, timeout=self.timeout_s)

    def close(self) -> None:
        self._asker.close()

    def _ask(
        self, path: str, params: dict[str, str], promql: str, start: float, end: float
    ) -> MetricAnswer:
        asked_at, begun = time.time(), time.monotonic()
        response = self._asker.ask(
            path, {**params, "timeout": f"{self.timeout_s:g}s"}, query=promql
        )
        body = response.content
        answer = usual_answer(body) if response.status_code == 200 else None
        if answer is None:
            answer = self._envelope(body, response.status_code, promql)
        try:
            data = answer.data if isinstance(answer, Answer) else decode_data(answer.data)
            series = series_of(data)
        except msgspec.DecodeError as e:
            raise self._asker.not_its_api(body, promql, str(e)) from e
        provenance = Provenance(
            "Prometheus", self.url, promql, start, end,
            asked_at=asked_at, took_s=time.monotonic() - begun,
            received_bytes=len(body), warnings=tuple(answer.warnings),
        )  # fmt: skip
        kind = "matrix" if data.resultType == "matrix" else "vector"
        return MetricAnswer(kind, series, provenance, lambda: diagnosis.why_empty(self, provenance))

    def _envelope(self, body: bytes, status: int, query: str) -> Envelope:
        try:
            envelope = decode_envelope(body)
        except msgspec.DecodeError as e:
            if status >= 400:
                raise self._asker.refusal(status, body, query) from e
            raise self._asker.not_its_api(body, query, str(e)) from e
        if status >= 400 or envelope.status != "success":
            raise self._asker.refusal(
                status, body, query, f"{envelope.errorType}: {envelope.error}"
            )
        return envelope

    def _decode(self, body: bytes, kind: Any, query: str) -> Any:
        envelope = self._envelope(body, 200, query)
        try:
            return msgspec.json.decode(envelope.data, type=kind)
        except msgspec.DecodeError as e:
            raise self._asker.not_its_api(body, query, str(e)) from e


def _step(step: float, promql: str) -> float:
    if not float(step) >= 0.001:
        raise StoreError(
            "the step must be at least a millisecond", got=f"step {step!r}", query=promql
        )
    return float(step)


def pieces(
    start: float, end: float, step_s: float, size: int = MAX_POINTS
) -> list[tuple[float, float]]:
    """Windows of at most `size` points each, whose points together are those of the whole (no point twice)."""
    start_ms, step_ms = round(start * 1000), round(step_s * 1000)
    points = max(0, round(end * 1000) - start_ms) // step_ms + 1
    firsts = range(0, points, size)
    return [
        ((start_ms + i * step_ms) / 1000, (start_ms + (min(i + size, points) - 1) * step_ms) / 1000)
        for i in firsts
    ]
