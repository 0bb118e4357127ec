"""One driver in a process of its own: `python -m benchmarks.driver_subjects NAME LOAD OUT`. See driver.py."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

PROMPT = "hello, how are you today? " * 4
MESSAGES = [{"role": "user", "content": PROMPT}]
CHUNKS = 20


def lab(load: dict[str, Any]) -> tuple[list[float], float]:
    """Ours, as a notebook calls it: plan, progress bar off, records as a DataFrame."""
    from lab.settings import load_settings
    from lab.workload import Plan, PlannedRequest, Users, run_plan

    users, each = load["streams"], load["each"]
    arrivals = Users(users, start_over_s=load["over"])
    planned = [
        PlannedRequest(
            request_id=f"r{user}-{turn}",
            session_id=f"s{user}-{turn}",
            turn_index=0,
            user=user,
            offset_s=user * load["over"] / users if turn == 0 else None,
            think_s=0.0,
            tenant="bench",
            user_id=f"u{user}",
            scenario_id="bench",
            kind="bench",
            intent="bench",
            text=PROMPT,
            tools=[],
            api="chat",
            model="stub",
            max_tokens=CHUNKS,
            temperature=0.0,
        )
        for turn in range(each)
        for user in range(users)
    ]
    settings = load_settings(vllm_url=load["url"], otlp_url=None)
    begun = process_time()
    run = run_plan(Plan(tuple(planned), arrivals, seed=0), settings, progress=False)
    cpu_s = process_time() - begun
    assert (run.records.status == "ok").all(), run
    return run.records.ttft_s.tolist(), cpu_s


async def _users(load: dict[str, Any], one: Any) -> tuple[list[float], float]:
    """The same closed loop around any coroutine that returns one time to the first token."""
    found: list[float] = []

    async def user(number: int) -> None:
        await asyncio.sleep(number * load["over"] / load["streams"])
        for _ in range(load["each"]):
            found.append(await one())

    begun = process_time()
    await asyncio.gather(*(user(n) for n in range(load["streams"])))
    return found, process_time() - begun


async def aiohttp(load: dict[str, Any]) -> tuple[list[float], float]:
    """Plain aiohttp: post, read lines, decode each event."""
    import aiohttp as library

    body = {"model": "stub", "messages": MESSAGES, "stream": True, "max_tokens": CHUNKS}
    async with library.ClientSession(connector=library.TCPConnector(limit=0)) as session:

        async def one() -> float:
            begun, first = perf_counter(), 0.0
            async with session.post(f"{load['url']}/v1/chat/completions", json=body) as answer:
                async for line in answer.content:
                    if (
                        line.startswith(b"data: {")
                        and json.loads(line[6:])["choices"]
                        and not first
                    ):
                        first = perf_counter() - begun
            return first

        return await _users(load, one)


async def openai(load: dict[str, Any]) -> tuple[list[float], float]:
    """The openai SDK's asynchronous client."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=f"{load['url']}/v1", api_key="none", max_retries=0, timeout=60)

    async def one() -> float:
        begun, first = perf_counter(), 0.0
        stream = await client.chat.completions.create(
            model="stub", messages=MESSAGES, stream=True, max_tokens=CHUNKS
        )
        async for chunk in stream:
            if chunk.choices and not first:
                first = perf_counter() - begun
        return first

    return await _users(load, one)


def _run(coroutine: Any) -> Any:
    """With uvloop where there is one, as ours."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)


def run() -> None:
    """Drive as asked and write what was found."""
    name, load, out = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    if name == "lab":
        (ttft_s, cpu_s), what = lab(load), ""
    else:
        (ttft_s, cpu_s), what = (
            _run({"aiohttp": aiohttp, "openai": openai}[name](load)),
            version(name),
        )
    out.write_text(json.dumps({"version": what, "ttft_s": ttft_s, "cpu_s": cpu_s}))


if __name__ == "__main__":
    run()
