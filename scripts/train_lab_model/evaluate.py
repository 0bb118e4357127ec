"""Evaluate a running vLLM on held-out questions at temperature 0, with real tool calls.

Each scenario is a conversation: the model's tool calls are executed on the help desk's database (or
fail, if the scenario plans a failing upstream) and their results are returned to the model until it
answers. `lab.world.judge` judges the conversation.
"""

import asyncio
import json
import sqlite3
from collections import defaultdict
from typing import Any

from openai import APIError, AsyncOpenAI
from tqdm.auto import tqdm

from lab.errors import ModelError
from lab.measures import wilson
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


async def evaluate(
    base_url: str, model: str, per_kind: int, seed: int, streams: int = 32
) -> list[dict[str, str]]:
    """Judge `per_kind` scenarios of every kind.

    Return one row per kind: {kind, cases, measure: its rate with an interval}. A case is a
    scenario; it is a hit only if every turn is one. Raises ModelError if the server refuses.
    """
    scenarios = make_scenarios(per_kind * len(KINDS), seed, kinds=list(KINDS))
    db = memory_database()
    gate = asyncio.Semaphore(streams)
    cases: dict[str, list[list[Verdict]]] = defaultdict(list)
    with tqdm(total=len(scenarios), unit="case", mininterval=5) as bar:
        async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key="-", timeout=600) as server:

            async def converse(scenario: Scenario) -> None:
                async with gate:
                    verdicts = await _converse(server, model, scenario, db)
                    cases[scenario.kind].append(verdicts)
                    bar.update()

            await asyncio.gather(*(converse(scenario) for scenario in scenarios))
    return [_row(kind, cases[kind]) for kind in KINDS]


def _row(kind: str, cases: list[list[Verdict]]) -> dict[str, str]:
    row = {"kind": kind, "cases": str(len(cases))}
    for measure in ("right_tool", "arguments_exact", "answer_states"):
        hits = sum(all(getattr(v, measure) for v in verdicts) for verdicts in cases)
        row[measure] = _rate(hits, len(cases))
    malformed = sum(any(v.malformed for v in verdicts) for verdicts in cases)
    return row | {"malformed": _rate(malformed, len(cases))}


def _rate(hits: int, cases: int) -> str:
    """Return the rate in percent with its Wilson 95 % interval."""
    return "{:.1f} % [{:.1f}, {:.1f}]".format(*(100 * share for share in wilson(hits, cases)))


async def _answer(
    server: AsyncOpenAI, model: str, messages: list[dict], tools: list[dict]
) -> dict[str, Any]:
    """Return the model's next message. Raises ModelError if the server refuses."""
    question: dict[str, Any] = {"model": model, "messages": messages, "tools": tools}
    try:
        answer = await server.chat.completions.create(
            **question, temperature=0, max_tokens=MAX_TOKENS
        )
    except APIError as e:
        raise ModelError(
            "the model server refused a request",
            got=str(e)[:500],
            fix="check that vLLM serves the model under this name, with "
            "--enable-auto-tool-choice --tool-call-parser hermes",
        ) from e
    return answer.choices[0].message.model_dump()


async def _converse(
    server: AsyncOpenAI, model: str, scenario: Scenario, db: sqlite3.Connection
) -> list[Verdict]:
    """Run one scenario; return the verdict of each turn."""
    tools = [BY_NAME[name].openai() for name in scenario.offered]
    messages: list[dict[str, Any]] = []
    verdicts = []
    for turn in scenario.turns:
        messages.append({"role": "user", "content": turn.text})
        calls: list[ActualCall] = []
        answer = ""
        for _ in range(MAX_MODEL_CALLS):
            message = await _answer(server, model, messages, tools)
            tool_calls = message.get("tool_calls") or []
            if not tool_calls:
                answer = message.get("content") or ""
                break
            messages.append({"role": "assistant", "content": None, "tool_calls": tool_calls})
            for call in tool_calls:
                result = _run(db, turn, len(calls), call["function"])
                calls.append(result)
                messages.append(
                    {"role": "tool", "tool_call_id": call["id"], "content": result.output}
                )
        messages.append({"role": "assistant", "content": answer})
        verdicts.append(judge(turn, calls, answer, scenario.offered))
    return verdicts


def _run(db: sqlite3.Connection, turn: Turn, index: int, function: dict[str, str]) -> ActualCall:
    """Execute a tool call: with the time-outs and passages that the scenario plans, if any.

    All other calls are executed on the database.
    """
    name = function["name"]
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return ActualCall(name, None, "the arguments are not JSON", error=True)

    planned = turn.calls[index] if index < len(turn.calls) else None
    if planned and planned.tool == name and (planned.result == TIMED_OUT or name == "file_search"):
        return ActualCall(name, arguments, planned.result, planned.error)
    if name not in BY_NAME or not BY_NAME[name].mcp:
        return ActualCall(name, arguments, f"unknown tool {name}", error=True)
    try:
        return ActualCall(name, arguments, as_text(call_tool(db, name, arguments)))
    except (ToolFailed, TypeError) as e:  # TypeError: too many or too few arguments
        return ActualCall(name, arguments, str(e), error=True)


def table(rows: list[dict[str, str]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| kind | cases | right tool | all arguments exact | answer states the value "
        "| malformed tool JSON |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row.values())} |" for row in rows]
    return "\n".join(lines)
