"""Grade a diagnosis against the truth of an incident, and keep the scores of a room.

    grade(Diagnosis(what="slow_tool", where="get_order", since=..., how_much=2.0), truth)

Each part is worth the same for every incident: what 50 points, where 20, since when 20, how much
10. Someone who guesses blindly gets what chance gives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from lab.errors import LabError
from lab.investigation.causes import kinds

POINTS = {"what": 50, "where": 20, "since": 20, "how_much": 10}
GOOD_S = 15.0  # an onset that is at most so far away is right, and up to twice that half right
FACTOR = 1.5  # between the amount and the truth, up to which it is right
SAME = {"lab-tools": "tools", "lab-model": "vllm", "canary": "vllm-canary", "host": "machine"}
FILE = "scoreboard.jsonl"


@dataclass(frozen=True)
class Truth:
    """What was the matter: cause, place, onset (epoch seconds), and the amount with its unit.

    `how_much` is NaN where an incident has no amount; then its points go to `what`.
    """

    what: str
    where: str
    since: float
    how_much: float = math.nan
    unit: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """An answer. What is not known is left out; `since` is epoch seconds or ISO 8601 text."""

    what: str = ""
    where: str = ""
    since: float | str = math.nan
    how_much: float = math.nan


@dataclass(frozen=True)
class Grade:
    """Points by part (of POINTS), their sum, and a message for each part."""

    points: dict[str, int]
    messages: tuple[str, ...]

    @property
    def score(self) -> int:
        """Return the sum of the points, of 100."""
        return sum(self.points.values())

    def __str__(self) -> str:
        return "\n".join([f"{self.score} of 100 points", *self.messages])


def grade(diagnosis: Diagnosis, truth: Truth) -> Grade:
    """Return the points of a diagnosis, with friendly messages.

    Raises LabError for a cause that does not exist, or a time that is not one: a mistyped name must
    not cost points.
    """
    check_diagnosis(diagnosis)
    parts = {
        "what": _grade_what(diagnosis.what, truth.what),
        "where": _grade_where(diagnosis.where, truth.where),
        "since": _grade_since(_seconds(diagnosis.since), truth.since),
        "how_much": _grade_amount(diagnosis.how_much, truth),
    }
    points = {name: round(POINTS[name] * share) for name, (share, _) in parts.items()}
    if math.isnan(truth.how_much):
        points["how_much"] = round(POINTS["how_much"] * parts["what"][0])
    return Grade(points, tuple(message for _, message in parts.values()))


def check_diagnosis(diagnosis: Diagnosis) -> None:
    """Raise LabError for a cause that does not exist, and for a time that is not one."""
    known = kinds()
    if diagnosis.what and diagnosis.what not in known:
        raise LabError(
            "there is no such cause", got=repr(diagnosis.what), fix=f"use one of {', '.join(known)}"
        )
    _seconds(diagnosis.since)


def _seconds(since: float | str) -> float:
    if not isinstance(since, str):
        return float(since)
    try:
        moment = datetime.fromisoformat(since)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
    except ValueError as e:
        raise LabError(
            "this is not a time", got=f"{since!r} ({e})", fix="write 2026-11-28T12:00:00Z"
        ) from e
    return moment.timestamp()


def _grade_what(given: str, truth: str) -> tuple[float, str]:
    if not given:
        return 0.0, "What: no answer."
    if given == truth:
        return 1.0, "What: right."
    if truth in kinds() and kinds()[given].phase == kinds()[truth].phase:
        return 0.2, f"What: it was {truth}; {given} shows in the same phase, so that is near."
    return 0.0, f"What: it was {truth}, not {given}."


def _grade_where(given: str, truth: str) -> tuple[float, str]:
    name = given.strip().casefold()
    if SAME.get(name, name) == truth.casefold():
        return 1.0, "Where: right."
    return 0.0, f"Where: it was {truth}" + (f", not {given}." if given else ".")


def _grade_since(given: float, truth: float) -> tuple[float, str]:
    if math.isnan(given):
        return 0.0, "Since when: no answer."
    off_s = given - truth
    when = f"{abs(off_s):.0f} s {'late' if off_s > 0 else 'early'}"
    if abs(off_s) <= GOOD_S:
        return 1.0, f"Since when: right ({when})."
    if abs(off_s) <= 2 * GOOD_S:
        return 0.5, f"Since when: nearly ({when})."
    return 0.0, f"Since when: {when}."


def _grade_amount(given: float, truth: Truth) -> tuple[float, str]:
    amount = f"{truth.how_much:g} {truth.unit}".strip()
    if math.isnan(truth.how_much):
        return 0.0, "How much: this incident has no amount; its points go with what."
    if math.isnan(given) or given <= 0:
        return 0.0, f"How much: it was {amount}."
    off = max(given / truth.how_much, truth.how_much / given)
    if off <= FACTOR:
        return 1.0, f"How much: right ({amount})."
    if off <= FACTOR**2:
        return 0.5, f"How much: nearly; it was {amount}."
    return 0.0, f"How much: it was {amount}, not {given:g}."


def score_line(name: str, grade: Grade, truth: Truth) -> str:
    """Return a line for a scoreboard, to be saved, or pasted by several people into one file."""
    return json.dumps({"name": name, "what": truth.what, **grade.points, "score": grade.score})


def save_score(state_dir: Path, line: str) -> Path:
    """Add a line of `score_line` to the scoreboard in the state folder; return its path."""
    path = state_dir / FILE
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    return path


def scoreboard(lines: Iterable[str] | Path) -> pd.DataFrame:
    """Return one row per person, the best first: `incidents`, mean `score`, mean of each part.

    `lines` are those of `score_line`, or a file of them. Raises LabError for other lines.
    """
    texts = lines.read_text(encoding="utf-8").splitlines() if isinstance(lines, Path) else lines
    try:
        rows = [_score(json.loads(text)) for text in texts if text.strip()]
    except (ValueError, KeyError, TypeError) as e:
        raise LabError("a line is not a score", got=str(e), fix="paste whole lines") from e
    table = pd.DataFrame(rows, columns=["name", "score", *POINTS])
    groups = table.groupby("name", sort=False)
    result = groups.mean()
    result.insert(0, "incidents", groups.size())
    return result.sort_values("score", ascending=False)


def _score(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": str(row["name"]), "score": float(row["score"])} | {
        part: float(row[part]) for part in POINTS
    }
