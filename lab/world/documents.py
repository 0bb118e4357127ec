"""The help desk's documents: small facts about its services, such as `For backups: retention 14 days.`"""

from __future__ import annotations

import random
import zlib
from pathlib import Path

from lab.world.entities import Split, split_of
from lab.world.entities import thing as made_up_thing

# What a document may say about a thing, and the units that its value may have.
ATTRIBUTES = {
    "retention": ("days", "weeks", "months"),
    "limit": ("GB", "TB", "people"),
    "price": ("USD",),
    "fee": ("USD", "percent"),
    "deadline": ("hours", "days"),
    "size": ("GB", "TB", "meters"),
    "response time": ("minutes", "hours"),
    "repair time": ("hours", "days"),
    "warranty": ("months", "weeks"),
    "discount": ("percent",),
    "capacity": ("people", "TB", "meters"),
    "password length": ("characters",),
    "maximum age": ("days", "months"),
    "notice period": ("days", "weeks"),
    "waiting time": ("minutes", "days"),
    "budget": ("USD",),
    "minimum term": ("months", "weeks"),
    "distance": ("meters",),
}
THINGS = (
    "backups",
    "snapshots",
    "system logs",
    "shared volumes",
    "credit notes",
    "the Berlin site",
    "the west hall",
    "night shifts",
    "guest accounts",
    "service accounts",
    "spot nodes",
    "reserved nodes",
    "student projects",
    "the batch queue",
    "the debug queue",
    "scratch space",
    "home folders",
    "model weights",
    "container images",
    "the license server",
    "support contracts",
    "spare parts",
    "cooling water",
    "the backup generator",
    "fire drills",
    "visitor badges",
    "data exports",
    "tape archives",
    "firmware updates",
    "kernel updates",
    "trial accounts",
    "late payments",
    "the status page",
    "the on-call phone",
    "loan laptops",
    "key cards",
    "audit reports",
    "gold customers",
    "silver customers",
    "partner discounts",
)
# How a document states a fact. The attribute stands next to its value in each: all facts of a document share the thing,
# so a form that puts the thing between them hides which value is which.
FORMS = (
    "For {thing}: {attribute} {value}.",
    "With {thing}, {attribute} {value}.",
    "On {thing}: {attribute} {value}.",
    "For {thing}, the {attribute} is {value}.",
    "As for {thing}, {attribute}: {value}.",
    "We give {thing} a {attribute} of {value}.",
)
DOCUMENT_SEED = 7
FACTS_PER_DOCUMENT = 4
MADE_UP = 0.5  # of the documents to train on: about a thing that is not among THINGS


def topic(attribute: str, thing: str) -> str:
    """What is asked and searched for."""
    return f"{attribute} of {thing}"


def value(rng: random.Random, asked: str) -> str:
    """A value that has to be copied: `14 days`."""
    return f"{rng.randint(2, rng.choice((20, 100, 999)))} {rng.choice(ATTRIBUTES[asked.split(' of ')[0]])}"


def sentence(asked: str, answer: str, form: str = FORMS[0]) -> str:
    """One fact as a document states it, or, in the first form, as the help desk does."""
    attribute, thing = asked.split(" of ", 1)
    return form.format(attribute=attribute, thing=thing, value=answer)


def topics(thing: str, split: Split) -> list[str]:
    """All topics of a thing that belong to a split."""
    return [t for a in ATTRIBUTES if split_of(t := topic(a, thing)) == split]


def title(thing: str) -> str:
    """Heading of a thing's document."""
    bare = thing.removeprefix("the ")
    return f"# {bare[0].upper()}{bare[1:]}"


def passage(rng: random.Random, thing: str, facts: list[tuple[str, str]]) -> str:
    """A document's text: heading and facts, each in a form of its own."""
    return (
        title(thing)
        + "\n\n"
        + " ".join(sentence(asked, answer, rng.choice(FORMS)) for asked, answer in facts)
    )


def draw_passage(
    rng: random.Random,
    split: Split,
    attributes: tuple[str, ...] = (),
    most: int = FACTS_PER_DOCUMENT,
) -> tuple[str, list[tuple[str, str]]]:
    """(text, [(topic, value)]) of a random document of 2 to `most` facts, those of `attributes` among them; its topics
    all belong to `split`.

    Half of those to train on are about things that nobody knows: with the known ones alone a model learns pairs of
    attribute and thing, and misses the pairs that are held out, instead of looking the attribute up.
    """
    while True:
        made_up = split == "train" and rng.random() < MADE_UP
        about = made_up_thing(rng, split) if made_up else rng.choice(THINGS)
        known = topics(about, split)
        needed = [topic(attribute, about) for attribute in attributes]
        if known and set(needed) <= set(known):
            others = [t for t in known if t not in needed]
            more = max(0, rng.randint(2, most) - len(needed))
            chosen = needed + rng.sample(others, min(len(others), more))
            rng.shuffle(chosen)
            facts = [(asked, value(rng, asked)) for asked in chosen]
            return passage(rng, about, facts), facts


def all_documents(seed: int = DOCUMENT_SEED) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """{file name: (text, [(topic, value)])} of the help desk's own documents: held-out topics only."""
    found = {}
    for thing in THINGS:
        known = topics(thing, "held_out")
        if len(known) >= 2:
            rng = random.Random(seed * 1_000_003 + zlib.crc32(thing.encode()))
            facts = [(asked, value(rng, asked)) for asked in known[:FACTS_PER_DOCUMENT]]
            name = thing.removeprefix("the ").lower().replace(" ", "-")
            found[f"{name}.md"] = (passage(rng, thing, facts) + "\n", facts)
    return found


def write_documents(folder: Path, seed: int = DOCUMENT_SEED) -> list[Path]:
    """Write them to `folder`; the same seed writes the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (text, _) in all_documents(seed).items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written


def search_result(query: str, passages: list[str]) -> str:
    """What the model reads after file_search, once the chat template has dropped the citations.

    Llama Stack joins header, chunks, footer and context from templates of its configuration; these are the lab's.
    """
    chunks = "".join(f"[{i}] {text} \n" for i, text in enumerate(passages, 1))
    return f"file_search: {len(passages)}\n{chunks}\n{query}\n"
