"""Training conversations: scenarios with random facts and training phrasings, as chat messages; and a drill."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from lab.world import documents
from lab.world.catalogue import BY_NAME
from lab.world.entities import Split
from lab.world.facts import RandomFacts
from lab.world.scenarios import KINDS, Turn, build, offer, rag_turn

# No scenario asks for it: several look-ups in one conversation, so that looking up is learned sooner.
DRILL = "several"
WEIGHTS = {
    "single": 17,
    "chain": 8,
    "follow_up": 9,
    "rag": 20,
    "tool_error": 6,
    "no_tool": 3,
    "out_of_scope": 4,
    "not_offered": 16,
    DRILL: 17,
}


@dataclass(frozen=True)
class Conversation:
    """One conversation: OpenAI chat messages, and the tools that are offered (OpenAI format)."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


def draw(
    rng: random.Random, split: Split = "train", kinds: tuple[str, ...] = (*KINDS, DRILL)
) -> Conversation:
    """A random conversation. The same state of `rng` gives the same one."""
    kind = rng.choices(kinds, [WEIGHTS[k] for k in kinds])[0]
    intent, turns = (
        (DRILL, (_several(rng),)) if kind == DRILL else build(kind, RandomFacts(rng, split), split)
    )
    offered = offer(rng, intent, kind, turns, smallest=2)
    return Conversation(messages_of(turns), [BY_NAME[name].openai() for name in offered])


def _several(rng: random.Random) -> Turn:
    """Several questions for the documents at once. Every passage states each attribute that is asked for, and each is
    asked of one thing alone: neither the attribute by itself nor what has been said already tells the value."""
    attributes = tuple(rng.sample(sorted(documents.ATTRIBUTES), rng.choice((2, 2, 3))))
    passages, values, number = {}, {}, rng.choice((2, 2, 3))
    while len(passages) < number:
        text, facts = documents.draw_passage(rng, "train", attributes, most=3)
        thing = facts[0][0].split(" of ", 1)[1]
        if thing not in passages:
            passages[thing] = text
            values |= dict(facts)
    asked = [documents.topic(attribute, rng.choice(list(passages))) for attribute in attributes]
    return rag_turn(
        rng, "train", [(topic, values[topic]) for topic in asked], list(passages.values())
    )


def messages_of(turns: tuple[Turn, ...]) -> list[dict[str, Any]]:
    """The turns as chat messages, tool calls and their results included."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        messages.append({"role": "user", "content": turn.text})
        for call in turn.calls:
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            function = {"name": call.tool, "arguments": arguments}
            messages.append(
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"type": "function", "function": function}],
                }
            )
            messages.append({"role": "tool", "content": call.result})
        messages.append({"role": "assistant", "content": turn.answer})
    return messages
