"""OTLP over HTTP: POST /v1/traces, protobuf or JSON, plain or gzip."""

from __future__ import annotations

import asyncio
import zlib

import msgspec
from aiohttp import web
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from lab.tracestore import admission
from lab.tracestore.engine import Engine
from lab.tracestore.errors import BadRequest, StoreBroken, TooLarge, TooSlow, TraceStoreError
from lab.tracestore.ingest import Accepted
from lab.tracestore.otlp_json import request_from_json

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
MAX_BODY_BYTES = 32 * 2**20
_MAX_MEMBERS = 10_000  # of one gzip body
_GRPC_CODE = {400: 3, 408: 4, 413: 3, 415: 3, 429: 8, 503: 14}
BODY_TIMEOUT_S = 60.0  # for all of one body
_GUNZIP_HERE_BYTES = 2**16  # larger ones leave the event loop
ENGINE = web.AppKey("engine", Engine)
BUDGET = web.AppKey("budget", admission.BodyBudget)
_GUNZIP_SLOTS = web.AppKey("gunzip_slots", asyncio.Semaphore)


def add_routes(app: web.Application) -> None:
    """Add the OTLP routes to an application that holds an Engine under `ENGINE`."""
    app[BUDGET] = admission.BodyBudget()
    app[_GUNZIP_SLOTS] = asyncio.Semaphore(2)  # each holds up to `MAX_BODY_BYTES`
    app.router.add_post("/v1/traces", export)


async def export(request: web.Request) -> web.Response:
    """Accept spans; answer 200 once they are durable.

    Otherwise: 400 unreadable, 408 body too slow, 413 too large, 415 unknown type, 429 or 503 try
    again later.
    """
    engine = request.app[ENGINE]
    content_type = request.content_type
    is_json = content_type == JSON
    try:
        if content_type not in (PROTOBUF, JSON):
            return _refuse(
                engine, 415, f"content type {content_type} is not {PROTOBUF} or {JSON}", False
            )
        with request.app[BUDGET].body() as flight:
            body = await _body(request, flight)
            if is_json:
                admission.check_json(body)
                loop = asyncio.get_running_loop()
                body = await loop.run_in_executor(engine.json_pool, _json_to_protobuf, body)
            if not engine.ready:
                raise StoreBroken("the trace store is not ready yet", retry_after_s=1)
            if fault := engine.fault:
                raise fault
            accepted = await asyncio.wrap_future(engine.ingest.submit(body))
    except TraceStoreError as e:
        return _refuse(engine, e.status, str(e), is_json, getattr(e, "retry_after_s", None))
    return _accept(accepted, is_json)


async def _body(request: web.Request, flight: admission.Body) -> bytes:
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise _too_large(request.content_length)
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("identity", "gzip"):
        raise BadRequest(f"content encoding {encoding!r} is not known", fix="send gzip or nothing")

    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            raw = await _receive(request, flight)
    except TimeoutError as e:
        raise TooSlow(
            f"the body did not arrive within {BODY_TIMEOUT_S:g} s", got=f"{flight.size} bytes"
        ) from e
    except (web.RequestPayloadError, ConnectionError) as e:
        raise BadRequest("the body broke off", got=f"{flight.size} bytes") from e
    if encoding == "identity":
        return raw
    if len(raw) < _GUNZIP_HERE_BYTES:
        body = _gunzip(raw)
    else:
        async with request.app[_GUNZIP_SLOTS]:
            body = await asyncio.to_thread(_gunzip, raw)
    flight.grow(len(body))
    return body


async def _receive(request: web.Request, flight: admission.Body) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := await request.content.readany():
        flight.grow(len(part))
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _too_large(size)
        parts.append(part)
    return b"".join(parts)


def _gunzip(raw: bytes) -> bytes:
    """Decompress every member of a gzip stream (RFC 1952, 2.2), to `MAX_BODY_BYTES` in all.

    Raises TooLarge over the cap or over `_MAX_MEMBERS`, BadRequest for anything else than whole
    members.
    """
    parts: list[bytes] = []
    room = MAX_BODY_BYTES
    position = 0
    for _ in range(_MAX_MEMBERS):
        part, position = _gunzip_member(raw, position, room)
        parts.append(part)
        room -= len(part)
        if position == len(raw):
            return b"".join(parts)
    raise TooLarge(f"the gzip body has more than {_MAX_MEMBERS} members", fix="send one")


def _gunzip_member(raw: bytes, position: int, room: int) -> tuple[bytes, int]:
    """Decompress one member; return it and the position behind it."""
    unzip = zlib.decompressobj(wbits=31)
    parts: list[bytes] = []
    size = 1024  # small at first, because zlib copies what lies behind a member
    while not unzip.eof:
        piece = raw[position : position + size]
        if not piece:
            raise BadRequest("the gzip body ends too early", got=f"{len(raw)} bytes")
        try:
            part = unzip.decompress(piece, room + 1)
        except zlib.error as e:
            raise BadRequest("the body is not valid gzip", got=str(e)) from e
        room -= len(part)
        if room < 0:
            raise _too_large(None)
        parts.append(part)
        position += len(piece) - len(unzip.unused_data)
        size = min(size * 2, 2**18)
    return b"".join(parts), position


def _too_large(size: int | None) -> TooLarge:
    return TooLarge(
        f"the body is larger than {MAX_BODY_BYTES} bytes",
        got=f"{size} bytes" if size else "",
        fix="send smaller batches",
    )


def _json_to_protobuf(body: bytes) -> bytes:
    try:
        return request_from_json(msgspec.json.decode(body)).SerializeToString()
    except (
        msgspec.DecodeError,
        json_format.ParseError,
        ValueError,
        TypeError,
        RecursionError,
    ) as e:
        raise BadRequest("the body is not OTLP JSON", got=str(e)[:300]) from e


def _accept(accepted: Accepted, is_json: bool) -> web.Response:
    answer = ExportTraceServiceResponse()
    if accepted.rejected:
        answer.partial_success.rejected_spans = accepted.rejected
        answer.partial_success.error_message = accepted.why
    if is_json:
        return web.Response(text=json_format.MessageToJson(answer, indent=None), content_type=JSON)
    return web.Response(body=answer.SerializeToString(), content_type=PROTOBUF)


def _refuse(
    engine: Engine, code: int, message: str, is_json: bool, retry_after_s: int | None = None
) -> web.Response:
    engine.telemetry.requests_refused.labels(str(code)).inc()
    status = Status(code=_GRPC_CODE.get(code, 2), message=message)
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else None
    if is_json:
        text = json_format.MessageToJson(status, indent=None)
        return web.Response(status=code, text=text, content_type=JSON, headers=headers)
    return web.Response(
        status=code, body=status.SerializeToString(), content_type=PROTOBUF, headers=headers
    )
