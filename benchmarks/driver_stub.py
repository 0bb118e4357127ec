"""A chat server whose true time to first token is known; it also measures its own lateness.

Run it as a separate process: `python -m benchmarks.driver_stub --port 0 ...` prints its port. It
streams chunks on a timer at `POST /v1/chat/completions` and serves `GET /v1/models`. `GET /stats`
returns, for every request, the time from the complete request to the first token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from time import perf_counter, process_time

MODEL = "stub"


class Stub(asyncio.Protocol):
    """A connection that serves one request at a time, driven by timers."""

    first_s: float
    chunk_s: float
    chunks: int
    written_after_s: list[float] = []

    def __init__(self) -> None:
        self.buffer = b""
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Handle the request once it is complete."""
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        body_start = end + 4
        body_end = body_start + length
        if len(self.buffer) < body_end:
            return
        body = self.buffer[body_start:body_end]
        self.buffer = b""

        request_line = head.split(b"\r\n")[0]
        if head.startswith(b"post"):
            self._complete(json.loads(body).get("stream", False))
        elif b"/stats" in request_line:
            self._json({"written_after_s": Stub.written_after_s, "cpu_s": process_time()})
            Stub.written_after_s = []
        elif b"/v1/models" in request_line:
            model = {"id": MODEL, "object": "model", "owned_by": "stub"}
            self._json({"object": "list", "data": [model]})
        else:
            self._json({"status": "ok"})

    def _json(self, value: dict) -> None:
        body = json.dumps(value).encode()
        head = (
            b"HTTP/1.1 200 OK\r\n"
            b"content-type: application/json\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        self.transport.write(head + body)

    def _complete(self, stream: bool) -> None:
        self.begun = perf_counter()
        self.sent = 0
        if stream:
            self.timer = asyncio.get_running_loop().call_later(Stub.first_s, self._write_chunk)
        else:
            self._json(_COMPLETION)

    def _write_chunk(self) -> None:
        if self.sent == 0:
            Stub.written_after_s.append(perf_counter() - self.begun)
            self.transport.write(_HEAD + _TOKEN)
        elif self.sent < Stub.chunks:
            self.transport.write(_TOKEN)
        else:
            self.transport.write(_LAST)
            return
        self.sent += 1
        self.timer = asyncio.get_running_loop().call_later(Stub.chunk_s, self._write_chunk)


_COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "tok"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 16, "completion_tokens": 1, "total_tokens": 17},
}


def _event(value: dict | str) -> bytes:
    """Return a server-sent event as one HTTP chunk."""
    data = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    line = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(line), line)


def _chunk(delta: dict, finish: str | None = None) -> dict:
    choice = {
        "index": 0,
        "delta": delta,
        "logprobs": None,
        "finish_reason": finish,
        "token_ids": None,
    }
    return {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1764000000,
        "model": MODEL,
        "choices": [choice],
    }


_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_TOKEN = _event(_chunk({"content": " token"}))
_LAST = b""  # set by _serve, because it contains the number of tokens


def _last(chunks: int) -> bytes:
    usage = {"prompt_tokens": 16, "completion_tokens": chunks, "total_tokens": 16 + chunks}
    final = {**_chunk({}), "choices": [], "usage": usage}
    return _event(_chunk({"content": ""}, "stop")) + _event(final) + _event("[DONE]") + b"0\r\n\r\n"


async def _serve(args: argparse.Namespace) -> None:
    global _LAST
    _LAST = _last(args.chunks)
    Stub.first_s = args.first_s
    Stub.chunk_s = args.chunk_s
    Stub.chunks = args.chunks

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Stub, "127.0.0.1", args.port, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--first-s", type=float, default=0.05, help="time to first token")
    parser.add_argument("--chunk-s", type=float, default=0.05, help="time between chunks")
    parser.add_argument("--chunks", type=int, default=20, help="chunks per response")
    args = parser.parse_args()
    try:
        import uvloop

        uvloop.run(_serve(args))
    except ImportError:
        asyncio.run(_serve(args))


if __name__ == "__main__":
    main()
