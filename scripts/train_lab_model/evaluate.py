"""Evaluation against a running vLLM: held-out questions at temperature 0, with tools that really answer.

Each scenario is a conversation: the model's tool calls are run on the help desk's database (a scenario that is about a
failing upstream fails as it says), their results go back, until the model answers. `lab.world.judge` does the rest.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import aiohttp
from scipy.stats import binomtest
from tqdm.auto import tqdm

from lab.errors import ModelError
from lab.world import (
    BY_NAME,
    KINDS,
    ActualCall,
    Scenario,
    ToolFailed,
    Turn,
    Verdict,
    call_tool,
    judge,
    make_scenarios,
)
from lab.world.facts import TIMED_OUT, memory_database
from lab.world.scenarios import as_text

MAX_MODEL_CALLS = 6  # of one turn
MAX_TOKENS = 128


@dataclass(frozen=True)
class Rate:
    """So many of so many, with the Wilson 95 % interval."""

    hits: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % confidence interval of the rate."""
        found = binomtest(self.hits, self.of).proportion_ci(0.95, method="wilson")
        return found.low, found.high

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.hits / self.of:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


async def evaluate(
    base_url: str, model: str, per_kind: int, seed: int, streams: int = 32
) -> list[dict[str, Any]]:
    """Judge `per_kind` scenarios of every kind. One row a kind: {kind, cases, measure: Rate}.

    A case is a scenario; it counts as a hit only if every turn of it is one. Raises ModelError if the server refuses.
    """
    scenarios = make_scenarios(per_kind * len(KINDS), seed, kinds=list(KINDS))
    db, gate = memory_database(), asyncio.Semaphore(streams)
    found: dict[str, list[list[Verdict]]] = defaultdict(list)
    with tqdm(total=len(scenarios), unit="case", mininterval=5) as bar:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as http:

            async def one(scenario: Scenario) -> None:
                async with gate:
                    found[scenario.kind].append(
                        await _converse(http, base_url, model, scenario, db)
                    )
                    bar.update()

            await asyncio.gather(*(one(s) for s in scenarios))
    return [_row(kind, found[kind]) for kind in KINDS]


def _row(kind: str, cases: list[list[Verdict]]) -> dict[str, Any]:
    def rate(measure: str) -> Rate:
        return Rate(sum(all(getattr(v, measure) for v in turns) for turns in cases), len(cases))

    malformed = Rate(sum(any(v.malformed for v in turns) for turns in cases), len(cases))
    measures = {m: rate(m) for m in ("right_tool", "arguments_exact", "answer_states")}
    return {"kind": kind, "cases": len(cases), **measures, "malformed": malformed}


async def _converse(
    http: aiohttp.ClientSession,
    base_url: str,
    model: str,
    scenario: Scenario,
    db: sqlite3.Connection,
) -> list[Verdict]:
    tools = [BY_NAME[name].openai() for name in scenario.offered]
    messages: list[dict[str, Any]] = []
    verdicts = []
    for turn in scenario.turns:
        messages.append({"role": "user", "content": turn.text})
        calls: list[ActualCall] = []
        answer = ""
        for _ in range(MAX_MODEL_CALLS):
            message = await _ask(http, base_url, model, messages, tools)
            asked = message.get("tool_calls") or []
            if not asked:
                answer = message.get("content") or ""
                break
            messages.append({"role": "assistant", "content": None, "tool_calls": asked})
            for call in asked:
                calls.append(_run(db, turn, len(calls), call["function"]))
                messages.append(
                    {"role": "tool", "tool_call_id": call["id"], "content": calls[-1].output}
                )
        messages.append({"role": "assistant", "content": answer})
        verdicts.append(judge(turn, calls, answer, scenario.offered))
    return verdicts


async def _ask(
    http: aiohttp.ClientSession, base_url: str, model: str, messages: list, tools: list
) -> dict[str, Any]:
    body = {
        "model": model,
        "messages": messages,
        "tools": tools,
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    async with http.post(f"{base_url}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            raise ModelError(
                f"the model server refused a request with {response.status}",
                got=(await response.text())[:500],
                fix="check that vLLM runs with --enable-auto-tool-choice --tool-call-parser hermes",
            )
        return (await response.json())["choices"][0]["message"]


def _run(db: sqlite3.Connection, turn: Turn, index: int, function: dict[str, str]) -> ActualCall:
    """Run a call as the scenario has it: its time-outs happen, its passages are found, the rest asks the database."""
    name = function["name"]
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return ActualCall(name, None, "the arguments are not JSON", error=True)
    planned = turn.calls[index] if index < len(turn.calls) else None
    if planned and planned.tool == name and (planned.result == TIMED_OUT or name == "file_search"):
        return ActualCall(name, arguments, planned.result, planned.error)
    if name not in BY_NAME or not BY_NAME[name].mcp:
        return ActualCall(name, arguments, f"unknown tool {name}", error=True)
    try:
        return ActualCall(name, arguments, as_text(call_tool(db, name, arguments)))
    except ToolFailed as e:
        return ActualCall(name, arguments, str(e), error=True)
    except TypeError as e:  # an argument too many or too few
        return ActualCall(name, arguments, str(e), error=True)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    head = "| kind | cases | right tool | all arguments exact | answer states the value | malformed tool JSON |\n"
    lines = [
        f"| {r['kind']} | {r['cases']} | {r['right_tool']} | {r['arguments_exact']} | {r['answer_states']} "
        f"| {r['malformed']} |"
        for r in rows
    ]
    return head + "|---|---|---|---|---|---|\n" + "\n".join(lines)
