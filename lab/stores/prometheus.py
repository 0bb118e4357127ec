"""Prometheus' HTTP API: queries, raw samples, targets, names, and why an answer is empty."""

from __future__ import annotations

import difflib
import json
import math
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from lab.engines import actual_name
from lab.errors import NoData, StoreError
from lab.schema import names_of
from lab.stores.answers import MetricAnswer, Provenance
from lab.stores.http import Reply, StoreClient
from lab.stores.prometheus_json import (
    NOT_JSON,
    RawResponse,
    decode_envelope,
    joined,
    series_of,
    usual_response,
)
from lab.stores.timestamps import MIN_S, Instant, epoch_s, utc, window_s

MAX_POINTS = 11_000  # per series and query; Prometheus refuses more
PIECE_POINTS = 1_375  # per query of a long range: one query keeps only one core of the server busy
MAX_RANGE_POINTS = 100_000_000
PARALLEL = 3  # of the 20 queries that Prometheus runs at once by default
POLL_S = 0.2
MAX_NAMES = 500  # queries in place of one that selects metrics by a pattern
_BY_PATTERN = re.compile(r'^\{__name__=~"([^"\\]*)",?(.*\}.*)$', re.DOTALL)
_OF_WHOLE_RANGE = re.compile(
    r"@\s*(?:start|end)\s*\("
)  # its value depends on the range of the query

_NOT_METRICS = set(
    [
        "and",
        "or",
        "unless",
        "by",
        "without",
        "on",
        "ignoring",
        "group_left",
        "group_right",
        "bool",
        "offset",
        "inf",
        "nan",
        "start",
        "end",
    ]
)
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`')
_LABEL_LISTS = re.compile(
    r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\{[^}]*\}|\[[^\]]*\]"
)
_NAME = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\s*\(|[\w:])")


@dataclass(frozen=True)
class Target:
    """A scrape target. Where the last scrape failed, `up` is False and `error` the reason.

    `last_scrape` is in seconds since the epoch.
    """

    job: str
    instance: str
    up: bool
    last_scrape: float
    error: str


class _Target(msgspec.Struct):
    labels: dict[str, str] = {}
    health: str = ""
    lastScrape: datetime = datetime.fromisoformat("0001-01-01T00:00:00Z")
    lastError: str = ""


class _Targets(msgspec.Struct):
    activeTargets: list[_Target] | None


class Alert(msgspec.Struct):
    """An alert that Prometheus evaluates to true: pending, or firing after its `for`.

    `value` is that of its expression, as text.
    """

    labels: dict[str, str]
    annotations: dict[str, str]
    state: str
    activeAt: datetime
    value: str

    @property
    def name(self) -> str:
        """Return the name of its rule."""
        return self.labels["alertname"]


class _Alerts(msgspec.Struct):
    alerts: list[Alert]


class _Rule(msgspec.Struct):
    name: str = ""
    query: str = ""


class _Group(msgspec.Struct):
    rules: list[_Rule] = []


class _Groups(msgspec.Struct):
    groups: list[_Group] | None


class Prometheus(StoreClient):
    """A client of one Prometheus, or of a server with the same API; see `StoreClient`."""

    NAME = "Prometheus"

    def query(self, promql: str, at: Instant | None = None) -> MetricAnswer:
        """Return the value of an expression at one point in time (now, by default)."""
        time_s = time.time() if at is None else epoch_s(at)
        return self._query("query", {"time": f"{time_s:.3f}"}, promql, time_s, time_s)

    def range(
        self, promql: str, start: Instant, end: Instant, step: float | None = None
    ) -> MetricAnswer:
        """Return the values of an expression from start to end, every `step` seconds.

        Both ends are included. The default step gives about 500 points, and is at least 1 s. Beyond
        1,375 points the range is queried in pieces, several at once, which are joined by their
        labels: one query keeps only one core of the server busy, and Prometheus returns at most
        11,000 points. Raises StoreError for `@ start()` and `@ end()` beyond 11,000 points, since
        in a piece they would mean another time.
        """
        start_s, end_s = window_s(start, end)
        default_s = max(1.0, math.ceil((end_s - start_s) / 500))
        step_s = _checked_step(default_s if step is None else step, promql)
        return joined(list(self._pieces(promql, start_s, end_s, step_s)), start_s, end_s, step_s)

    def stream(
        self, promql: str, start: Instant, end: Instant, step: float
    ) -> Iterator[MetricAnswer]:
        """Yield a long range in parts, in order of time, while the server works on the next ones.

        `lab.frames.series_frame` takes them one by one, so that the whole answer is never in
        memory. Raises NoData after the last part where all of them are empty; otherwise as `range`.
        """
        start_s, end_s = window_s(start, end)
        empty = True
        for answer in self._pieces(promql, start_s, end_s, _checked_step(step, promql)):
            empty = empty and not answer.series
            yield answer
        if empty:
            answer.require()

    def samples(
        self, selector: str, start: Instant, end: Instant, *, lookback_s: float = 300.0
    ) -> MetricAnswer:
        """Return the samples as scraped, from `lookback_s` before the start to the end.

        `selector` is a plain selector without a range (`vllm:prompt_tokens_total{job="vllm"}`). Use
        it for exact increases (`lab.frames.increase_exact`), since PromQL's increase()
        extrapolates.
        """
        start_s, end_s = window_s(start, end)
        reach_s = end_s - start_s + _checked_step(lookback_s, selector, min_s=0.0)
        reach_ms = math.ceil(reach_s * 1000) + 1
        promql = f"{selector}[{reach_ms}ms]"
        return self._query("query", {"time": f"{end_s:.3f}"}, promql, start_s, end_s)

    def metric_names(self) -> list[str]:
        """Return every metric name that the server knows."""
        return self.label_values("__name__")

    def label_values(self, label: str, *, match: str = "") -> list[str]:
        """Return every value of a label; with `match` only of the series that it selects."""
        params = {"match[]": match} if match else None
        path = f"/api/v1/label/{label}/values"
        return self._decode(path, params, list[str] | None, f"values of label {label}") or []

    def first_present(self, *names: str) -> str:
        """Return the first of these metric names that the server has.

        Names differ between versions. Raises NoData where it has none of them.
        """
        known = set(self.metric_names())
        for name in names:
            if name in known:
                return name
        raise NoData(
            f"this Prometheus has none of the metrics {', '.join(names)}",
            got=similar_names(names[0], known) or f"{len(known)} other metrics",
            fix="check that the part which exports it is scraped (`targets()`), and its version",
        )

    def present(self, metric: str) -> str:
        """Return this server's name of a metric (lab.engines, lab.schema.names_of).

        It depends on the exporter and its version. Raises NoData where it has the metric under none
        of its names.
        """
        name = actual_name(metric, self.metric_names(), self.metric_prefix)
        return name.metric if name else self.first_present(*names_of(metric))

    def targets(self) -> list[Target]:
        """Return every active scrape target, in order of job and instance.

        A server without this API, or without targets of its own (Thanos, Mimir, VictoriaMetrics,
        the managed services), is queried for its `up` series instead.
        """
        reply = self._http.request("/api/v1/targets", {"state": "active"})
        targets = []
        if reply.status == 200:
            targets = _targets_of(self._data_of(reply, _Targets, "targets"))
        return sorted(targets or self._targets_by_up(), key=lambda t: (t.job, t.instance))

    def alerts(self) -> list[Alert]:
        """Return the alerts that are pending or firing, the oldest first."""
        answer: _Alerts = self._decode("/api/v1/alerts", None, _Alerts, "alerts")
        return sorted(answer.alerts, key=lambda alert: alert.activeAt)

    def rules(self) -> list[tuple[str, str]]:
        """Return (name, expression) of every rule; none for a server without this API."""
        reply = self._http.request("/api/v1/rules")
        if reply.status != 200:
            self.query("vector(1)")  # raises where it is no Prometheus at all, or refuses the login
            return []
        groups = self._data_of(reply, _Groups, "rules").groups or []
        return [(rule.name, rule.query) for group in groups for rule in group.rules]

    def wait_for_scrape(
        self, after: Instant, *, jobs: Sequence[str] = (), timeout_s: float = 30.0
    ) -> float:
        """Wait until every target (of these jobs) was scraped later than `after`.

        Return the seconds waited. After a run, the counters hold all of it only then. Raises
        StoreError if there is no target, or one is down or not scraped in time.
        """
        after_s = epoch_s(after)
        started = time.monotonic()
        while True:
            targets = [t for t in self.targets() if not jobs or t.job in jobs]
            missing = _not_scraped(targets, jobs, after_s)
            waited_s = time.monotonic() - started
            if not missing:
                return waited_s
            if waited_s > timeout_s:
                raise StoreError(
                    f"no scrape after {utc(after_s)} within {timeout_s:g} s",
                    got=", ".join(missing),
                    fix="see `lab status` for the part that is named, or wait longer",
                )
            time.sleep(POLL_S)

    def _pieces(
        self, promql: str, start_s: float, end_s: float, step_s: float
    ) -> Iterator[MetricAnswer]:
        """Yield the parts of a range in order, of which PARALLEL are queried at once."""
        whole = _OF_WHOLE_RANGE.search(promql) is not None
        if (points := (end_s - start_s) / step_s) > MAX_RANGE_POINTS:
            raise StoreError(
                "the range has too many points",
                query=promql,
                got=f"{points:,.0f} points per series",
                fix="give a coarser step, or a shorter window",
            )
        windows = pieces(start_s, end_s, step_s, MAX_POINTS if whole else PIECE_POINTS)
        if whole and len(windows) > 1:
            raise StoreError(
                "`@ start()` and `@ end()` cannot be queried in pieces",
                query=promql,
                got=f"{len(windows)} windows of {MAX_POINTS:,} points",
                fix="give a coarser step, or query the parts of the window one by one",
            )
        if len(windows) == 1:
            yield self._range(promql, windows[0], step_s)
            return
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="prometheus") as pool:
            queue: deque[Future[MetricAnswer]] = deque()
            try:
                for window in windows:
                    queue.append(pool.submit(self._range, promql, window, step_s))
                    if len(queue) == PARALLEL:
                        yield queue.popleft().result()
                while queue:
                    yield queue.popleft().result()
            finally:
                for future in queue:
                    future.cancel()

    def _range(self, promql: str, window: tuple[float, float], step_s: float) -> MetricAnswer:
        start_s, end_s = window
        params = {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:.3f}"}
        answer = self._query("query_range", params, promql, start_s, end_s)
        return replace(answer, provenance=replace(answer.provenance, step_s=step_s))

    def _query(
        self, api: str, params: dict[str, str], promql: str, start_s: float, end_s: float
    ) -> MetricAnswer:
        queried_at = time.time()
        encoded = {"query": promql, **params, "timeout": f"{self.timeout_s:g}s"}
        reply = self._http.request(f"/api/v1/{api}", encoded, query=promql)
        if reply.status == 400 and (parts := self._name_by_name(promql)):
            answers = [self._query(api, params, part, start_s, end_s) for part in parts]
            whole = joined(answers, start_s, end_s, 0.0)
            return replace(whole, provenance=replace(whole.provenance, query=promql))
        response = usual_response(reply.content) if reply.status == 200 else None
        try:
            kind, series, warnings = series_of(response or self._envelope(reply, promql))
        except NOT_JSON as e:
            raise self._http.not_its_api(reply, promql, e) from e
        provenance = Provenance(
            "Prometheus",
            self.url,
            promql,
            start_s,
            end_s,
            queried_at=queried_at,
            took_s=time.time() - queried_at,
            received_bytes=len(reply.content),
            warnings=tuple(warnings),
        )
        return MetricAnswer(kind, series, provenance, lambda: self._why_empty(provenance))

    def _name_by_name(self, promql: str) -> list[str]:
        """Return a query per metric in place of one that selects metrics by a pattern.

        Google's service requires the whole name of a metric in each selector. Empty for any other
        query, and where there are no such metrics, or more than MAX_NAMES.
        """
        match = _BY_PATTERN.match(promql)
        if match is None:
            return []
        try:
            pattern = re.compile(match[1])
        except re.error:  # the refusal says what is wrong with it
            return []
        rest = match[2]
        names = [name for name in self.metric_names() if pattern.fullmatch(name)]
        return [f"{name}{{{rest}" for name in names] if len(names) <= MAX_NAMES else []

    def _envelope(self, reply: Reply, query: str) -> RawResponse:
        try:
            envelope = decode_envelope(reply.content)
        except NOT_JSON as e:
            if reply.status >= 300:
                raise self._http.refusal(reply, query) from e
            raise self._http.not_its_api(reply, query, e) from e
        if reply.status >= 300 or envelope.status != "success":
            message = f"{envelope.errorType}: {envelope.error}" if envelope.error else ""
            raise self._http.refusal(reply, query, message)
        return envelope

    def _decode(self, path: str, params: dict[str, str] | None, kind: Any, query: str) -> Any:
        return self._data_of(self._http.request(path, params, query=query), kind, query)

    def _data_of(self, reply: Reply, kind: Any, query: str) -> Any:
        envelope = self._envelope(reply, query)
        try:
            data = msgspec.json.decode(envelope.data, type=kind)
        except NOT_JSON as e:
            raise self._http.not_its_api(reply, query, e) from e
        if not data and envelope.warnings:
            raise NoData(
                f"Prometheus at {self.url} returned nothing, with a warning",
                query=query,
                got="; ".join(envelope.warnings),
                fix="check the stores behind this address, and wait until they answer",
            )
        return data

    def _targets_by_up(self) -> list[Target]:
        """Return the targets by their `up` series; the reason of a failed scrape is not known."""
        scraped_at = self._values_by_target("timestamp(up)")
        return [
            Target(job, instance, value == 1, scraped_at.get((job, instance), MIN_S), "")
            for (job, instance), value in self._values_by_target("up").items()
        ]

    def _values_by_target(self, promql: str) -> dict[tuple[str, str], float]:
        """Return {(job, instance): the value of an expression now}."""
        values = {}
        for series in self.query(promql).metrics:
            labels = series["metric"]
            target = labels.get("job", ""), labels.get("instance", "")
            try:
                values[target] = float(series["value"][1])
            except (KeyError, ValueError) as e:
                raise StoreError(
                    "an instant query has no number for an answer",
                    query=promql,
                    got=str(series)[:200],
                ) from e
        return values

    def _why_empty(self, provenance: Provenance) -> str:
        """Return the first reason that holds.

        Raises nothing: an unreachable server is a reason too.
        """
        try:
            known = set(self.metric_names())
            for name in metric_names_in(provenance.query):
                if name not in known:
                    hint = similar_names(name, known)
                    text = f"the metric {name} is absent, no target exports it"
                    return f"{text}; {hint}" if hint else text
            down = [
                f"{s.labels.get('job', '?')} ({s.labels.get('instance', '?')})"
                for s in self.query("up == 0", at=provenance.end)
            ]
        except StoreError as e:
            return f"and it does not say why ({e.happened})"
        if down:
            names = ", ".join(sorted(down))
            return f"these targets were down (up == 0) at the end of the window: {names}"
        window = f"from {utc(provenance.start)} to {utc(provenance.end)}"
        return (
            f"the metric is there, but no sample fits: the window {window} is empty, "
            "or no series has these labels"
        )


def pieces(
    start: float, end: float, step_s: float, size: int = MAX_POINTS
) -> list[tuple[float, float]]:
    """Return windows of at most `size` points each, which hold every point of the whole once."""
    start_ms = round(start * 1000)
    step_ms = round(step_s * 1000)
    points = max(0, round(end * 1000) - start_ms) // step_ms + 1
    windows = []
    for first in range(0, points, size):
        last = min(first + size, points) - 1
        windows.append(((start_ms + first * step_ms) / 1000, (start_ms + last * step_ms) / 1000))
    return windows


def job_matcher(name: str) -> str:
    """Return the label matcher of a scrape job. PromQL's strings are Go's, which read JSON's."""
    return f"job={json.dumps(name, ensure_ascii=False)}"


def metric_names_in(promql: str) -> list[str]:
    """Return the metric names in an expression, in order, each once."""
    text = _LABEL_LISTS.sub(" ", _QUOTED.sub('""', promql))
    return [n for n in dict.fromkeys(_NAME.findall(text)) if n.lower() not in _NOT_METRICS]


def similar_names(name: str, known: Iterable[str]) -> str:
    """Return a hint at similar names, or ''."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"similar names: {', '.join(close)}" if close else ""


def _checked_step(step: float, promql: str, *, min_s: float = 0.001) -> float:
    try:
        step_s = float(step)
    except (TypeError, ValueError, OverflowError):
        step_s = math.nan
    if not min_s <= step_s <= 1e10:
        raise StoreError(
            "a step or look-back must be a number of seconds; a step at least a millisecond",
            query=promql,
            got=repr(step)[:100],
        )
    return step_s


def _targets_of(response: _Targets) -> list[Target]:
    return [
        Target(
            job=target.labels.get("job", ""),
            instance=target.labels.get("instance", ""),
            up=target.health == "up",
            last_scrape=target.lastScrape.timestamp(),
            error=target.lastError,
        )
        for target in response.activeTargets or ()
    ]


def _not_scraped(targets: Sequence[Target], jobs: Sequence[str], after_s: float) -> list[str]:
    """Return the targets that were not scraped after a time, and the jobs without targets."""
    late = []
    for t in targets:
        if t.last_scrape <= after_s or not t.up:
            reason = t.error or ("down" if not t.up else f"last scrape {utc(t.last_scrape)}")
            late.append(f"{t.job} ({reason})")
    late += [f"{job} (no such target)" for job in sorted(set(jobs) - {t.job for t in targets})]
    return late if targets or jobs else ["it has no scrape targets"]
