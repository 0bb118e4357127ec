"""Turn an intent into a question as people write it, from the patterns in phrasings.toml.

In a pattern, `(a|b|)` chooses one alternative and `{slot}` takes an entity. Greetings, thanks and
typos are put around and into the result (`dress`).
"""

import random
import re
import tomllib
from pathlib import Path

from lab.world.entities import Split

Patterns = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]

_GROUP = re.compile(r"\(([^()]*)\)")
_DATA = tomllib.loads(Path(__file__).with_name("phrasings.toml").read_text(encoding="utf-8"))


def _by_split(section: str) -> Patterns:
    return {
        name: (tuple(lists["train"]), tuple(lists["held_out"]))
        for name, lists in _DATA[section].items()
    }


# {intent or slot: (to train on, held out)}
PHRASINGS = _by_split("phrasings")
FILLERS = _by_split("fillers")
BEFORE = tuple(_DATA["dressing"]["before"])
AFTER = tuple(_DATA["dressing"]["after"])


def fillers(slot: str, split: Split) -> tuple[str, ...]:
    """Return what an out-of-scope question may be about."""
    return FILLERS[slot][split == "held_out"]


def say(intent: str, rng: random.Random, split: Split, **slots: str) -> str:
    """Return one way to ask: alternatives chosen, slots filled, dressed as people write."""
    pattern = rng.choice(PHRASINGS[intent][split == "held_out"])
    while match := _GROUP.search(pattern):
        chosen = rng.choice(match.group(1).split("|"))
        pattern = pattern[: match.start()] + chosen + pattern[match.end() :]

    one_spaced = " ".join(pattern.replace(" ,", ",").split())
    return dress(one_spaced, rng, slots)


def dress(pattern: str, rng: random.Random, slots: dict[str, str]) -> str:
    """Fill the slots; add typos (never in an entity), greetings, a capital, punctuation."""
    pieces = re.split(r"(\{\w+\})", pattern)
    if rng.random() < 0.15:
        pieces = [p if p.startswith("{") else _typo(p, rng) for p in pieces]
    text = "".join(slots[p[1:-1]] if p.startswith("{") else p for p in pieces)

    if rng.random() < 0.2:
        text = rng.choice(BEFORE) + text
    if rng.random() < 0.15:
        text += rng.choice(AFTER)
    if rng.random() < 0.4 and not pattern.startswith("{"):
        text = text[0].upper() + text[1:]
    return text + rng.choice(("", "", "?", "?", ".", "!"))


def _typo(words: str, rng: random.Random) -> str:
    """Swap, drop or double one letter inside a word."""
    inside = [i for i in range(1, len(words) - 1) if words[i - 1 : i + 2].isalpha()]
    if not inside:
        return words

    i = rng.choice(inside)
    kind = rng.random()
    if kind < 0.4:
        return words[:i] + words[i + 1] + words[i] + words[i + 2 :]
    if kind < 0.8:
        return words[:i] + words[i + 1 :]
    return words[:i] + words[i] + words[i:]
