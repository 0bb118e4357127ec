"""Training conversations as chat messages: scenarios with random facts, and a drill."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.world import documents
from lab.world.catalogue import BY_NAME
from lab.world.entities import Split
from lab.world.facts import RandomFacts
from lab.world.scenarios import KINDS, Turn, build, offer, rag_turn
from scripts.train_lab_model.recipe import DRILL, load_curriculum

WEIGHTS = load_curriculum()[0].weights


@dataclass(frozen=True)
class Conversation:
    """One conversation: OpenAI chat messages, and the tools that are offered (OpenAI format)."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


def draw(
    rng: random.Random,
    split: Split = "train",
    kinds: tuple[str, ...] = (*KINDS, DRILL),
    weights: Mapping[str, int] = WEIGHTS,
) -> Conversation:
    """Return a random conversation, which depends only on the state of `rng`."""
    kind = rng.choices(kinds, [weights.get(k, 0) for k in kinds])[0]
    if kind == DRILL:
        intent = DRILL
        turns: tuple[Turn, ...] = (_several(rng),)
    else:
        intent, turns = build(kind, RandomFacts(rng, split), split)
    offered = offer(rng, intent, kind, turns, smallest=2)
    return Conversation(messages_of(turns), [BY_NAME[name].openai() for name in offered])


def _several(rng: random.Random) -> Turn:
    """Return a turn with several questions about documents.

    Every passage states each of the requested attributes, and each attribute is requested for only
    one thing, so neither the attribute alone nor the text before it determines the value.
    """
    attributes = tuple(rng.sample(sorted(documents.ATTRIBUTES), rng.choice((2, 2, 3))))
    number = rng.choice((2, 2, 3))
    passages: dict[str, str] = {}
    values: dict[str, str] = {}
    while len(passages) < number:
        text, facts = documents.draw_passage(rng, "train", attributes, most=3)
        thing = facts[0][0].split(" of ", 1)[1]
        if thing not in passages:
            passages[thing] = text
            values |= dict(facts)

    topics = [documents.topic(attribute, rng.choice(list(passages))) for attribute in attributes]
    questions = [(topic, values[topic]) for topic in topics]
    return rag_turn(rng, "train", questions, list(passages.values()))


def messages_of(turns: tuple[Turn, ...]) -> list[dict[str, Any]]:
    """Return the turns as chat messages, including tool calls and their results."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        messages.append({"role": "user", "content": turn.text})
        for call in turn.calls:
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            function = {"name": call.tool, "arguments": arguments}
            calls = [{"type": "function", "function": function}]
            messages.append({"role": "assistant", "content": None, "tool_calls": calls})
            messages.append({"role": "tool", "content": call.result})
        messages.append({"role": "assistant", "content": turn.answer})
    return messages
