"""The driver sends on time however the server behaves, and every outcome becomes a row."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import signal
import socket
import sys
import time
from typing import Any

import pandas as pd
import pytest

from lab.errors import NotUp, WorkloadError
from lab.schema import CLIENT_RECORD
from lab.workload import Constant, Plan, Run, Users, connection, driver, run_plan
from lab.workload.http1 import Answer
from lab.workload.plan import PlannedRequest
from tests.workload.misbehaving import END, HEAD, Peer, chat_answer, delta, serving
from tests.workload.plans import plan, request, settings


def drive(url: str, the_plan: Plan, **options: object) -> Run:
    return run_plan(
        the_plan,
        settings(url),
        progress=False,
        **{"timeout_s": 60.0, "vector_store_id": "vs"} | options,
    )


def only(run: Run) -> pd.Series:
    assert len(run.records) == 1
    return run.records.iloc[0]


def test_a_good_answer_is_recorded_whole() -> None:
    """Every column of the schema, with times in order, the server's tokens, and the text."""
    with serving(
        lambda p: chat_answer(p, first_s=0.05, texts=("one", " two"), gap_s=0.02)
    ) as server:
        run = drive(server.url, plan(request(0)))
    row = only(run)
    assert list(run.records.columns) == [c.name for c in CLIENT_RECORD]
    assert (row.status, row.http_status, row.answer, row.finish_reason) == (
        "ok",
        200,
        "one two",
        "stop",
    )
    assert (row.prompt_tokens, row.cached_tokens, row.completion_tokens) == (7, 3, 2)
    # A busy machine may read several chunks at once: their times are then equal.
    assert row.scheduled_at <= row.sent_at < row.first_token_at <= row.last_token_at <= row.done_at
    assert row.ttft_s >= 0.05 and len(json.loads(row.chunk_offsets_s)) == 2
    assert row.e2e_s == pytest.approx(row.done_at - row.scheduled_at, abs=1e-6)


def test_trace_context_and_baggage_are_sent() -> None:
    """The server sees the recorded trace id, and who asks, with special characters made safe."""
    with serving(chat_answer) as server:
        run = drive(
            server.url, plan(request(0, user_id="zoë, a=b")), headers={"Authorization": "Bearer x"}
        )
        head = server.requests[0].head.decode()
    assert f"traceparent: 00-{only(run).trace_id}-" in head
    assert (
        "lab.tenant=acme" in head
        and "user.id=zo%C3%AB%2C%20a%3Db" in head
        and f"lab.run={run.run_id}" in head
    )
    assert "Authorization: Bearer x" in head


def test_open_loop_is_open() -> None:
    """A server that never answers does not delay later requests, and each one's wait counts from
    when it was due.
    """

    async def stalls(peer: Peer) -> None:
        while (
            len(server.requests) < 6
        ):  # a driver that waits for an answer before it goes on would wait for ever
            await asyncio.sleep(0.01)
        await chat_answer(peer)

    requests = [request(i, offset_s=i * 0.1) for i in range(6)]
    with serving(stalls) as server:
        run = drive(server.url, plan(*requests), timeout_s=60.0)
        last_came_at = server.requests[-1].at
    assert (run.records.status == "ok").all()
    due = run.records.scheduled_at
    assert (due - due[0]).tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-3)
    assert (run.records.ttft_s >= last_came_at - due - 0.005).all()


def test_latency_counts_from_the_schedule() -> None:
    """No coordinated omission: a driver that was held up charges the delay to the request, and says
    that it lagged.
    """
    requests = [request(0)] + [request(i, offset_s=2.0 + i * 0.01) for i in range(1, 10)]

    class HeldUp(driver.Driver):
        def _record(self, *args: Any) -> None:
            super()._record(*args)
            if len(self.rows) == 1:
                time.sleep(max(0.0, self.rows[0]["scheduled_at"] + 2.5 - time.time()))

    with serving(chat_answer) as server:
        from lab.workload import apis
        from lab.workload.run import Lag

        the_plan = plan(*requests)
        one = HeldUp(
            the_plan,
            apis.apis_for(the_plan, settings(server.url)),
            run_id="r",
            timeout_s=60,
        )
        asyncio.run(one.drive())
    late = [row for row in one.rows if row["request_id"] != "r0"]
    assert len(late) == 9 and all(
        row["lag_s"] > 0.1 and row["ttft_s"] > row["lag_s"] for row in late
    )
    lag = Lag.of(one.dispatch_lags_s, one.loop_lags_s, one.connect_s, 0.03)
    assert lag.lagged and "THE DRIVER LAGGED" in str(lag)
    assert "THE DRIVER LAGGED" in repr(
        Run("r", one.window, pd.DataFrame({"status": ["ok"]}), the_plan, lag)
    )


async def _refuse_everything(peer: Peer) -> None:
    await peer.write(
        b'HTTP/1.1 503 Busy\r\ncontent-length: 31\r\n\r\n{"error": {"message": "so busy"}'
    )


async def _cut(peer: Peer) -> None:
    await peer.write(HEAD)
    await peer.event(delta("Hel"))
    peer.writer.close()


async def _reset(peer: Peer) -> None:
    await peer.write(HEAD)
    sock = peer.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.writer.transport.abort()


async def _silent(peer: Peer) -> None:
    peer.writer.close()


async def _garbage_events(peer: Peer) -> None:
    await peer.write(HEAD)
    await peer.event("{not json")
    await peer.event("[DONE]")
    await peer.write(END)


async def _wrong_shape(peer: Peer) -> None:
    await peer.write(HEAD)
    await peer.event({"choices": [{"delta": "text where an object should be"}]})
    await peer.event("[DONE]")
    await peer.write(END)


async def _not_http(peer: Peer) -> None:
    await peer.write(b"220 mail.example ESMTP\r\n")


async def _hangs(peer: Peer) -> None:
    await peer.write(HEAD)
    await peer.event(delta("Hel"))
    await asyncio.sleep(30)


@pytest.mark.parametrize(
    ("script", "status", "http_status", "error_type"),
    [
        (_refuse_everything, "error", 503, "http_503"),
        (_cut, "error", 200, "connection_closed"),
        (_reset, "error", 200, "connection_reset"),
        (_silent, "error", 0, "connection_closed"),
        (_garbage_events, "error", 200, "malformed_event"),
        (_wrong_shape, "error", 200, "malformed_event"),
        (_not_http, "error", 0, "malformed_http"),
        (_hangs, "timeout", 200, "timeout"),
    ],
)
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_every_failure_is_a_row(
    script: object, status: str, http_status: int, error_type: str, api: str
) -> None:
    """For each fault of a server, the request has a row with a status, a kind of error and words
    about it.
    """
    if api == "responses" and script in (_garbage_events, _wrong_shape):
        error_type = "malformed_event" if script is _garbage_events else "stream_incomplete"
    with serving(script) as server:  # type: ignore[arg-type]
        run = drive(
            server.url, plan(request(0, api=api)), timeout_s=1.5 if script is _hangs else 60.0
        )
    row = only(run)
    assert (row.status, row.http_status, row.error_type) == (status, http_status, error_type)
    assert row.error_message and row.trace_id and row.done_at >= row.sent_at


def test_what_came_before_a_cut_is_kept() -> None:
    """The first token's time and the text so far stay in the row of a stream that was cut."""
    with serving(_cut) as server:
        row = only(drive(server.url, plan(request(0))))
    assert row.answer == "Hel" and not math.isnan(row.ttft_s)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_connection_refused(host: str) -> None:
    """A server that is not there gives rows, not an exception; also at a host of two addresses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://{host}:{free.getsockname()[1]}"
        run = drive(url, plan(request(0), request(1)))  # the port is taken, but nothing listens
    assert run.records.error_type.tolist() == ["connection_refused"] * 2
    assert run.records.http_status.tolist() == [0, 0] and run.records.sent_at.isna().all()


def test_follow_up_names_its_predecessor() -> None:
    """A follow-up is sent after its predecessor's answer and its think time, with the id of that
    answer.
    """

    async def answers(peer: Peer) -> None:
        await asyncio.sleep(0.1)
        await peer.write(HEAD)
        done = {"id": f"resp_{peer.number}", "status": "completed", "output": []}
        await peer.event({"type": "response.completed", "response": done})
        await peer.write(END)

    requests = [
        request(i, session=0, turn=i, api="responses", think_s=0.2 * (i > 0)) for i in range(2)
    ]
    with serving(answers) as server:
        run = drive(server.url, plan(*requests))
        bodies = [p.body for p in server.requests]
    assert "previous_response_id" not in bodies[0] and bodies[1]["previous_response_id"] == "resp_0"
    first, second = run.records.iloc[0], run.records.iloc[1]
    assert second.scheduled_at == pytest.approx(first.done_at + 0.2, abs=1e-6)
    # Counted from then, not from the session's start.
    assert second.e2e_s == pytest.approx(second.done_at - second.scheduled_at, abs=1e-6)


def test_chat_follow_up_carries_the_conversation() -> None:
    """With plain chat the client sends the conversation so far."""
    with serving(lambda p: chat_answer(p, texts=("hi",))) as server:
        drive(
            server.url,
            plan(request(0, session=0, text="one"), request(1, session=0, turn=1, text="two")),
        )
        conversation = [(m["role"], m["content"]) for m in server.requests[1].body["messages"]]
    assert conversation == [("user", "one"), ("assistant", "hi"), ("user", "two")]


def test_follow_up_of_a_failure_is_not_sent() -> None:
    """A follow-up that cannot be sent without its predecessor is a row too."""
    with serving(_refuse_everything) as server:
        run = drive(server.url, plan(request(0, session=0), request(1, session=0, turn=1)))
        assert len(server.requests) == 1
    row = run.records.set_index("request_id").loc["r1"]
    assert (row.status, row.error_type) == ("cancelled", "predecessor_failed")


def test_closed_loop_keeps_to_its_users() -> None:
    """N users never have more than N requests under way, and each waits for its answer and its
    think time.
    """
    under_way = most = 0

    async def counts(peer: Peer) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        while len(server.requests) < 3:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.03)
        under_way -= 1
        await chat_answer(peer)

    requests = [
        request(n, user=n % 3, offset_s=0.0 if n < 3 else None, think_s=0.02) for n in range(12)
    ]  # fmt: skip
    with serving(counts) as server:
        run = drive(server.url, plan(*requests, arrivals=Users(3, think_s=0.02)))
    assert most == 3 and (run.records.status == "ok").all() and len(run.records) == 12
    by_user = run.records.assign(user=[int(r[1:]) % 3 for r in run.records.request_id])
    for _, rows in by_user.groupby("user"):
        waits = rows.scheduled_at.to_numpy()[1:] - rows.done_at.to_numpy()[:-1]
        assert waits == pytest.approx([0.02] * 3, abs=1e-6)


def test_tools_are_offered() -> None:
    """The request names the MCP server with just the offered tools, and the vector store for the
    search.
    """
    with serving(_refuse_everything) as server:
        drive(
            server.url,
            plan(request(0, api="responses", tools=["get_quota", "file_search"])),
            vector_store_id="vs_1",
        )
        tools = server.requests[0].body["tools"]
    assert tools[0]["type"] == "mcp" and tools[0]["allowed_tools"] == ["get_quota"]
    assert tools[0]["server_url"] == f"{server.url}/mcp" and tools[0]["require_approval"] == "never"
    assert tools[1]["type"] == "file_search" and tools[1]["vector_store_ids"] == ["vs_1"]


def test_drivers_start_together() -> None:
    """With a start that is given, offset 0 is that moment, so that several drivers can share one
    plan.
    """
    with serving(chat_answer) as server:
        start_at = time.time() + 2.0
        run = drive(server.url, plan(request(0), request(1, offset_s=0.1)), start_at=start_at)
    assert run.records.scheduled_at.tolist() == pytest.approx([start_at, start_at + 0.1], abs=0.001)


def test_connections_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests one after another share a connection; one that the server closed is not used."""
    monkeypatch.setattr(connection, "REUSE_IDLE_S", 60.0)
    ports = []

    async def remembers(peer: Peer) -> None:
        ports.append(peer.writer.get_extra_info("peername")[1])
        await chat_answer(peer)

    requests = [request(n, user=0, offset_s=0.0 if n == 0 else None) for n in range(4)]
    with serving(remembers) as server:
        run = drive(server.url, plan(*requests, arrivals=Users(1)))
    assert len(ports) == 4 and len(set(ports)) == 1 and (run.records.status == "ok").all()


def pressing_ctrl_c(read: int, finished: int) -> type[Answer]:
    """Return a class of answers that press Ctrl-C once `read` have text and `finished` are done."""
    answers: list[Answer] = []
    pressed: list[bool] = []

    class Pressing(Answer):
        def feed(self, data: bytes, at: float) -> None:
            super().feed(data, at)
            if self not in answers:
                answers.append(self)
            with_text = sum(b"content" in answer.body for answer in answers)
            done = sum(answer.done for answer in answers)
            if (with_text, done) == (read, finished) and not pressed:
                pressed.append(True)
                os.kill(os.getpid(), signal.SIGINT)

    return Pressing


def test_interrupt_keeps_what_was_recorded(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the run before the server's answers (30 s) and the plan (60 s) end.

    Finished and running requests have rows, and the saved run says that it is partial.
    """

    async def slow_later(peer: Peer) -> None:
        if peer.number < 3:
            await chat_answer(peer)
        else:
            await _hangs(peer)

    requests = [request(n, offset_s=n * 0.05) for n in range(10)] + [request(99, offset_s=60.0)]
    monkeypatch.setattr(connection, "Answer", pressing_ctrl_c(read=10, finished=3))
    with serving(slow_later) as server:
        run = drive(server.url, plan(*requests), out_dir=tmp_path)
    assert run.interrupted and run.not_sent == 1 and "INTERRUPTED" in repr(run)
    assert run.records.status.value_counts().to_dict() == {"cancelled": 7, "ok": 3}
    assert run.records[run.records.status == "cancelled"].answer.eq("Hel").all()
    again = Run.load(run.folder)
    assert again.interrupted and again.not_sent == 1 and len(again.records) == 10


def test_a_run_is_not_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage is collected before it; threads take turns quickly; all is as before afterwards."""
    monkeypatch.setattr(driver, "gc", gc)
    interval_s = sys.getswitchinterval()
    with driver.undisturbed():
        assert not gc.isenabled() and gc.get_freeze_count() > 0
        assert sys.getswitchinterval() < interval_s
    assert gc.isenabled() and gc.get_freeze_count() == 0
    assert sys.getswitchinterval() == interval_s


def test_works_where_a_loop_is_running() -> None:
    """In a notebook's kernel an event loop is already running in the calling thread."""

    async def cell(url: str) -> Run:
        return drive(url, plan(request(0)))

    with serving(chat_answer) as server:
        assert only(asyncio.run(cell(server.url))).status == "ok"


def test_bad_input_is_told() -> None:
    """An empty plan, an unknown tool, an address that is none, and a Llama Stack that is not there
    are reported at once.
    """
    with pytest.raises(WorkloadError, match="empty"):
        drive("http://127.0.0.1:1", Plan((), Constant(1.0), 0))
    with pytest.raises(WorkloadError, match="start has passed"):
        drive("http://127.0.0.1:1", plan(request(0)), start_at=time.time() - 5)
    with pytest.raises(WorkloadError, match="tools that do not exist"):
        drive("http://127.0.0.1:1", plan(request(0, tools=["make_coffee"])))
    with pytest.raises(WorkloadError, match="not the address"):
        drive("ftp://x", plan(request(0)))
    with pytest.raises(NotUp, match="Llama Stack"):
        drive("http://127.0.0.1:1", plan(request(0, api="responses", model="lab-model")))


def test_a_plan_is_typed() -> None:
    """The rows that the plan is made of cannot be changed after it is made."""
    with pytest.raises(AttributeError):
        request(0).text = "other"  # type: ignore[misc]
    assert isinstance(request(0), PlannedRequest)
