"""Serve HTTP with many kinds of misbehaviour, each named in MISBEHAVIOURS."""

from __future__ import annotations

import gzip
import itertools
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Chunks = Iterator[bytes]
DEPTH = 100_000


def response(
    body: bytes, status: str = "200 OK", kind: str = "application/json", extra: str = ""
) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nContent-Type: {kind}\r\n{extra}"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def always(*args: object, **kwargs: object) -> Callable[[], Chunks]:
    """Return the same response to every request."""
    return lambda: iter([response(*args, **kwargs)])  # type: ignore[arg-type]


def success(data: object) -> Callable[[], Chunks]:
    return always(json.dumps({"status": "success", "data": data}).encode())


def slowly(data: bytes) -> Callable[[], Chunks]:
    """Send one byte per 50 ms, so that every single read stays within the socket's timeout."""

    def chunks() -> Chunks:
        for i in range(len(data)):
            time.sleep(0.05)
            yield data[i : i + 1]

    return chunks


def endlessly(head: bytes, piece: bytes) -> Callable[[], Chunks]:
    return lambda: itertools.chain([head], itertools.repeat(piece))


def matrix(values: object) -> Callable[[], Chunks]:
    return success({"resultType": "matrix", "result": [{"metric": {"le": "1"}, "values": values}]})


def trace(**span: object) -> Callable[[], Chunks]:
    spans = [{"traceId": "0" * 31 + "1", "spanId": "0" * 15 + "1", "name": "x", **span}]
    return always(
        json.dumps({"trace": {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}}).encode()
    )


NESTED = b"[" * DEPTH + b"]" * DEPTH
NESTED_OBJECT = b'{"data":' * DEPTH + b"1" + b"}" * DEPTH
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MISBEHAVIOURS: dict[str, Callable[[], Chunks]] = {
    "nothing": lambda: iter(()),
    "garbage": lambda: iter([b"\x00\xff\x00 not HTTP\r\n\r\n"]),
    "bad status line": lambda: iter([b"HTTP/1.1 abc OK\r\n\r\n{}"]),
    "empty": always(b""),
    "no content": always(b"", status="204 No Content"),
    "null": always(b"null"),
    "a list": always(b"[]"),
    "a text": always(b'"x"'),
    "an object": always(b"{}"),
    "another object": always(b'{"message":"hello"}'),
    "status only": always(b'{"status":"success"}'),
    "data null": success(None),
    "data a text": success("x"),
    "data a list of objects": success([{"a": 1}]),
    "unknown result type": success({"resultType": "table", "result": []}),
    "result null": success({"resultType": "matrix", "result": None}),
    "result of texts": success({"resultType": "vector", "result": ["x"]}),
    "values missing": success({"resultType": "matrix", "result": [{"metric": {}}]}),
    "labels of numbers": success({"resultType": "matrix", "result": [{"metric": {"a": 1}}]}),
    "values null": matrix(None),
    "values an object": matrix({}),
    "values of lists": matrix([[]]),
    "times of texts": matrix([["x", "1"]]),
    "times too large": matrix([[1e300, "1"]]),
    "values of texts": matrix([[1, "much"]]),
    "targets of texts": success({"activeTargets": ["x"]}),
    "targets with odd times": success({"activeTargets": [{"lastScrape": "yesterday"}]}),
    "targets without labels": success({"activeTargets": [{"labels": None}]}),
    "no targets": success({"activeTargets": []}),
    "nested list": always(NESTED),
    "nested object": always(NESTED_OBJECT),
    "nested data": always(b'{"status":"success","data":' + NESTED + b"}"),
    "nested result": always(
        b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":'
        + NESTED
        + b"}]}}"
    ),
    "bad UTF-8": always(b'{"status":"success","data":["\xff\xfe"],"traces":[{"traceID":"\xff"}]}'),
    "a huge number": always(b'{"status":"success","data":' + b"9" * 5_000 + b"}"),
    "traces of texts": always(b'{"traces":["x"]}'),
    "odd trace times": always(b'{"traces":[{"traceID":"1","startTimeUnixNano":"abc"}]}'),
    "huge trace times": always(
        b'{"traces":[{"traceID":"1","startTimeUnixNano":"' + b"9" * 4_000 + b'"}]}'
    ),
    "span times of texts": trace(startTimeUnixNano="abc"),
    "span times too large": trace(startTimeUnixNano="18446744073709551616"),
    "an unknown kind": trace(kind=77),
    "a short id": trace(spanId="AAA="),
    "no id": trace(spanId=None),
    "nested attributes": trace(attributes=[{"key": "k", "value": {"arrayValue": 5}}]),
    "HTML": always(b"<html><title>x</title></html>", kind="text/html"),
    "Grafana": always(b"<title>Grafana</title> grafanaBootData", kind="text/html"),
    "login page": always(b'<form><input type="password"></form>', kind="text/html"),
    "redirect to a login": always(b"", status="302 Found", extra="Location: /login?next=%2F\r\n"),
    "redirect to itself": always(b"", status="307 Temporary", extra="Location: /\r\n"),
    "not found": always(b"404 page not found", status="404 Not Found", kind="text/plain"),
    "not allowed": always(b"", status="405 Method Not Allowed"),
    "unauthorised": always(b"no org id", status="401 Unauthorized", kind="text/plain"),
    "forbidden": always(b'{"message":"Missing Authentication Token"}', status="403 Forbidden"),
    "broken": always(b"\xff" * 2_000, status="500 Internal Server Error"),
    "not ready": always(b"", status="503 Service Unavailable"),
    "Arrow's mark": always(b"ARROW1\x00\x00" * 50, kind="application/vnd.apache.arrow.stream"),
    "Arrow's length": always(b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"\x00" * 64),
    "Arrow's zeros": always(b"\x00" * 4_096),
    "not protobuf": always(b"\x0a\xff\xff\xff\xff", kind="application/protobuf"),
    "protobuf of another message": always(b"\x0a\x02\x08\x01" * 9, kind="application/protobuf"),
    "not gzip": always(b"\x1f\x8bxx", extra="Content-Encoding: gzip\r\n"),
    "a gzip bomb": always(gzip.compress(b"[" * 50_000_000), extra="Content-Encoding: gzip\r\n"),
    "cut": lambda: iter([HEAD + b"Content-Length: 500\r\n\r\n{"]),
    "bad chunks": lambda: iter([HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}"]),
    "slow body": slowly(response(b'{"status":"success","data":[]}' + b" " * 300)),
    "slow head": slowly(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 5_000),
    "endless body": endlessly(HEAD + b"\r\n", b" " * 65_536),
    "endless head": endlessly(b"HTTP/1.1 200 OK\r\n", b"X: " + b"a" * 1_000 + b"\r\n"),
    "endless continue": endlessly(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
}


@contextmanager
def misbehaving(kind: str) -> Iterator[str]:
    """Serve one kind of misbehaviour in threads until the block ends, and yield the base URL."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass  # the request
            try:
                for chunk in MISBEHAVIOURS[kind]():
                    self.wfile.write(chunk)
            except OSError:
                pass  # the client closed the connection

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
