"""What is asked live was never trained on."""

from __future__ import annotations

import random
import re

import pytest

from lab.world import documents, entities
from lab.world.phrasings import AFTER, BEFORE, FILLERS, PHRASINGS, expansions
from scripts.train_lab_model.corpus import draw


@pytest.mark.parametrize("intent", PHRASINGS)
def test_phrasings_of_the_splits_are_disjoint(intent: str) -> None:
    """No text that a training pattern can become is also one that a held-out pattern can become, however dressed."""
    trained, held_out = ({_bare(t) for p in patterns for t in expansions(p)} for patterns in PHRASINGS[intent])
    assert not trained & held_out
    assert len(PHRASINGS[intent][0]) >= 4 and len(PHRASINGS[intent][1]) >= 2


def _bare(text: str) -> str:
    """Without what politeness may put around it, and without commas: what `dress` adds is seen in both splits."""
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
    """Every name, number and topic that 2,000 training conversations call tools with is of the training split."""
    rng = random.Random(5)
    seen = 0
    for _ in range(2000):
        for message in draw(rng).messages:
            for call in message.get("tool_calls") or ():
                seen += 1
                for value in re.findall(r'"(?:node|job|invoice|order|team|region|query)": "([^"]+)"', _text(call)):
                    if value in documents.THINGS:  # what a drill asks about: both splits know things, not their topics
                        continue
                    assert entities.split_of(value) == "train", value
    assert seen > 1500


def _text(call: dict) -> str:
    return call["function"]["arguments"]


def test_the_help_desks_documents_are_held_out() -> None:
    """What file search finds live was never trained on."""
    for _, facts in documents.all_documents().values():
        assert {entities.split_of(topic) for topic, _ in facts} == {"held_out"}


@pytest.mark.parametrize("make", [entities.node, entities.job, entities.invoice, entities.order, entities.team])
def test_drawn_entities_are_of_the_split_asked_for(make: object) -> None:
    """And they vary: a hundred draws are at least ninety names."""
    for split in ("train", "held_out"):
        rng = random.Random(1)
        names = [make(rng, split) for _ in range(100)]  # type: ignore[operator]
        assert {entities.split_of(n) for n in names} == {split}
        assert len(set(names)) >= 90
