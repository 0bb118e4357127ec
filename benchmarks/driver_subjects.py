"""Run one load driver in a separate process: `python -m benchmarks.driver_subjects NAME LOAD OUT`.

See driver.py, which starts it. LOAD is JSON with `url`, `streams`, `each` and `over` (seconds over
which the starts are spread). OUT is a file for the version, the times to first token and the CPU
seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

PROMPT = "hello, how are you today? " * 4
MESSAGES = [{"role": "user", "content": PROMPT}]
CHUNKS = 20
Times = tuple[list[float], float]  # times to first token, CPU seconds


def lab(load: dict[str, Any]) -> Times:
    """Drive with the lab as a notebook does: a plan, no progress bar, records as a DataFrame."""
    from lab.settings import load_settings
    from lab.workload import Plan, PlannedRequest, Users, run_plan

    users = load["streams"]
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
        for turn in range(load["each"])
        for user in range(users)
    ]
    settings = load_settings(vllm_url=load["url"], otlp_url=None)

    begun = process_time()
    run = run_plan(Plan(tuple(planned), arrivals, seed=0), settings, progress=False)
    cpu_s = process_time() - begun
    assert (run.records.status == "ok").all(), run
    return run.records.ttft_s.tolist(), cpu_s


async def _closed_loop(load: dict[str, Any], request: Callable[[], Awaitable[float]]) -> Times:
    """Drive the same load with a coroutine that returns one time to first token."""
    ttft_s: list[float] = []

    async def user(number: int) -> None:
        await asyncio.sleep(number * load["over"] / load["streams"])
        for _ in range(load["each"]):
            ttft_s.append(await request())

    begun = process_time()
    await asyncio.gather(*(user(n) for n in range(load["streams"])))
    return ttft_s, process_time() - begun


async def aiohttp(load: dict[str, Any]) -> Times:
    """Drive with plain aiohttp: post, read lines, decode each event."""
    import aiohttp as library

    url = f"{load['url']}/v1/chat/completions"
    body = {"model": "stub", "messages": MESSAGES, "stream": True, "max_tokens": CHUNKS}
    async with library.ClientSession(connector=library.TCPConnector(limit=0)) as session:

        async def request() -> float:
            begun = perf_counter()
            first_s = 0.0
            async with session.post(url, json=body) as response:
                async for line in response.content:
                    if not line.startswith(b"data: {"):
                        continue
                    if json.loads(line[6:])["choices"] and not first_s:
                        first_s = perf_counter() - begun
            return first_s

        return await _closed_loop(load, request)


async def openai(load: dict[str, Any]) -> Times:
    """Drive with the asynchronous client of the openai SDK."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=f"{load['url']}/v1", api_key="none", max_retries=0, timeout=60)

    async def request() -> float:
        begun = perf_counter()
        first_s = 0.0
        stream = await client.chat.completions.create(
            model="stub", messages=MESSAGES, stream=True, max_tokens=CHUNKS
        )
        async for chunk in stream:
            if chunk.choices and not first_s:
                first_s = perf_counter() - begun
        return first_s

    return await _closed_loop(load, request)


def _run(coroutine: Coroutine[Any, Any, Times]) -> Times:
    """Run a coroutine with uvloop if it is installed, as the lab does."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)


def run() -> None:
    """Run the driver that the command line names and write its results."""
    name = sys.argv[1]
    load = json.loads(sys.argv[2])
    out = Path(sys.argv[3])
    if name == "lab":
        ttft_s, cpu_s = lab(load)
        release = ""
    else:
        ttft_s, cpu_s = _run({"aiohttp": aiohttp, "openai": openai}[name](load))
        release = version(name)
    out.write_text(json.dumps({"version": release, "ttft_s": ttft_s, "cpu_s": cpu_s}))


if __name__ == "__main__":
    run()
