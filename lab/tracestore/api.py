"""Tempo's HTTP API, over an Engine.

Shapes, parameters, defaults, limits and error codes follow Tempo; see README.md.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import duckdb
import msgspec
from aiohttp import web
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from lab.tracestore import http_params as params
from lab.tracestore.anyvalue import double_to_json
from lab.tracestore.errors import BadRequest, TraceStoreError
from lab.tracestore.guard import PAGE_HEADER
from lab.tracestore.legacy import legacy_query
from lab.tracestore.otlp_http import ENGINE
from lab.tracestore.otlp_json import as_protobuf_json
from lab.tracestore.rebuild import trace_by_id_response, traces
from lab.tracestore.search import SearchRequest, read_query, search
from lab.tracestore.tags import TagRequest, read_tag, read_tag_v1, tag_names, tag_values
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.spansets import Window

if TYPE_CHECKING:  # with numpy and pyarrow, for which the start does not wait
    from lab.tracestore.metrics_source import MetricsRequest
    from lab.tracestore.seriesops import Series

log = logging.getLogger("lab.tracestore.api")

PROTOBUF = "application/protobuf"
_PAGE = Path(__file__).with_name("page.html")
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)
MAX_SEARCH_HOURS = 168
MAX_METRICS_HOURS = 24
MAX_BULK_SPANS = 5_000_000
VERSION = "3.0.3"  # the Tempo whose answers we follow

_INCOMPLETE = "incomplete"  # set on requests whose answer lacks acknowledged spans

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as Tempo words them: the status code, and plain text. Every query is timed."""
    engine = request.app[ENGINE]
    started = time.monotonic()
    route = request.match_info.route.resource
    endpoint = route.canonical if route else "unknown"
    code = 500
    try:
        response = await handler(request)
        code = response.status
        return response
    except web.HTTPException as e:
        code = e.status
        raise
    except TraceStoreError as e:
        code = e.status
        headers = {"Retry-After": str(e.retry_after_s)} if hasattr(e, "retry_after_s") else None
        return web.Response(status=e.status, text=str(e), headers=headers)
    except Exception:
        log.exception(
            "a query failed", extra={"endpoint": endpoint, "query": request.query_string[:1000]}
        )
        return web.Response(status=500, text="internal error; the trace store's log says more")
    finally:
        engine.telemetry.query_s.labels(endpoint, str(code)).observe(time.monotonic() - started)


async def ask(request: web.Request, question: Callable[[duckdb.DuckDBPyConnection], Any]) -> Any:
    """Run a question in the query pool."""
    engine = request.app[ENGINE]
    query = functools.partial(engine.query, question, on_incomplete=_marker(request))
    return await asyncio.get_running_loop().run_in_executor(engine.pool, query)


def _marker(request: web.Request) -> Callable[[], None]:
    """Return a function that marks the answer to a request as incomplete."""
    return lambda: request.__setitem__(_INCOMPLETE, True)


async def _add_incomplete(request: web.Request, response: web.StreamResponse) -> None:
    if _INCOMPLETE in request:
        response.headers["X-Lab-Incomplete"] = "acknowledged spans cannot be queried yet"


def json_response(obj: Any, status: int = 200) -> web.Response:
    """Return an answer in JSON."""
    return web.Response(
        status=status, body=msgspec.json.encode(obj), content_type="application/json"
    )


def add_routes(app: web.Application) -> None:
    """Add Tempo's routes, `/metrics`, the page and the bulk endpoint to an application.

    It has an Engine under `ENGINE`.
    """
    app.on_response_prepare.append(_add_incomplete)
    get = app.router.add_get
    get("/", page)
    get("/ready", ready)
    get("/metrics", own_metrics)
    get("/api/echo", echo)
    get("/api/status/buildinfo", build_info)
    get("/api/traces/{id}", trace_v1)
    get("/api/v2/traces/{id}", trace_v2)
    get("/api/search", search_traces)
    get("/api/search/tags", tags_v1)
    get("/api/search/tag/{tag:.+}/values", tag_values_v1)
    get("/api/v2/search/tags", tags_v2)
    get("/api/v2/search/tag/{tag:.+}/values", tag_values_v2)
    get("/api/metrics/query_range", query_range)
    get("/api/metrics/query", query_instant)
    get("/api/lab/spans", bulk_spans)
    get("/api/lab/status", status)
    app.router.add_post("/api/lab/export", export_spans)


async def page(request: web.Request) -> web.StreamResponse:
    """Recent traces and a waterfall, for whoever has no Grafana: one static file."""
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": _PAGE_POLICY}
    return web.FileResponse(_PAGE, headers=headers)


async def ready(request: web.Request) -> web.Response:
    """200 once spans are accepted and a query is answered; until then 503."""
    engine = request.app[ENGINE]
    if not engine.ready:
        return web.Response(status=503, text="starting: the log is being replayed")
    if fault := engine.fault:
        return web.Response(status=503, text=str(fault))
    query = functools.partial(engine.query, _any_span, wait_s=0)
    await asyncio.get_running_loop().run_in_executor(engine.pool, query)
    return web.Response(text="ready")


def _any_span(con: duckdb.DuckDBPyConnection) -> object:
    return con.execute("SELECT 1 FROM spans LIMIT 1").fetchall()


async def own_metrics(request: web.Request) -> web.Response:
    """Answer with the store's own Prometheus metrics."""
    engine = request.app[ENGINE]
    engine.refresh_gauges()
    return web.Response(
        body=engine.telemetry.text(),
        headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
    )


async def status(request: web.Request) -> web.Response:
    """Answer with readiness, sizes and damage as JSON (ours, not Tempo's)."""
    engine = request.app[ENGINE]
    return json_response(await asyncio.to_thread(engine.status))


async def echo(request: web.Request) -> web.Response:
    """Answer as Tempo's echo does, by which Grafana tests a data source."""
    return web.Response(text="echo")


async def build_info(request: web.Request) -> web.Response:
    """Answer with the version of Tempo that is followed."""
    return json_response(
        {
            "version": VERSION,
            "revision": "lab.tracestore",
            "branch": "",
            "buildUser": "",
            "buildDate": "",
            "goVersion": "",
        }
    )


async def _trace(request: web.Request) -> TracesData:
    trace_id: UUID = params.trace_id(request.match_info["id"])
    params.window_s(request.query)
    return await ask(request, lambda con: traces(con, [trace_id]))


def _wants_protobuf(request: web.Request) -> bool:
    accept = request.headers.get("Accept", "")
    return PROTOBUF in accept or "application/x-protobuf" in accept


async def trace_v1(request: web.Request) -> web.Response:
    """`{"batches": [...]}` or a protobuf Trace; 404 for an unknown id."""
    found = await _trace(request)
    if not found.resource_spans:
        return web.Response(status=404, text="trace not found")
    if _wants_protobuf(request):
        return web.Response(body=found.SerializeToString(), content_type=PROTOBUF)
    return json_response({"batches": as_protobuf_json(found)["resourceSpans"]})


async def trace_v2(request: web.Request) -> web.Response:
    """`{"trace": {"resourceSpans": [...]}}` or a protobuf TraceByIDResponse.

    An empty trace for an unknown id.
    """
    found = await _trace(request)
    if _wants_protobuf(request):
        return web.Response(body=trace_by_id_response(found), content_type=PROTOBUF)
    return json_response({"trace": as_protobuf_json(found), "metrics": {}})


async def search_traces(request: web.Request) -> web.Response:
    """Traces that match `q` (TraceQL), or the older `tags`, `minDuration`, `maxDuration`."""
    q = request.query
    if q.get("q") and q.get("tags"):
        raise BadRequest("invalid request: can't specify tags and q in the same query")

    start_ns, end_ns = params.window_s(q, max_hours=MAX_SEARCH_HOURS)
    wanted = SearchRequest(
        query=read_query(q.get("q", "") or legacy_query(q)),
        start_ns=start_ns,
        end_ns=end_ns,
        limit=params.integer(q, "limit", 20, low=1, high=262_144),
        spans_per_set=params.integer(q, "spss", 3, low=0, high=100) or 100,
    )
    store = request.app[ENGINE].store
    return json_response(await ask(request, lambda con: search(store, con, wanted)))


def _window(request: web.Request) -> Window:
    start_ns, end_ns = params.window_s(request.query)
    return Window(start_ns, end_ns)


def _tag_request(request: web.Request) -> TagRequest:
    q = request.query
    limit = params.integer(q, "limit", 0)
    return TagRequest(q.get("scope", ""), q.get("q", ""), _window(request), limit)


async def _tag_names(request: web.Request) -> list[dict[str, Any]]:
    store = request.app[ENGINE].store
    conditions = _tag_request(request)
    return await ask(request, lambda con: tag_names(store, con, conditions))


async def tags_v2(request: web.Request) -> web.Response:
    """Answer with the tag names of each scope."""
    scopes = await _tag_names(request)
    return json_response({"scopes": scopes, "metrics": {"completedJobs": 1, "totalJobs": 1}})


async def tags_v1(request: web.Request) -> web.Response:
    """Answer with tag names without their scopes; intrinsics only where that scope is requested."""
    intrinsic = request.query.get("scope") == "intrinsic"
    scopes = [s for s in await _tag_names(request) if intrinsic or s["name"] != "intrinsic"]
    return json_response(
        {"tagNames": sorted({t for s in scopes for t in s["tags"]}), "metrics": {}}
    )


async def _values(request: web.Request, tag: ast.Attribute | ast.Intrinsic) -> list[dict[str, str]]:
    store = request.app[ENGINE].store
    conditions = _tag_request(request)
    return await ask(request, lambda con: tag_values(store, con, tag, conditions))


async def tag_values_v2(request: web.Request) -> web.Response:
    """Answer with the values of a tag and their types."""
    values = await _values(request, read_tag(request.match_info["tag"]))
    return json_response({"tagValues": values, "metrics": {"completedJobs": 1, "totalJobs": 1}})


async def tag_values_v1(request: web.Request) -> web.Response:
    """Answer with the values of a tag as text."""
    values = await _values(request, read_tag_v1(request.match_info["tag"]))
    return json_response({"tagValues": sorted({v.get("value", "") for v in values}), "metrics": {}})


def _metrics_query(request: web.Request) -> ast.MetricsQuery:
    from lab.tracestore.series import read_metrics_query

    text = request.query.get("q") or request.query.get("query") or ""
    if not text:
        raise BadRequest("missing query", fix="give a TraceQL metrics query as q")
    return read_metrics_query(text)


async def query_range(request: web.Request) -> web.Response:
    """Answer a TraceQL metrics query over a range: series of samples."""
    from lab.tracestore.series import default_step_ns, evaluate, exemplars_of, range_request

    q = request.query
    query = _metrics_query(request)
    start_ns, end_ns = params.metrics_window(q, max_hours=MAX_METRICS_HOURS)
    step_ns = params.step_ns(q) if q.get("step") else default_step_ns(start_ns, end_ns)
    conditions = range_request(
        query,
        start_ns,
        end_ns,
        step_ns,
        exact=params.flag(q, "exact"),
        exemplars=exemplars_of(query, params.integer(q, "exemplars", 0)),
    )
    store = request.app[ENGINE].store
    result = await ask(request, lambda con: evaluate(store, con, conditions))
    series = [_samples(s, conditions) for s in result.series]
    return json_response(_metrics_answer(series, conditions, result.message))


async def query_instant(request: web.Request) -> web.Response:
    """Answer a TraceQL metrics query over the whole range at once: one value per series."""
    from lab.tracestore.metrics_source import MetricsRequest
    from lab.tracestore.series import evaluate

    q = request.query
    query = _metrics_query(request)
    start_ns, end_ns = params.metrics_window(q, max_hours=MAX_METRICS_HOURS)
    conditions = MetricsRequest(
        query, start_ns, end_ns, end_ns - start_ns, instant=True, exact=params.flag(q, "exact")
    )
    store = request.app[ENGINE].store
    result = await ask(request, lambda con: evaluate(store, con, conditions))
    series = [
        {"labels": _labels(s), "value": double_to_json(float(s.values[0]))} for s in result.series
    ]
    return json_response(_metrics_answer(series, conditions, result.message))


def _metrics_answer(
    series: list[dict[str, Any]], conditions: MetricsRequest, message: str
) -> dict[str, Any]:
    answer: dict[str, Any] = {"series": series, "metrics": {"completedJobs": 1, "totalJobs": 1}}
    if conditions.exact:
        answer["message"] = (
            "exact quantiles, which Tempo does not give: not comparable with Tempo's log2 buckets"
        )
    if message:
        answer["status"] = "PARTIAL"
        answer["message"] = message
    return answer


def _labels(series: Series) -> list[dict[str, Any]]:
    return [{"key": label.name, "value": label.value} for label in series.labels]


def _samples(series: Series, conditions: MetricsRequest) -> dict[str, Any]:
    samples = [
        {"timestampMs": str(conditions.timestamp_ms(i)), "value": double_to_json(v)}
        for i, v in enumerate(series.values.tolist())
        if v == v
    ]
    found = {"labels": _labels(series), "samples": samples}
    if series.exemplars:
        found["exemplars"] = series.exemplars
    return found


async def bulk_spans(request: web.Request) -> web.StreamResponse:
    """Return the spans of a TraceQL filter as an Arrow IPC stream (ours, not Tempo's)."""
    from lab.tracestore import bulk

    q = request.query
    engine = request.app[ENGINE]
    spans = functools.partial(
        bulk.spans,
        engine.store,
        query=read_query(q.get("q", "")),
        window=_window(request),
        whole_traces=params.flag(q, "whole_traces"),
        columns=bulk.read_columns(q.get("columns", "")),
        limit=params.integer(q, "limit", MAX_BULK_SPANS, low=1, high=MAX_BULK_SPANS),
    )
    parts: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(maxsize=4)
    loop = asyncio.get_running_loop()

    def put(part: bytes | Exception | None) -> None:
        asyncio.run_coroutine_threadsafe(parts.put(part), loop).result(timeout=60)

    def produce(con: duckdb.DuckDBPyConnection) -> None:
        for part in bulk.ipc_stream(spans(con)):
            put(part)

    def run() -> None:
        try:
            engine.query(produce, on_incomplete=_marker(request))
            put(None)
        except Exception as e:
            put(e)

    running = loop.run_in_executor(engine.pool, run)
    response = await _send_parts(request, parts, bulk.MEDIA_TYPE)
    await running
    await response.write_eof()
    return response


async def _send_parts(
    request: web.Request, parts: asyncio.Queue[bytes | Exception | None], media_type: str
) -> web.StreamResponse:
    """Send what comes through a queue until None.

    Raises the exception that comes first, or ConnectionResetError for one that comes later.
    """
    part = await parts.get()
    if isinstance(part, Exception):
        raise part

    response = web.StreamResponse(headers={"Content-Type": media_type})
    await response.prepare(request)
    while part is not None:
        if isinstance(part, Exception):
            log.error("a bulk answer broke off", extra={"error": repr(part)})
            response.force_close()
            raise ConnectionResetError("the answer broke off")
        await response.write(part)
        part = await parts.get()
    return response


async def export_spans(request: web.Request) -> web.Response:
    """Write a window as Parquet into a new folder below the store's `exports` (not in Tempo).

    The request needs a header `X-Lab-Request`, which a web page cannot send without the store's
    consent.
    """
    from lab.tracestore.archive import export_window

    if PAGE_HEADER not in request.headers:
        return web.Response(
            status=403, text=f"an export needs a header {PAGE_HEADER}: send it with any value"
        )

    engine = request.app[ENGINE]
    q = request.query
    name = q.get("name", "")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise BadRequest("invalid name: letters, digits, . _ - only", got=repr(name[:100]))
    window = _window(request)
    folder = engine.folder / "exports" / name
    count = await ask(
        request, lambda con: export_window(con, folder, window.start_ns, window.end_ns)
    )
    return json_response({"spans": count, "folder": str(folder.resolve())})
