"""Tempo's HTTP API, over an Engine. Shapes, parameters, defaults, limits and error codes follow Tempo; see
README.md."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import duckdb
import msgspec
from aiohttp import web
from google.protobuf import json_format
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from lab.tracestore import http_params as params
from lab.tracestore.errors import TraceStoreError
from lab.tracestore.legacy import legacy_query
from lab.tracestore.otlp_http import ENGINE
from lab.tracestore.rebuild import traces
from lab.tracestore.search import SearchRequest, read_query, search
from lab.tracestore.tempopb import trace_by_id_response

log = logging.getLogger("lab.tracestore.api")

PROTOBUF = "application/protobuf"
MAX_SEARCH_HOURS = 168
VERSION = "3.0.3"  # the Tempo whose answers we follow

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as Tempo words them: the status code, and plain text. Every query is timed."""
    engine, started = request.app[ENGINE], time.monotonic()
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
        log.exception("a query failed", extra={"endpoint": endpoint, "query": request.query_string[:1000]})
        return web.Response(status=500, text="internal error; the trace store's log says more")
    finally:
        engine.telemetry.query_s.labels(endpoint, str(code)).observe(time.monotonic() - started)


async def ask(request: web.Request, question: Callable[[duckdb.DuckDBPyConnection], Any]) -> Any:
    """Run a question in the query pool."""
    engine = request.app[ENGINE]
    return await asyncio.get_running_loop().run_in_executor(engine.pool, engine.query, question)


def json_response(obj: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(obj), content_type="application/json")


def add_routes(app: web.Application) -> None:
    """Add Tempo's routes, `/metrics`, the page and the bulk endpoint to an application with an Engine under
    `ENGINE`."""
    get = app.router.add_get
    get("/ready", ready)
    get("/metrics", own_metrics)
    get("/api/echo", echo)
    get("/api/status/buildinfo", build_info)
    get("/api/traces/{id}", trace_v1)
    get("/api/v2/traces/{id}", trace_v2)
    get("/api/search", search_traces)


async def ready(request: web.Request) -> web.Response:
    """200 once spans are accepted and a query is answered; until then 503."""
    engine = request.app[ENGINE]
    if not engine.ready:
        return web.Response(status=503, text="starting: the log is being replayed")
    await ask(request, lambda con: con.execute("SELECT 1 FROM spans LIMIT 1").fetchall())
    return web.Response(text="ready")


async def own_metrics(request: web.Request) -> web.Response:
    engine = request.app[ENGINE]
    engine.refresh_gauges()
    return web.Response(
        body=engine.telemetry.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )


async def echo(request: web.Request) -> web.Response:
    return web.Response(text="echo")


async def build_info(request: web.Request) -> web.Response:
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
    return json_response({"batches": json_format.MessageToDict(found).get("resourceSpans", [])})


async def trace_v2(request: web.Request) -> web.Response:
    """`{"trace": {"resourceSpans": [...]}}` or a protobuf TraceByIDResponse; an empty trace for an unknown id."""
    found = await _trace(request)
    if _wants_protobuf(request):
        return web.Response(body=trace_by_id_response(found), content_type=PROTOBUF)
    return json_response({"trace": json_format.MessageToDict(found), "metrics": {}})


async def search_traces(request: web.Request) -> web.Response:
    """Traces that match `q` (TraceQL), or the older `tags`, `minDuration`, `maxDuration`."""
    q = request.query
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
