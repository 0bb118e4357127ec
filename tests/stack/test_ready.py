"""A vLLM engine that is deadlocked is found without requests to one that works."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from lab.stack import ready

PAGE = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="lab-model"}} {running}
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{{engine="0",le="1.0",model_name="lab-model"}} 3.0
vllm:iteration_tokens_total_count{{engine="0",model_name="lab-model"}} {steps}
"""


class Vllm:
    """A vLLM server's /metrics page and chat endpoint, which counts requests."""

    def __init__(self) -> None:
        self.running = 1
        self.steps = 5
        self.deadlocked = False
        self.chats = 0

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            return httpx.Response(200, text=PAGE.format(running=self.running, steps=self.steps))
        self.chats += 1
        if self.deadlocked:
            raise httpx.ReadTimeout("no answer")
        return httpx.Response(200, json={"usage": {"completion_tokens": 1}})


def look(vllm: Vllm, clock: list[float], looks: list[tuple[float, float]]) -> None:
    """Look at the engine at these (times, CPU times) in s."""

    async def run() -> None:
        watch = ready.EngineWatch("http://vllm", "lab-model")
        async with httpx.AsyncClient(transport=httpx.MockTransport(vllm.answer)) as client:
            for seconds, cpu_s in looks:
                clock[0] = seconds
                assert await watch.works(client, cpu_s)

    asyncio.run(run())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(ready.time, "monotonic", lambda: now[0])
    return now


def test_a_deadlocked_engine_is_found(clock: list[float]) -> None:
    """Requests run, no step ends, no CPU is used, and a request is not answered."""
    vllm = Vllm()
    vllm.deadlocked = True
    look(vllm, clock, [(1, 0), (5, 0.1), (10, 0.2)])
    assert vllm.chats == 0
    with pytest.raises(httpx.ReadTimeout):
        look(vllm, clock, [(1, 0), (5, 0.1), (12, 0.2)])


@pytest.mark.parametrize("running", [0, 1])
def test_an_engine_that_works_gets_no_request(clock: list[float], running: int) -> None:
    """Idle engines, and those in a long step, are never requested."""
    vllm = Vllm()
    vllm.running = running
    look(vllm, clock, [(1, 0), (20, 15 * running), (60, 50 * running)])
    assert vllm.chats == 0


def test_a_stale_number_of_running_requests_is_not_a_deadlock(clock: list[float]) -> None:
    """After a cancelled request the number stays: one request in STALLED_S proves the engine."""
    vllm = Vllm()
    look(vllm, clock, [(1, 0), (12, 0.1), (14, 0.1), (20, 0.1)])
    assert vllm.chats == 1
