"""Names and numbers of the help desk's world, split into trained ones and held-out ones.

An entity belongs to the held-out split if its CRC-32 is divisible by 5: a rule, not a list, so that
names drawn at random by two people at two times still fall on the same side.
"""

import functools
import random
import string
import zlib
from collections.abc import Callable
from typing import Literal

Split = Literal["train", "held_out"]
HELD_OUT_EVERY = 5

GPUS = ("H100", "H200", "A100", "B200", "L40S", "L4", "A10", "T4", "MI300X", "GH200")
CURRENCIES = {
    "EUR": ("EUR", "euros", "euro"),
    "GBP": ("GBP", "pounds", "British pounds"),
    "JPY": ("JPY", "yen", "Japanese yen"),
    "CHF": ("CHF", "francs", "Swiss francs"),
    "SEK": ("SEK", "kronor", "Swedish kronor"),
    "INR": ("INR", "rupees", "Indian rupees"),
    "CAD": ("CAD", "Canadian dollars"),
    "AUD": ("AUD", "Australian dollars"),
}
SEVERITIES = ("low", "medium", "high")
NODE_STATES = ("healthy", "draining", "down", "overheating", "rebooting")
JOB_STATES = ("running", "queued", "failed", "finished", "paused")
INVOICE_STATES = ("paid", "open", "overdue")
CHECKS = ("memory", "nvlink", "power", "fan", "disk", "network", "none")
PROBLEMS = (
    "fan is loud",
    "ECC errors",
    "no network",
    "disk is full",
    "jobs hang",
    "very slow",
    "clock is wrong",
    "power drops",
    "driver crashes",
    "GPU is missing",
    "smells burnt",
    "login fails",
    "reboots by itself",
    "NVLink is down",
    "too hot",
    "mount is gone",
    "kernel panics",
    "wrong driver",
    "cable is loose",
    "screen stays black",
)

_ONSETS = (
    "b",
    "br",
    "c",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "io", "ou")
_CODAS = ("", "", "n", "r", "s", "l", "x", "m", "ck", "th")


def split_of(entity: str) -> Split:
    """Return the split that an entity of any kind belongs to; case does not matter."""
    return "held_out" if zlib.crc32(entity.casefold().encode()) % HELD_OUT_EVERY == 0 else "train"


def _of_split(make: Callable[[random.Random], str]) -> Callable[[random.Random, Split], str]:
    """Turn a function that draws a name into one that draws until the name is of a split."""

    @functools.wraps(make)
    def draw(rng: random.Random, split: Split) -> str:
        while split_of(name := make(rng)) != split:
            pass
        return name

    return draw


def _word(rng: random.Random, syllables: int) -> str:
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables)
    )


def _digits(rng: random.Random, low: int, high: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(rng.randint(low, high)))


def _hex(rng: random.Random, n: int) -> str:
    return "".join(rng.choice("0123456789abcdef") for _ in range(n))


@_of_split
def node(rng: random.Random) -> str:
    """Draw the name of a GPU node, such as `kra-412`."""
    letters = "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(1, 3)))
    return rng.choice(
        (
            f"{_word(rng, 1)}-{_digits(rng, 2, 4)}",
            f"{letters}{_digits(rng, 2, 4)}",
            f"gpu-{letters}{_digits(rng, 1, 3)}",
            f"{_word(rng, 2)}-{_digits(rng, 1, 2)}",
            f"r{_digits(rng, 1, 2)}-n{_digits(rng, 2, 2)}",
        )
    )


@_of_split
def job(rng: random.Random) -> str:
    """Draw the id of a job, such as `job-88213`."""
    return rng.choice(
        (
            f"job-{_digits(rng, 4, 6)}",
            f"j{_digits(rng, 4, 5)}",
            f"train-{_hex(rng, 4)}",
            f"{_word(rng, 1)}-{_hex(rng, 4)}",
        )
    )


@_of_split
def invoice(rng: random.Random) -> str:
    """Draw the number of an invoice, such as `INV-20418`."""
    return rng.choice(
        (
            f"INV-{_digits(rng, 4, 6)}",
            f"{rng.randint(2021, 2026)}-{_digits(rng, 4, 4)}",
            f"R{_digits(rng, 5, 6)}",
        )
    )


@_of_split
def order(rng: random.Random) -> str:
    """Draw the number of a hardware order, such as `PO-8841`."""
    return rng.choice(
        (
            f"PO-{_digits(rng, 4, 6)}",
            f"ORD-{_digits(rng, 2, 3)}-{_digits(rng, 2, 3)}",
            f"HW{_digits(rng, 4, 5)}",
        )
    )


@_of_split
def thing(rng: random.Random) -> str:
    """Draw an invented thing that a document may be about, such as `brouvea queues`."""
    nouns = (
        "nodes",
        "accounts",
        "logs",
        "queues",
        "halls",
        "licenses",
        "folders",
        "badges",
        "projects",
        "volumes",
    )
    return f"{_word(rng, rng.choice((1, 2)))} {rng.choice(nouns)}"


@_of_split
def team(rng: random.Random) -> str:
    """Draw the name of a team, such as `breath-ml`."""
    return rng.choice(
        (_word(rng, 2), f"{_word(rng, 1)}-{rng.choice(('ml', 'ops', 'lab', 'core', 'data'))}")
    )


@_of_split
def city(rng: random.Random) -> str:
    """Draw the invented city of a region, such as `Gousdria`."""
    return _word(rng, rng.randint(2, 3)).capitalize()


def amount(rng: random.Random, split: Split) -> float:
    """Draw USD with no, one or two decimals, split by its text."""
    digits = rng.choice((0, 1, 2))

    @_of_split
    def text(r: random.Random) -> str:
        return f"{round(r.uniform(2, 10 ** r.uniform(1, 4.3)), digits):g}"

    return float(text(rng, split))


def number(rng: random.Random, low: int, high: int, split: Split) -> int:
    """Draw a whole number; small ranges exist in both splits, as they must."""
    if high - low < 30:
        return rng.randint(low, high)
    return int(_of_split(lambda r: str(r.randint(low, high)))(rng, split))
