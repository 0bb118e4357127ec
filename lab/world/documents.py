"""The help desk's documents: facts such as "For backups: retention 14 days."."""

import random
import zlib

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
# How a document states a fact. The attribute stands next to its value in each: all facts of a
# document share the thing, so a form that puts the thing between them hides which value is which.
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
    """Return what users ask and search for, such as `retention of backups`."""
    return f"{attribute} of {thing}"


def value(rng: random.Random, topic: str) -> str:
    """Draw a value that has to be copied, such as `14 days`."""
    attribute = topic.split(" of ")[0]
    number = rng.randint(2, rng.choice((20, 100, 999)))
    return f"{number} {rng.choice(ATTRIBUTES[attribute])}"


def sentence(topic: str, answer: str, form: str = FORMS[0]) -> str:
    """Return one fact as a document states it, or, in the first form, as the help desk does."""
    attribute, thing = topic.split(" of ", 1)
    return form.format(attribute=attribute, thing=thing, value=answer)


def topics(thing: str, split: Split) -> list[str]:
    """Return all topics of a thing that belong to a split."""
    return [t for a in ATTRIBUTES if split_of(t := topic(a, thing)) == split]


def title(thing: str) -> str:
    """Return the heading of a thing's document."""
    bare = thing.removeprefix("the ")
    return f"# {bare[0].upper()}{bare[1:]}"


def passage(rng: random.Random, thing: str, facts: list[tuple[str, str]]) -> str:
    """Return a document's text: heading and facts, each in a form of its own."""
    sentences = [sentence(name, answer, rng.choice(FORMS)) for name, answer in facts]
    return title(thing) + "\n\n" + " ".join(sentences)


def draw_passage(
    rng: random.Random,
    split: Split,
    attributes: tuple[str, ...] = (),
    most: int = FACTS_PER_DOCUMENT,
) -> tuple[str, list[tuple[str, str]]]:
    """Return (text, [(topic, value)]) of a random document of 2 to `most` facts.

    Those of `attributes` are among them, and all topics belong to `split`. Half of the documents to
    train on are about invented things: with the known ones alone a model learns pairs of attribute
    and thing, and misses the pairs that are held out, instead of looking the attribute up.
    """
    while True:
        made_up = split == "train" and rng.random() < MADE_UP
        about = made_up_thing(rng, split) if made_up else rng.choice(THINGS)
        known = topics(about, split)
        needed = [topic(attribute, about) for attribute in attributes]
        if known and set(needed) <= set(known):
            break

    others = [t for t in known if t not in needed]
    more = max(0, rng.randint(2, most) - len(needed))
    chosen = needed + rng.sample(others, min(len(others), more))
    rng.shuffle(chosen)
    facts = [(name, value(rng, name)) for name in chosen]
    return passage(rng, about, facts), facts


def all_documents(seed: int = DOCUMENT_SEED) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Return {file name: (text, [(topic, value)])} of the help desk's own documents.

    All topics are held out. The files in data/world/documents are these texts.
    """
    documents = {}
    for thing in THINGS:
        known = topics(thing, "held_out")
        if len(known) < 2:
            continue
        rng = random.Random(seed * 1_000_003 + zlib.crc32(thing.encode()))
        facts = [(name, value(rng, name)) for name in known[:FACTS_PER_DOCUMENT]]
        file_name = thing.removeprefix("the ").lower().replace(" ", "-") + ".md"
        documents[file_name] = (passage(rng, thing, facts) + "\n", facts)
    return documents


def search_result(query: str, passages: list[str]) -> str:
    """Return what the model reads after file_search, once the chat template dropped the citations.

    Llama Stack joins header, chunks, footer and context from templates of its configuration; these
    are the lab's.
    """
    chunks = "".join(f"[{i}] {text} \n" for i, text in enumerate(passages, 1))
    return f"file_search: {len(passages)}\n{chunks}\n{query}\n"
