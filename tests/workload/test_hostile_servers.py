"""No answer of a server ends a run: every one becomes a row, and what was measured is saved."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest

from lab.errors import WorkloadError
from lab.workload import Plan, Run, connection, run_plan
from lab.workload.driver import Driver
from tests.workload.misbehaving import END, HEAD, Peer, chat_answer, delta, serving
from tests.workload.plans import plan, request, settings

DEEP = b"[" * 100_000 + b"]" * 100_000


def drive(url: str, the_plan: Plan, **options: object) -> Run:
    options = {"timeout_s": 20.0, "vector_store_id": "vs"} | options
    return run_plan(the_plan, settings(url), progress=False, **options)


def answering(*events: bytes) -> Callable[[Peer], Awaitable[None]]:
    """Answer with exactly these events, each the data of one server-sent event."""

    async def script(peer: Peer) -> None:
        await peer.write(HEAD)
        for event in events:
            line = b"data: " + event + b"\n\n"
            await peer.write(b"%x\r\n%b\r\n" % (len(line), line))
        await peer.write(END)

    return script


def chat(delta: str) -> bytes:
    return b'{"choices": [{"delta": %b}]}' % delta.encode()


def final(**response: object) -> bytes:
    value = {"id": "r", "status": "completed", "output": []} | response
    return json.dumps({"type": "response.completed", "response": value}).encode()


def nested(levels: int) -> str:
    return '{"a": ' * levels + "1" + "}" * levels


HOSTILE = {
    "deep JSON": DEEP,
    "deep JSON in a field that is skipped": b'{"type": "x", "unknown": %b}' % DEEP,
    "deep JSON in an error": b'{"type": "error", "error": {"message": %b}}' % DEEP,
    "deep JSON in a final response": b'{"type": "response.completed", "response": %b}' % DEEP,
    "not UTF-8": b'{"type": "\xff", "choices": [{"delta": {"content": "\xff"}}]}',
    "half a surrogate": b'{"type": "\\ud800 ", "choices": [{"delta": {"content": "\\ud800"}}]}',
    "more tokens than int64": b'{"choices": [], "usage": {"prompt_tokens": 1e30}}',
    "an integer of 30 digits": b'{"choices": [], "usage": {"prompt_tokens": %b}}' % (b"9" * 30),
    "fewer tokens than none": b'{"choices": [], "usage": {"completion_tokens": -9}}',
    "a list": b"[1, 2]",
    "null": b"null",
    "an empty event": b"",
    "an error that is a number": b'{"type": "error", "error": 5, "choices": []}',
    "a response of another shape": b'{"type": "response.completed", "response": [1]}',
    "an output of another shape": b'{"type": "response.completed", "response": {"output": [1]}}',
    "many tokens in a response": final(usage={"input_tokens": 10**30, "output_tokens": 1}),
    "content of another shape": final(output=[{"type": "message", "content": [[1]]}]),
    "text of another shape": final(output=[{"type": "message", "content": [{"text": [1]}]}]),
    "queries of another shape": final(output=[{"type": "file_search_call", "queries": [1]}]),
}


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_answer_ends_a_run(hostile: bytes, api: str, tmp_path: Path) -> None:
    """A hostile answer is a row with an error, the good ones beside it are rows; all are saved."""

    async def script(peer: Peer) -> None:
        if peer.body["model"] == "provider/hostile":
            await answering(hostile, b"[DONE]")(peer)
        else:
            await chat_answer(peer)

    requests = [request(0), request(1, api=api, model="provider/hostile"), request(2)]
    with serving(script) as server:
        run = drive(server.url, plan(*requests), out_dir=tmp_path)
    by_id = Run.load(run.folder).records.set_index("request_id")
    assert by_id.status.tolist().count("ok") == 2
    assert by_id.loc["r1", "status"] == "error" and by_id.loc["r1", "error_type"]
    pd.testing.assert_frame_equal(run.records, by_id.reset_index()[run.records.columns])


@pytest.mark.parametrize("levels", [60, 200, 1_000, 5_000, 100_000])
def test_deep_arguments_stay_text(levels: int) -> None:
    """Readers of the record recurse over a tool call's arguments: what is nested deeply is kept as
    text.
    """
    function = {"name": "get_quota", "arguments": nested(levels)}
    call = json.dumps({"tool_calls": [{"index": 0, "function": function}]})
    end = b'{"choices": [{"delta": {}, "finish_reason": "stop"}]}'
    with serving(answering(chat(call), end, b"[DONE]")) as server:
        run = drive(server.url, plan(request(0)))
    (recorded,) = json.loads(run.records.tool_calls[0])
    assert run.records.status[0] == "ok"
    assert recorded["arguments"] == (json.loads(nested(levels)) if levels < 64 else nested(levels))


def test_a_failure_of_the_driver_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For any error that the driver raises, the rows of all other requests are saved, and the error
    is the lab's own.
    """
    note = Driver._record

    def fails_once(self: Driver, planned: object, *rest: object) -> None:
        if planned.request_id == "r1":  # type: ignore[attr-defined]
            raise OSError("out of luck")
        note(self, planned, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Driver, "_record", fails_once)
    requests = [request(n, offset_s=n * 0.05) for n in range(4)]
    with serving(chat_answer) as server, pytest.raises(WorkloadError, match="out of luck"):
        drive(server.url, plan(*requests), out_dir=tmp_path, run_id="unlucky")
    run = Run.load(tmp_path / "unlucky")
    assert sorted(run.records.request_id) == ["r0", "r2", "r3"] and run.interrupted


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize(
    "answer",
    [
        HEAD + END,
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        HEAD + b"2\r\n\n\n\r\n" + END,
    ],
)
def test_an_empty_answer_is_an_error(answer: bytes, api: str) -> None:
    """A 200 without an event (a proxy that drops bodies) is not a good answer without tokens."""
    with serving(lambda peer: peer.write(answer)) as server:
        run = drive(server.url, plan(request(0, api=api)))
    row = run.records.iloc[0]
    assert (row.status, row.error_type, row.http_status) == ("error", "stream_incomplete", 200)


async def _endless(peer: Peer) -> None:
    await peer.write(HEAD)
    await peer.event(delta("Hel"))
    block = b"data: " + json.dumps(delta("x" * 100)).encode() + b"\n\n"
    piece = b"%x\r\n%b\r\n" % (len(block) * 400, block * 400)
    while not peer.writer.is_closing():
        await peer.write(piece)


async def _one_long_line(peer: Peer) -> None:
    await peer.write(b"HTTP/1.1 200 OK\r\n\r\ndata: ")
    while not peer.writer.is_closing():
        await peer.write(b"x" * 60_000)


async def _interim_for_ever(peer: Peer) -> None:
    while not peer.writer.is_closing():
        await peer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


@pytest.mark.parametrize(
    ("script", "error_type"),
    [(_endless, "too_large"), (_one_long_line, "too_large"), (_interim_for_ever, "malformed_http")],
)
def test_an_endless_answer_is_cut(
    script: Callable[[Peer], Awaitable[None]], error_type: str
) -> None:
    """An answer without an end is cut at a bound, before the time-out and with little memory."""
    before = psutil.Process().memory_info().rss
    with serving(script) as server:
        run = drive(server.url, plan(request(0)), timeout_s=60.0)
    row = run.records.iloc[0]
    assert (row.status, row.error_type) == ("error", error_type)
    assert psutil.Process().memory_info().rss - before < 300e6
    if script is _endless:
        assert row.answer.startswith("Hel") and row.ttft_s > 0


def test_a_request_has_one_deadline() -> None:
    """A server that sends a byte now and then does not move the deadline, in the head or in the
    body. Both servers go on for ever.
    """

    async def drips(peer: Peer) -> None:
        await peer.write(b"HTTP/1.1 200 OK\r\nX: " if peer.number else HEAD)
        while not peer.writer.is_closing():
            for byte in b"5\r\nhello\r\n" if peer.number == 0 else b"x":
                await peer.write(bytes([byte]))
                await asyncio.sleep(0.05)

    with serving(drips) as server:
        run = drive(server.url, plan(request(0), request(1, offset_s=0.1)), timeout_s=1.0)
    assert run.records.error_type.tolist() == ["timeout", "timeout"]


def test_all_answers_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many answers are large, those over their share are cut; a small one beside them is not.

    Each alone is far below the bound of one answer.
    """
    monkeypatch.setattr(connection, "MAX_HELD_BYTES", 8 * 2**20)

    async def answer(peer: Peer) -> None:
        if b"small" in peer.head:
            await peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        await peer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(64):  # 4 MiB, and then nothing more
            await peer.write((b"x" * 1023 + b"\n") * 64)
        await asyncio.sleep(60)

    async def drive(url: str) -> list[connection.Exchange]:
        pool = connection.Pool(connection.Server.at(url))
        head = "POST /{} HTTP/1.1\r\nContent-Length: 0\r\n\r\n".format
        large = [
            asyncio.create_task(pool.send(head("large").encode(), timeout_s=60)) for _ in range(4)
        ]
        try:
            await asyncio.wait(large, return_when=asyncio.FIRST_COMPLETED)
            small = await pool.send(head("small").encode(), timeout_s=60)
            for task in large:  # those that are not over yet will get nothing more
                task.cancel()
            return [*await asyncio.gather(*large), small]
        finally:
            assert pool.held_bytes == 0
            pool.close()

    with serving(answer) as server:
        *large, small = asyncio.run(drive(server.url))
    assert (small.error_type, small.answer.body) == ("", b"ok")
    kinds = [exchange.error_type for exchange in large]
    assert "too_large" in kinds
    assert set(kinds) <= {"too_large", "cancelled"}
