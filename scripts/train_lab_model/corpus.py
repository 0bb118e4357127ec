"""Training conversations: scenarios with random facts and training phrasings, as chat messages."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from lab.world.catalogue import BY_NAME
from lab.world.entities import Split
from lab.world.facts import RandomFacts
from lab.world.scenarios import KINDS, Turn, build, offer

WEIGHTS = {
    "single": 30,
    "chain": 20,
    "follow_up": 13,
    "rag": 10,
    "tool_error": 10,
    "no_tool": 4,
    "out_of_scope": 7,
    "not_offered": 6,
}


@dataclass(frozen=True)
class Conversation:
    """One conversation: OpenAI chat messages, and the tools that are offered (OpenAI format)."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


def draw(rng: random.Random, split: Split = "train", kinds: tuple[str, ...] = KINDS) -> Conversation:
    """A random conversation. The same state of `rng` gives the same one."""
    kind = rng.choices(kinds, [WEIGHTS[k] for k in kinds])[0]
    intent, turns = build(kind, RandomFacts(rng, split), split)
    offered = offer(rng, intent, kind, turns, smallest=2)
    return Conversation(messages_of(turns), [BY_NAME[name].openai() for name in offered])


def messages_of(turns: tuple[Turn, ...]) -> list[dict[str, Any]]:
    """The turns as chat messages, tool calls and their results included."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        messages.append({"role": "user", "content": turn.text})
        for call in turn.calls:
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            function = {"name": call.tool, "arguments": arguments}
            messages.append(
                {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]}
            )
            messages.append({"role": "tool", "content": call.result})
        messages.append({"role": "assistant", "content": turn.answer})
    return messages
