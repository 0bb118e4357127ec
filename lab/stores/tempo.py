"""Tempo's HTTP API: search, traces by id, and many spans at once.

The lab's own store streams many spans as Arrow.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec

from lab.dialects import EVENTS
from lab.errors import FrameError, IncompleteTraces, NoData, StoreError
from lab.schema import SPAN_ATTRIBUTES, SPAN_COLUMNS
from lab.stores.answers import Provenance, SearchAnswer, SpansAnswer, TraceSummary
from lab.stores.http import Reply, StoreClient
from lab.stores.otlp import (
    JSON,
    PROTOBUF,
    column_names,
    missing_parents,
    span_counts,
    trace_of_json,
    trace_of_protobuf,
)
from lab.stores.timestamps import Instant, window_s

BULK_PATH = "/api/lab/spans"  # offered by lab.tracestore only; a Tempo answers 404
TRACE_PATH = "/api/v2/traces/"
OLD_TRACE_PATH = "/api/traces/"  # of a Tempo that has no other; its protobuf is the trace itself
MAX_BULK_SPANS = 5_000_000
PARALLEL = 8
MAX_TRACES = 262_144  # the most that Tempo's search returns
MAX_REFUSALS = 100  # if the store refuses so many before it returns one, it refuses all
POLL_S = 0.5
_MAX_LIMIT = re.compile(rb"exceeds max limit (\d+)")
NOTHING = "no span of it has arrived"
GROWING = "its spans are still arriving"

Problems = Callable[[SpansAnswer], Mapping[str, str]]


class _Trace(NamedTuple):
    """One trace as TracesData and whether the store cut it, or why there is none."""

    body: bytes = b""
    is_partial: bool = False
    error: StoreError | None = None


class _SpanSet(msgspec.Struct):
    matched: int = 0


class _Summary(msgspec.Struct):
    traceID: str
    rootServiceName: str = ""
    rootTraceName: str = ""
    startTimeUnixNano: str | int = 0
    durationMs: int = 0
    spanSets: list[_SpanSet] | None = None
    spanSet: _SpanSet | None = None


class _Progress(msgspec.Struct):
    completedJobs: int = 0
    totalJobs: int = 0


class _SearchResponse(msgspec.Struct):
    traces: list[_Summary] | None = None
    metrics: _Progress | None = None


_decode_search = msgspec.json.Decoder(_SearchResponse, strict=False).decode


@dataclass(frozen=True)
class Arrival:
    """The result of a wait. `incomplete` is {trace id: reason}."""

    complete: tuple[str, ...]
    incomplete: Mapping[str, str]
    waited_s: float

    def require(self) -> Arrival:
        """Return this arrival if every trace is complete.

        Raises IncompleteTraces, which counts and names the others.
        """
        if not self.incomplete:
            return self
        examples = "; ".join(f"{i}: {why}" for i, why in list(self.incomplete.items())[:3])
        total = len(self.complete) + len(self.incomplete)
        raise IncompleteTraces(
            f"{len(self.incomplete)} of {total} traces are not complete after "
            f"{self.waited_s:.0f} s",
            got=examples,
            fix="wait longer, see the log of the part whose spans are missing, or exclude these "
            "traces and report it",
        )

    def __str__(self) -> str:
        total = len(self.complete) + len(self.incomplete)
        text = f"{len(self.complete)} of {total} traces complete after {self.waited_s:.1f} s"
        for reason, count in sorted(Counter(self.incomplete.values()).items()):
            text += f"\n  {count} not: {reason}"
        return text


class Tempo(StoreClient):
    """A client of one Tempo, or of the lab's own trace store; see `StoreClient`."""

    NAME = "Tempo"
    _bulk: frozenset[str] | None = None  # columns of the bulk endpoint; not known yet
    _trace_path = ""  # not known yet: no trace was found so far
    _is_tempo = False  # not checked yet

    def search(
        self, traceql: str, start: Instant, end: Instant, *, limit: int = 20
    ) -> SearchAnswer:
        """Return traces with a span that matches, in the window.

        Of more than `limit` traces, Tempo chooses which; where its own limit is lower, that one
        holds. Where the store has not finished its search, `provenance.warnings` says so.
        """
        start_s, end_s = window_s(start, end)
        queried_at = time.time()
        params = {"q": traceql, **_whole_seconds(start_s, end_s), "limit": limit}
        reply = self._http.request("/api/search", params, accept=JSON, query=traceql)
        if reply.status == 400 and (most := _MAX_LIMIT.search(reply.content)):
            limit = int(most[1])
            params["limit"] = limit
            reply = self._http.request("/api/search", params, accept=JSON, query=traceql)
        if reply.status == 404:
            raise self._http.not_its_api(reply, traceql, "it has no /api/search (HTTP 404)")
        if reply.status >= 300:
            raise self._http.refusal(reply, traceql)
        try:
            response = _decode_search(reply.content)
            if response.traces is None and response.metrics is None:
                raise ValueError("neither traces nor metrics in it")
            traces = tuple(map(_summary, response.traces or ()))
        except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError) as e:
            raise self._http.not_its_api(reply, traceql, e) from e
        provenance = self._provenance(traceql, start_s, end_s, queried_at, [reply])
        limited = len(traces) >= limit
        warnings = () if limited else _unfinished(response.metrics)
        return SearchAnswer(traces, limited, replace(provenance, warnings=warnings))

    def trace(self, trace_id: str) -> SpansAnswer:
        """Return every span of one trace. Raises NoData where the store does not know the id."""
        return self._traces([_normalised(trace_id)], are_found=True)

    def traces(self, trace_ids: Iterable[str], *, are_found: bool = False) -> SpansAnswer:
        """Return every span of these traces, requested in parallel.

        Ids that the store does not know are left out, and so are traces that it refuses, as a Tempo
        does with one that is too large: `refused` has its words. Where a search has found the ids
        (`are_found`), it has those of unknown ones, too. An id may lack its leading zeros. Raises
        StoreError for anything that is not an id, and where every trace is refused.
        """
        ids = list(dict.fromkeys(map(_normalised, trace_ids)))
        return self._traces(ids, are_found=are_found)

    def _traces(
        self, ids: Sequence[str], *, are_found: bool = False, may_refuse_all: bool = False
    ) -> SpansAnswer:
        """Return these traces. An unknown one counts as refused where a search has found it."""
        queried_at = time.time()
        traces = self._requested(ids, are_found, may_refuse_all)
        protobufs = tuple(trace.body for trace in traces.values() if trace.body)
        partial = tuple(i for i, trace in traces.items() if trace.is_partial)
        refused = {i: trace.error.happened for i, trace in traces.items() if trace.error}
        query = ids[0] if len(ids) == 1 else f"{len(ids)} traces by id"
        provenance = Provenance(
            "Tempo",
            self.url,
            query,
            queried_at,
            queried_at,
            queried_at=queried_at,
            took_s=time.time() - queried_at,
            requests=len(ids),
            received_bytes=sum(map(len, protobufs)),
        )
        return SpansAnswer(provenance, protobufs, partial=partial, refused=refused)

    def _requested(
        self, ids: Sequence[str], are_found: bool, may_refuse_all: bool
    ) -> dict[str, _Trace]:
        """Request these traces in parallel. Raises the error of a store that refuses all."""
        traces: dict[str, _Trace] = {}
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="tempo") as pool:
            for trace_id, trace in zip(ids, pool.map(self._trace, ids), strict=True):
                is_left_out = isinstance(trace.error, NoData) and not are_found
                traces[trace_id] = _Trace() if is_left_out else trace
                is_enough = len(traces) == min(len(ids), MAX_REFUSALS) and not may_refuse_all
                if is_enough and trace.error and all(each.error for each in traces.values()):
                    raise trace.error
        return traces

    def spans(
        self,
        traceql: str,
        start: Instant,
        end: Instant,
        *,
        max_traces: int = 100_000,
        attributes: Sequence[str] | None = SPAN_ATTRIBUTES,
    ) -> SpansAnswer:
        """Return every span of every trace with a span that matches, in the window.

        The window is rounded outwards to seconds. The lab's own store streams them, with the named
        attributes (None: all). A real Tempo is searched for at most `max_traces`, which are then
        requested in parallel; `limited` says that there may be more.
        """
        start_s, end_s = window_s(start, end)
        if self.streams:
            return self._stream(traceql, start_s, end_s, attributes)
        found = self.search(traceql, start_s, end_s, limit=min(max_traces, MAX_TRACES))
        answer = self._traces(found.trace_ids, are_found=True)
        provenance = replace(
            found.provenance,
            took_s=found.provenance.took_s + answer.provenance.took_s,
            requests=1 + answer.provenance.requests,
            received_bytes=found.provenance.received_bytes + answer.provenance.received_bytes,
        )
        return replace(answer, provenance=provenance, limited=found.limited)

    @property
    def streams(self) -> bool:
        """Return whether the server is the lab's own store, which streams many spans at once.

        Checked once.
        """
        if self._bulk is None:
            params = {"q": "{}", "start": 1, "end": 2, "limit": 1}
            reply = self._http.request(BULK_PATH, params)
            self._bulk = column_names(reply.content) if reply.status == 200 else frozenset()
        return bool(self._bulk)

    def wait_for_traces(
        self,
        trace_ids: Iterable[str],
        *,
        timeout_s: float = 30.0,
        problems: Problems | None = None,
        window: tuple[Instant, Instant] | None = None,
    ) -> Arrival:
        """Wait until these traces are complete, at most `timeout_s` long.

        A trace is complete when `problems` (answer -> {trace id: problem, '' for none}) reports
        none and it has not grown since the query before. By default a trace needs a root and every
        parent that its spans name; `lambda answer: trace_problems(spans_frame(answer))` of
        `lab.frames` checks more. With a window, the lab's own store is queried for all traces in it
        at once.
        """
        find_problems = problems or missing_parents
        ids = list(dict.fromkeys(map(_normalised, trace_ids)))
        started = time.monotonic()
        reasons: dict[str, str] = {}
        sizes: Mapping[str, int] = {}
        pending = ids
        polls = 0
        while pending:
            answer = self._arrived(pending, window, is_first=not polls)
            counts = span_counts(answer)
            found = {**find_problems(answer), **answer.refused}
            reasons = _reasons(pending, found, counts, sizes)
            sizes = counts
            pending = list(reasons)
            polls += 1
            left_s = timeout_s - (time.monotonic() - started)
            if left_s <= 0 and polls > 1:  # a single look cannot tell whether a trace still grows
                break
            if pending:
                time.sleep(max(0.0, min(POLL_S, left_s)))
        complete = tuple(i for i in ids if i not in reasons)
        return Arrival(complete, reasons, time.monotonic() - started)

    def _arrived(
        self, ids: list[str], window: tuple[Instant, Instant] | None, is_first: bool
    ) -> SpansAnswer:
        if window and self.streams:
            return self.spans("{}", *window)
        return self._traces(ids, may_refuse_all=not is_first)

    def _trace(self, trace_id: str, path: str = "") -> _Trace:
        """Return one trace, or why there is none. Raises StoreError for a fault of the store."""
        path = path or self._trace_path or TRACE_PATH
        reply = self._http.request(path + trace_id, accept=PROTOBUF, query=trace_id)
        if reply.status == 404:
            self._check_tempo()
            # A gateway's page for a path that it does not know is a 404, too.
            is_known = path in (self._trace_path, OLD_TRACE_PATH)
            return _unknown(trace_id) if is_known else self._trace(trace_id, OLD_TRACE_PATH)
        if 300 <= reply.status < 400 or reply.status in (401, 403):
            raise self._http.refusal(reply, trace_id)
        if reply.status >= 400:
            return _Trace(error=self._http.refusal(reply, trace_id))
        try:
            if "protobuf" not in reply.content_type:
                trace, partial = trace_of_json(reply.content)
            elif path == OLD_TRACE_PATH:
                trace, partial = reply.content, False
            else:
                trace, partial = trace_of_protobuf(reply.content)
        except FrameError as e:
            return _Trace(error=self._http.not_its_api(reply, trace_id, e.got))
        if trace:
            self._trace_path = path
            return _Trace(trace, partial)
        self._check_tempo()
        return _unknown(trace_id)

    def _check_tempo(self) -> None:
        """Raise StoreUnreachable where this is not a Tempo: it would know no trace at all."""
        if not self._is_tempo:
            self.search("{}", 1, 2, limit=1)
            self._is_tempo = True

    def _stream(
        self, traceql: str, start: float, end: float, attributes: Sequence[str] | None
    ) -> SpansAnswer:
        """Query the lab's own store, for the requested columns only: JSON attributes cost most."""
        offered = self._bulk or frozenset()
        if attributes is None:
            columns = (offered - {"events", "resource"}) | {"attributes"}
        else:
            columns = offered & set(attributes)
            columns |= {"attributes"} if set(attributes) - offered else set()
            columns |= offered & {"events"} if EVENTS in attributes else set()
        params = {
            "q": traceql,
            **_whole_seconds(start, end),
            "whole_traces": "true",
            "limit": MAX_BULK_SPANS,
            "columns": ",".join([*SPAN_COLUMNS, *sorted(columns - set(SPAN_COLUMNS))]),
        }
        queried_at = time.time()
        reply = self._http.request(BULK_PATH, params, query=traceql)
        if reply.status >= 300:
            raise self._http.refusal(reply, traceql)
        provenance = self._provenance(traceql, start, end, queried_at, [reply])
        return SpansAnswer(provenance, arrow=reply.content)

    def _provenance(
        self, query: str, start: float, end: float, queried_at: float, replies: Sequence[Reply]
    ) -> Provenance:
        return Provenance(
            "Tempo",
            self.url,
            query,
            start,
            end,
            queried_at=queried_at,
            took_s=time.time() - queried_at,
            received_bytes=sum(len(reply.content) for reply in replies),
        )


def _unknown(trace_id: str) -> _Trace:
    error = NoData(
        f"Tempo does not know the trace {trace_id}",
        query=trace_id,
        fix="wait, since spans arrive late (`wait_for_traces`), or check the id and the store's "
        "retention",
    )
    return _Trace(error=error)


def _normalised(trace_id: str) -> str:
    """Return a trace id as 32 hex digits: some tools drop its leading zeros."""
    text = str(trace_id).strip().lower()
    if not re.fullmatch(r"[0-9a-f]{1,32}", text):
        raise StoreError(
            "this is not a trace id",
            got=repr(trace_id)[:100],
            fix="give up to 32 hexadecimal digits",
        )
    return text.zfill(32)


def _reasons(
    trace_ids: Sequence[str],
    problems: Mapping[str, str],
    counts: Mapping[str, int],
    before: Mapping[str, int],
) -> dict[str, str]:
    """Return why traces are not complete, by their number of spans now and at the query before."""
    reasons = {}
    for trace_id in trace_ids:
        count = counts.get(trace_id, 0)
        if problem := problems.get(trace_id):
            reasons[trace_id] = problem
        elif not count or count != before.get(trace_id):
            reasons[trace_id] = GROWING if count else NOTHING
    return reasons


def _whole_seconds(start: float, end: float) -> dict[str, int]:
    """Return the window as Tempo takes it: whole seconds, rounded outwards."""
    return {"start": int(start), "end": int(end) + 1}


def _unfinished(progress: _Progress | None) -> tuple[str, ...]:
    if progress is None or progress.completedJobs >= progress.totalJobs:
        return ()
    jobs = f"{progress.completedJobs} of {progress.totalJobs}"
    return (f"the search is not complete: {jobs} of its jobs were done",)


def _summary(trace: _Summary) -> TraceSummary:
    sets = trace.spanSets or ([trace.spanSet] if trace.spanSet else [])
    return TraceSummary(
        trace_id=trace.traceID.lower().zfill(32),  # Tempo drops leading zeros
        root_service=trace.rootServiceName,
        root_name=trace.rootTraceName,
        start=int(trace.startTimeUnixNano) / 1e9,
        duration_s=trace.durationMs / 1e3,
        matched=sum(s.matched for s in sets),
    )
