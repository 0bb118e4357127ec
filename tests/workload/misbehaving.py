"""Loopback servers for the driver's tests: each answers with a script, so that it can misbehave
exactly.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Script = Callable[["Peer"], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


@dataclass
class Peer:
    """One request on a connection, and the means to answer it."""

    number: int
    head: bytes
    body: dict
    at: float
    writer: asyncio.StreamWriter

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def event(self, value: dict | str) -> None:
        """One server-sent event as one HTTP chunk."""
        data = value if isinstance(value, str) else json.dumps(value)
        line = f"data: {data}\n\n".encode()
        await self.write(b"%x\r\n%b\r\n" % (len(line), line))


@dataclass
class Server:
    """What came: every request, in the order of its arrival."""

    url: str
    requests: list[Peer] = field(default_factory=list)


@contextmanager
def serving(script: Script) -> Iterator[Server]:
    """Serve in a thread of its own until the block ends."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    server = Server("")

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
        ):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
                body = json.loads(await reader.readexactly(length) or b"{}")
                peer = Peer(len(server.requests), head, body, time.time(), writer)
                server.requests.append(peer)
                await script(peer)
        writer.close()

    async def serve() -> None:
        listening = await asyncio.start_server(connection, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        ready.set()

    def work() -> None:
        loop.create_task(serve())
        loop.run_forever()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


def delta(text: str) -> dict:
    """A chat chunk with text."""
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


async def chat_answer(
    peer: Peer, *, first_s: float = 0.0, texts: tuple[str, ...] = ("a", "b"), gap_s: float = 0.0
) -> None:
    """A whole, well-behaved chat stream with usage."""
    await asyncio.sleep(first_s)
    await peer.write(HEAD)
    for text in texts:
        await peer.event(delta(text))
        await asyncio.sleep(gap_s)
    await peer.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": len(texts),
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    await peer.event({"choices": [], "usage": usage})
    await peer.event("[DONE]")
    await peer.write(END)
