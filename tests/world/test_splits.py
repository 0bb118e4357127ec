"""Live questions were never trained on."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys

import pytest

from lab.world import documents, entities
from lab.world.catalogue import MCP_TOOLS
from lab.world.facts import TIMED_OUT, RandomFacts
from lab.world.phrasings import AFTER, BEFORE, FILLERS, PHRASINGS
from lab.world.scenarios import build
from scripts.train_lab_model.corpus import DRILL, draw


@pytest.mark.parametrize("intent", PHRASINGS)
def test_phrasings_of_the_splits_are_disjoint(intent: str) -> None:
    """No text that a training pattern can become is also one that a held-out pattern can become,
    however dressed.
    """
    trained, held_out = (
        {_bare(t) for p in patterns for t in _expansions(p)} for patterns in PHRASINGS[intent]
    )
    assert not trained & held_out
    assert len(PHRASINGS[intent][0]) >= 4 and len(PHRASINGS[intent][1]) >= 2


def _expansions(pattern: str) -> set[str]:
    """Return every text that a pattern can become, slots unfilled."""
    match = re.search(r"\(([^()]*)\)", pattern)
    if not match:
        return {" ".join(pattern.replace(" ,", ",").split())}
    pieces = [
        pattern[: match.start()] + option + pattern[match.end() :] for option in match[1].split("|")
    ]
    return set().union(*map(_expansions, pieces))


def _bare(text: str) -> str:
    """Without what politeness may put around it, and without commas: what `dress` adds is seen in
    both splits.
    """
    bare = text.replace(",", "")
    before, after = ([n.replace(",", "").strip() for n in noise] for noise in (BEFORE, AFTER))
    while shorter := [bare[len(n) + 1 :] for n in before if bare.startswith(f"{n} ")]:
        bare = shorter[0]
    while shorter := [bare[: -len(n) - 1] for n in after if bare.endswith(f" {n}")]:
        bare = shorter[0]
    return bare.strip("?:")


def test_fillers_of_the_splits_are_disjoint() -> None:
    """Out-of-scope questions are about things that training never named."""
    for trained, held_out in FILLERS.values():
        assert not set(trained) & set(held_out)


def test_training_conversations_hold_no_held_out_entity_or_topic() -> None:
    """Every name, number and topic that 2,000 training conversations call tools with is of the
    training split.
    """
    rng = random.Random(5)
    seen = 0
    for _ in range(2000):
        for message in draw(rng).messages:
            for call in message.get("tool_calls") or ():
                seen += 1
                for values in re.findall(
                    r'"(?:node|job|invoice|order|team|region|query)": "([^"]+)"', _text(call)
                ):
                    for value in values.split(", "):  # the drill asks for several topics at once
                        assert entities.split_of(value) == "train", value
    assert seen > 1500


def _text(call: dict) -> str:
    return call["function"]["arguments"]


def test_the_drill_cannot_be_answered_by_the_attribute_alone() -> None:
    """Every passage that it finds states each attribute that it asks for: whose value it is tells
    the thing alone.
    """
    rng = random.Random(6)
    for _ in range(200):
        _, call, found, answer = draw(rng, kinds=(DRILL,)).messages
        passages = found["content"].split("[")[1:]
        topics = json.loads(_text(call["tool_calls"][0]))["query"].split(", ")
        assert len(passages) >= 2
        for topic in topics:
            attribute, thing = topic.split(" of ", 1)
            assert all(attribute in passage for passage in passages)
            assert f"For {thing}: {attribute} " in answer["content"]


def test_a_seed_gives_the_same_conversations_in_every_process() -> None:
    """Python orders sets of text anew in each process, unless a seed is set."""
    program = (
        "import random; from scripts.train_lab_model.corpus import draw as d; r = random.Random(1)"
    )
    program += "; print([d(r) for _ in range(200)])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(outputs) == 1 and len(outputs.pop()) > 10_000


def test_any_tool_may_time_out_in_training() -> None:
    """Live, deliveries alone do so by themselves.

    But an injected fault may be of another tool.
    """
    rng = random.Random(7)
    tools = {
        split: {
            call.tool
            for _ in range(600)
            for turn in build("tool_error", RandomFacts(rng, split), split)[1]
            for call in turn.calls
            if call.result == TIMED_OUT
        }
        for split in ("train", "held_out")
    }
    assert tools["held_out"] == {"get_delivery_eta"}
    assert tools["train"] == {tool.name for tool in MCP_TOOLS}


def test_the_help_desks_documents_are_held_out() -> None:
    """What file search finds live was never trained on."""
    for _, facts in documents.all_documents().values():
        assert {entities.split_of(topic) for topic, _ in facts} == {"held_out"}


@pytest.mark.parametrize(
    "make", [entities.node, entities.job, entities.invoice, entities.order, entities.team]
)
def test_drawn_entities_are_of_the_split_asked_for(make: object) -> None:
    """And they vary: a hundred draws are at least ninety names."""
    for split in ("train", "held_out"):
        rng = random.Random(1)
        names = [make(rng, split) for _ in range(100)]  # type: ignore[operator]
        assert {entities.split_of(n) for n in names} == {split}
        assert len(set(names)) >= 90
