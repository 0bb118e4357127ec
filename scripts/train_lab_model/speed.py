"""How fast a running vLLM serves the model: tokens a second of many streams, and the first token of a single one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import aiohttp

from lab.errors import ModelError
from lab.world import BY_NAME, Scenario, make_scenarios

SEED = 5
ALONE = 40  # requests, one after the other, that the first token is timed of
TOKENS = 128  # that each of the many streams generates


@dataclass(frozen=True)
class Speed:
    """What was measured. Times from sending the request, seen by the client."""

    streams: int
    tokens_per_s: float  # generated, all streams together
    first_token_ms: tuple[float, float]  # median and 95th percentile, one stream

    def __str__(self) -> str:
        middle, high = self.first_token_ms
        return (
            "| speed | |\n|---|---|\n"
            f"| generated tokens a second, {self.streams} streams | {self.tokens_per_s:,.0f} |\n"
            f"| first token, one stream: median, 95th percentile of {ALONE} | {middle:.0f} ms, {high:.0f} ms |"
        )


async def measure_speed(
    base_url: str, model: str, streams: int = 32, seconds: float = 15.0
) -> Speed:
    """Time a server that nobody else uses. Raises ModelError if it refuses."""
    scenarios = make_scenarios(256, SEED)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as http:
        alone = [
            1000 * await _first_token_s(http, base_url, model, s) for s in scenarios[: ALONE + 5]
        ][5:]  # warm
        generated, started = 0, time.perf_counter()
        until = started + seconds

        async def stream(number: int) -> int:
            made, turn = 0, number
            while time.perf_counter() < until:
                made += await _generate(http, base_url, model, scenarios[turn % len(scenarios)])
                turn += streams
            return made

        generated = sum(await asyncio.gather(*(stream(n) for n in range(streams))))
        took_s = time.perf_counter() - started
    return Speed(streams, generated / took_s, (median(alone), quantiles(alone, n=20)[-1]))


def _body(model: str, scenario: Scenario, **more: Any) -> dict[str, Any]:
    tools = [BY_NAME[name].openai() for name in scenario.offered]
    messages = [{"role": "user", "content": scenario.turns[0].text}]
    return {
        "model": model,
        "messages": messages,
        "tools": tools,
        "temperature": 0,
        "max_tokens": TOKENS,
        **more,
    }


async def _first_token_s(
    http: aiohttp.ClientSession, base_url: str, model: str, scenario: Scenario
) -> float:
    """Seconds to the first event of the stream: vLLM sends it with the first token, were it part of a tool call."""
    started = time.perf_counter()
    async with http.post(
        f"{base_url}/v1/chat/completions", json=_body(model, scenario, stream=True)
    ) as response:
        await _check(response)
        await response.content.readline()
        first = time.perf_counter() - started
        await response.read()
    return first


async def _generate(
    http: aiohttp.ClientSession, base_url: str, model: str, scenario: Scenario
) -> int:
    """Tokens generated: as many as asked for, on past the end of the answer."""
    body = _body(model, scenario, ignore_eos=True)
    async with http.post(f"{base_url}/v1/chat/completions", json=body) as response:
        await _check(response)
        return (await response.json())["usage"]["completion_tokens"]


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise ModelError(
            f"the model server refused a request with {response.status}",
            got=(await response.text())[:500],
            fix="check that vLLM runs and serves the model under this name",
        )
