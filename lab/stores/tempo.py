"""Tempo's HTTP API: search, traces by id, and many spans at once (the lab's own store streams them as Arrow)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec

from lab.errors import NoData
from lab.schema import SPAN_ATTRIBUTES
from lab.settings import Settings
from lab.stores import byid
from lab.stores.answers import Provenance, SearchAnswer, SpansAnswer, TraceSummary
from lab.stores.byid import JSON, PROTOBUF
from lab.stores.http import Asker
from lab.stores.timestamps import Instant, window_s
from lab.stores.waiting import Arrival, Problems, wait

BULK_PATH = "/api/lab/spans"  # offered by lab.tracestore only; a Tempo answers 404
BULK_COLUMNS = (
    "trace_id", "span_id", "parent_span_id", "name", "kind", "service_name", "start_time_unix_nano",
    "end_time_unix_nano", "status", "status_message",
)  # fmt: skip
MAX_BULK_SPANS = 5_000_000
PARALLEL = 8
MAX_TRACES = 262_144  # the most that Tempo's search gives


class _SpanSet(msgspec.Struct):
    matched: int = 0


class _Found(msgspec.Struct):
    traceID: str
    rootServiceName: str = ""
    rootTraceName: str = ""
    startTimeUnixNano: str = "0"
    durationMs: int = 0
    spanSets: list[_SpanSet] = []
    spanSet: _SpanSet | None = None


class _Search(msgspec.Struct):
    traces: list[_Found] = []


_decode_search = msgspec.json.Decoder(_Search).decode


class Tempo:
    """Questions to one Tempo, or to the lab's own trace store. Take it from settings or from a base URL.

    Every question may raise StoreUnreachable (no answer) or QueryRejected (a refusal, with the server's words).
    """

    def __init__(
        self,
        where: Settings | str,
        *,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        url = where if isinstance(where, str) else where.endpoint("tempo")
        self.timeout_s = timeout_s or (30.0 if isinstance(where, str) else where.timeout_s)
        own = {} if isinstance(where, str) else where.store_headers
        self._asker = Asker("Tempo", url, self.timeout_s, {**own, **(headers or {})})
        self._bulk: frozenset[str] | None = (
            None  # columns of the bulk endpoint; unknown until first asked
        )

    @property
    def url(self) -> str:
        return self._asker.url

    def search(
        self, traceql: str, start: Instant, end: Instant, *, limit: int = 20
    ) -> SearchAnswer:
        """Traces with a span that matches, in the window. Which of more than `limit` come back is Tempo's choice."""
        first, last = window_s(start, end)
        asked_at, begun = time.time(), time.monotonic()
        params = {"q": traceql, **_whole_seconds(first, last), "limit": limit}
        body = self._asker.get("/api/search", params, accept=JSON, query=traceql)
        try:
            found = _decode_search(body).traces
        except msgspec.DecodeError as e:
            raise self._asker.not_its_api(body, traceql, str(e)) from e
        provenance = self._provenance(
            traceql, first, last, asked_at, begun, received_bytes=len(body)
        )
        return SearchAnswer(tuple(map(_summary, found)), len(found) >= limit, provenance)

    def trace(self, trace_id: str) -> SpansAnswer:
        """Every span of one trace. Raises NoData where the store does not know the id."""
        answer = self.traces([trace_id])
        if not answer.documents:
            raise NoData(
                f"Tempo does not know the trace {trace_id}",
                query=trace_id,
                fix="wait, since spans arrive late (`wait_for_traces`), or check the id and the store's retention",
            )
        return answer

    def traces(self, trace_ids: Iterable[str]) -> SpansAnswer:
        """Every span of these traces, asked for in parallel. Traces that the store does not know are left out."""
        ids = list(dict.fromkeys(trace_ids))
        return self._traces(ids, JSON)

    def _traces(self, ids: Sequence[str], form: str) -> SpansAnswer:
        asked_at, begun = time.time(), time.monotonic()
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="tempo") as pool:
            answers = list(pool.map(lambda i: self._document(i, form), ids))
        given = {came for came, document, _ in answers if document}
        if len(given) > 1:  # protobuf for some traces only
            return self._traces(ids, JSON)
        known = tuple(document for _, document, _ in answers if document)
        partial = tuple(i for i, (_, _, cut) in zip(ids, answers, strict=True) if cut)
        query = ids[0] if len(ids) == 1 else f"{len(ids)} traces by id"
        provenance = self._provenance(
            query,
            asked_at,
            asked_at,
            asked_at,
            begun,
            requests=len(ids),
            received_bytes=sum(map(len, known)),
        )
        if given == {PROTOBUF}:
            return SpansAnswer(provenance, protobufs=known, partial=partial)
        return SpansAnswer(provenance, documents=known, partial=partial)

    def spans(
        self,
        traceql: str,
        start: Instant,
        end: Instant,
        *,
        max_traces: int = 100_000,
        attributes: Sequence[str] | None = SPAN_ATTRIBUTES,
    ) -> SpansAnswer:
        """Every span of every trace with a span that matches, in the window (whole seconds, rounded outwards).

        The lab's own store streams them, with the attributes that are named (None: all). A real Tempo is searched
        for at most `max_traces` and asked for each, in parallel, as protobuf, which takes less than half of JSON's
        room and time to read; `limited` says that there may be more.
        """
        first, last = window_s(start, end)
        if self.streams:
            return self._stream(traceql, first, last, attributes)
        return self._search_and_fetch(traceql, first, last, min(max_traces, MAX_TRACES))

    @property
    def streams(self) -> bool:
        """Whether the server is the lab's own store, which streams many spans at once. Asks it the first time."""
        if self._bulk is None:
            response = self._asker.ask(BULK_PATH, {"q": "{}", "start": 1, "end": 2, "limit": 1})
            self._bulk = (
                _column_names(response.content) if response.status_code == 200 else frozenset()
            )
        return bool(self._bulk)

    def wait_for_traces(
        self,
        trace_ids: Iterable[str],
        *,
        timeout_s: float = 30.0,
        problems: Problems | None = None,
        window: tuple[Instant, Instant] | None = None,
    ) -> Arrival:
        """Wait, at most `timeout_s`, until these traces are complete; see `lab.stores.waiting.wait`."""
        return wait(self, trace_ids, timeout_s=timeout_s, problems=problems, window=window)

    def close(self) -> None:
        self._asker.close()

    def _document(self, trace_id: str, form: str) -> tuple[str, bytes, bool]:
        """(in which form it came, one trace as OTLP, whether the store calls it cut); b'' for an unknown one."""
        response = self._asker.ask(f"/api/v2/traces/{trace_id}", accept=form, query=trace_id)
        body = response.content
        if response.status_code == 404:
            return form, b"", False
        if response.status_code >= 400:
            raise self._asker.refusal(response.status_code, body, trace_id)
        given = PROTOBUF if "protobuf" in response.content_type else JSON
        try:
            return given, *(byid.of_protobuf(body) if given == PROTOBUF else byid.of_json(body))
        except ValueError as e:
            raise self._asker.not_its_api(body, trace_id, str(e)) from e

    def _search_and_fetch(self, traceql: str, start: float, end: float, limit: int) -> SpansAnswer:
        found = self.search(traceql, start, end, limit=limit)
        answer = self._traces(found.trace_ids, PROTOBUF)
        asked = answer.provenance
        provenance = Provenance(
            "Tempo", self.url, traceql, start, end,
            asked_at=found.provenance.asked_at, took_s=found.provenance.took_s + asked.took_s,
            requests=1 + asked.requests, received_bytes=found.provenance.received_bytes + asked.received_bytes,
        )  # fmt: skip
        return replace(answer, provenance=provenance, limited=found.limited)

    def _stream(
        self, traceql: str, start: float, end: float, attributes: Sequence[str] | None
    ) -> SpansAnswer:
        """From the lab's own store: only the columns that are wanted, since JSON of all attributes costs most."""
        offered = self._bulk or frozenset()
        wanted = (
            offered - {"events", "resource"} if attributes is None else offered & set(attributes)
        )
        loose = {"attributes"} if attributes is None or set(attributes) - offered else set()
        params = {
            "q": traceql, **_whole_seconds(start, end), "whole_traces": "true", "limit": MAX_BULK_SPANS,
            "columns": ",".join([*BULK_COLUMNS, *sorted((wanted | loose) - set(BULK_COLUMNS))]),
        }  # fmt: skip
        asked_at, begun = time.time(), time.monotonic()
        body = self._asker.get(BULK_PATH, params, query=traceql)
        return SpansAnswer(
            self._provenance(traceql, start, end, asked_at, begun, received_bytes=len(body)),
            arrow=body,
        )

    def _provenance(
        self, query: str, start: float, end: float, asked_at: float, begun: float, **more: Any
    ) -> Provenance:
        took_s = time.monotonic() - begun
        return Provenance(
            "Tempo", self.url, query, start, end, asked_at=asked_at, took_s=took_s, **more
        )


def _whole_seconds(start: float, end: float) -> dict[str, int]:
    """The window as Tempo takes it: whole seconds, rounded outwards."""
    return {"start": int(start), "end": int(end) + 1}


def _column_names(stream: bytes) -> frozenset[str]:
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(stream) as reader:
            return frozenset(reader.schema.names)
    except pa.ArrowInvalid:  # something else answers 200 to everything
        return frozenset()


def _summary(found: _Found) -> TraceSummary:
    sets = found.spanSets or ([found.spanSet] if found.spanSet else [])
    return TraceSummary(
        trace_id=found.traceID.zfill(32),  # Tempo drops leading zeros
        root_service=found.rootServiceName,
        root_name=found.rootTraceName,
        start=int(found.startTimeUnixNano) / 1e9,
        duration_s=found.durationMs / 1e3,
        matched=sum(s.matched for s in sets),
    )
