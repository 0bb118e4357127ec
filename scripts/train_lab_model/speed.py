"""Time a running vLLM: tokens per second of many streams, and the first token of a single one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from statistics import median, quantiles

import aiohttp

from lab.world import BY_NAME, Scenario, make_scenarios
from scripts.train_lab_model.evaluate import Server

SEED = 5
ALONE = 40  # sequential requests whose first token is timed
WARM_UP = 5  # requests before those


@dataclass(frozen=True)
class Speed:
    """The speed that a client measured.

    `tokens_per_s` is the rate of all streams together. `first_token_ms` is (median, 95th
    percentile) of one stream, from sending the request.
    """

    streams: int
    tokens_per_s: float
    first_token_ms: tuple[float, float]

    def __str__(self) -> str:
        middle, high = self.first_token_ms
        first = f"first token, one stream: median, 95th percentile of {ALONE}"
        return (
            "| speed | |\n|---|---|\n"
            f"| generated tokens per second, {self.streams} streams | {self.tokens_per_s:,.0f} |\n"
            f"| {first} | {middle:.0f} ms, {high:.0f} ms |"
        )


async def measure_speed(
    base_url: str, model: str, streams: int = 32, seconds: float = 15.0
) -> Speed:
    """Time a server that has no other load. Raises ModelError if it refuses."""
    scenarios = make_scenarios(256, SEED)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as http:
        server = Server(http, base_url, model)
        first_ms = [
            1000 * await _first_token_s(server, scenario)
            for scenario in scenarios[: ALONE + WARM_UP]
        ]
        alone = first_ms[WARM_UP:]
        started = time.perf_counter()
        until = started + seconds

        async def stream(number: int) -> int:
            tokens = 0
            turn = number
            while time.perf_counter() < until:
                scenario = scenarios[turn % len(scenarios)]
                tokens += await _generate(server, scenario)
                turn += streams
            return tokens

        generated = sum(await asyncio.gather(*(stream(n) for n in range(streams))))
        took_s = time.perf_counter() - started
    return Speed(streams, generated / took_s, (median(alone), quantiles(alone, n=20)[-1]))


def _question(scenario: Scenario) -> tuple[list[dict], list[dict]]:
    """Return the messages and the tools of a scenario's first question."""
    tools = [BY_NAME[name].openai() for name in scenario.offered]
    return [{"role": "user", "content": scenario.turns[0].text}], tools


async def _first_token_s(server: Server, scenario: Scenario) -> float:
    """Return the seconds to the first event of the stream.

    vLLM sends it with the first token, even if that is part of a tool call.
    """
    started = time.perf_counter()
    async with server.request(*_question(scenario), stream=True) as response:
        await response.content.readline()
        first = time.perf_counter() - started
        await response.read()
    return first


async def _generate(server: Server, scenario: Scenario) -> int:
    """Generate MAX_TOKENS tokens, beyond the end of the answer; return how many it were."""
    async with server.request(*_question(scenario), ignore_eos=True) as response:
        return (await response.json())["usage"]["completion_tokens"]
