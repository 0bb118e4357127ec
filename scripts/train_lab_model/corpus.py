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
from lab.world.phrasings import dress
from lab.world.scenarios import KINDS, Call, Turn, build, offer

DRILL = "overview"  # no scenario asks for it: many look-ups in one conversation, so that looking up is learned sooner
WEIGHTS = {
    "single": 17,
    "chain": 8,
    "follow_up": 9,
    "rag": 28,
    "tool_error": 4,
    "no_tool": 3,
    "out_of_scope": 4,
    "not_offered": 18,
    DRILL: 14,
}
OVERVIEWS = (
    "tell me everything about {thing}",
    "list all that we know about {thing}",
    "give me an overview of {thing}",
    "sum up the rules for {thing}",
    "all facts about {thing}",
)


@dataclass(frozen=True)
class Conversation:
    """One conversation: OpenAI chat messages, and the tools that are offered (OpenAI format)."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


def draw(rng: random.Random, split: Split = "train", kinds: tuple[str, ...] = (*KINDS, DRILL)) -> Conversation:
    """A random conversation. The same state of `rng` gives the same one."""
    kind = rng.choices(kinds, [WEIGHTS[k] for k in kinds])[0]
    intent, turns = (DRILL, (_overview(rng),)) if kind == DRILL else build(kind, RandomFacts(rng, split), split)
    offered = offer(rng, intent, kind, turns, smallest=2)
    return Conversation(messages_of(turns), [BY_NAME[name].openai() for name in offered])


def _overview(rng: random.Random) -> Turn:
    """All facts of one document, by attribute: each has to be looked up, none follows the one that was read before."""
    found = [documents.draw_passage(rng, "train", most=6)]
    facts = sorted(found[0][1])
    attribute, thing = facts[0][0].split(" of ", 1)
    found += [documents.draw_passage(rng, "train", attribute)][: rng.choice((0, 1))]
    passages = [text for text, others in found if others is found[0][1] or others[0][0].split(" of ", 1)[1] != thing]
    rng.shuffle(passages)
    call = Call("file_search", {"query": thing}, documents.search_result(thing, passages))
    answer = " ".join(documents.sentence(asked, value) for asked, value in facts)
    text = dress(rng.choice(OVERVIEWS), rng, {"thing": thing})
    return Turn(text, (call,), answer, tuple(value for _, value in facts))


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
