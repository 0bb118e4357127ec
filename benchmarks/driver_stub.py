"""A server whose true time to the first token is known: streams chat chunks on a timer, and measures its own lateness.

In a process of its own: `python -m benchmarks.driver_stub --port 0 ...` prints its port. Answers `POST
/v1/chat/completions` (streamed), `GET /v1/models` and `GET /stats`, which gives for every request when the first token
was written, counted from when the request was complete.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from time import perf_counter, process_time

MODEL = "stub"


class Stub(asyncio.Protocol):
    """One connection: one request at a time, answered by timers."""

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
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if len(self.buffer) < end + 4 + length:
            return
        body, self.buffer = self.buffer[end + 4 : end + 4 + length], b""
        if head.startswith(b"post"):
            self._stream(json.loads(body).get("stream", False))
        elif b"/stats" in head.split(b"\r\n")[0]:
            self._json({"written_after_s": Stub.written_after_s, "cpu_s": process_time()})
            Stub.written_after_s = []
        elif b"/v1/models" in head.split(b"\r\n")[0]:
            self._json(
                {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "stub"}]}
            )
        else:
            self._json({"status": "ok"})

    def _json(self, value: dict) -> None:
        body = json.dumps(value).encode()
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )

    def _stream(self, streamed: bool) -> None:
        self.begun, self.sent = perf_counter(), 0
        if not streamed:
            message = {
                "index": 0,
                "message": {"role": "assistant", "content": "tok"},
                "finish_reason": "stop",
            }
            usage = {"prompt_tokens": 16, "completion_tokens": 1, "total_tokens": 17}
            self._json(
                {
                    "id": "c",
                    "object": "chat.completion",
                    "model": MODEL,
                    "choices": [message],
                    "usage": usage,
                }
            )
            return
        self.timer = asyncio.get_running_loop().call_later(Stub.first_s, self._chunk)

    def _chunk(self) -> None:
        if self.sent == 0:
            Stub.written_after_s.append(perf_counter() - self.begun)
            self.transport.write(_HEAD + _TOKEN)
        elif self.sent < Stub.chunks:
            self.transport.write(_TOKEN)
        else:
            self.transport.write(_LAST)
            return
        self.sent += 1
        self.timer = asyncio.get_running_loop().call_later(Stub.chunk_s, self._chunk)


def _event(value: dict | str) -> bytes:
    data = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    line = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(line), line)


def _chunk(delta: dict, finish: str | None = None, **more: object) -> dict:
    choice = {
        "index": 0,
        "delta": delta,
        "logprobs": None,
        "finish_reason": finish,
        "token_ids": None,
    }
    chunk = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1764000000,
    }
    return chunk | {"model": MODEL, "choices": [choice]} | more


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_TOKEN = _event(_chunk({"content": " token"}))


def _last(chunks: int) -> bytes:
    usage = {"prompt_tokens": 16, "completion_tokens": chunks, "total_tokens": 16 + chunks}
    final = {**_chunk({}), "choices": [], "usage": usage}
    return _event(_chunk({"content": ""}, "stop")) + _event(final) + _event("[DONE]") + b"0\r\n\r\n"


_LAST = b""


async def _serve(args: argparse.Namespace) -> None:
    global _LAST
    Stub.first_s, Stub.chunk_s, Stub.chunks = args.first_s, args.chunk_s, args.chunks
    _LAST = _last(args.chunks)
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
    parser.add_argument("--first-s", type=float, default=0.05)
    parser.add_argument("--chunk-s", type=float, default=0.05)
    parser.add_argument("--chunks", type=int, default=20)
    args = parser.parse_args()
    try:
        import uvloop

        uvloop.run(_serve(args))
    except ImportError:
        asyncio.run(_serve(args))


if __name__ == "__main__":
    main()
