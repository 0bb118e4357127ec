"""How the agent went about a turn: steps, errors and what it did about them, and whether the answer is what the tools
said. Beside `judge`, which says whether the right thing was called and answered. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from lab.world.facts import TIMED_OUT
from lab.world.judge import ActualCall, Verdict, apologises, leaves, stated, without_repeats
from lab.world.scenarios import Call, Turn

SEARCH = "file_search"
SAME_WORDS = 0.85  # of an answer's words that matter must stand in one sentence of a passage, and all of its numbers
_SMALL_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by expect for give has have in is it of on our the to we with",
    )
)


@dataclass(frozen=True)
class Conduct:
    """None where there is nothing to judge: no error to recover from, no tool that answered, no search.

    steps, steps_needed: calls made, and the fewest that could have answered: those expected, and one more for each
    upstream that timed out.
    own_errors: failed calls that nobody expected so: the agent's own arguments or tool were wrong; given_errors: the
    world's.
    answer_right: the answer is what a user needs: it states the right values, or rightly says that there are none. An
    apology for a failure of the agent's own making is not.
    recovered: the answer is right in spite of an error (that something does not exist is a right answer too), and what
    timed out was tried again.
    answer_faithful: the answer states the values that the last tool returned, whatever it was asked for.
    passage_found, passage_faithful: the search returned the passage with the fact; the answer says what a passage says.
    """

    steps: int
    steps_needed: int
    own_errors: int
    given_errors: int
    answer_right: bool
    recovered: bool | None
    answer_faithful: bool | None
    passage_found: bool | None
    passage_faithful: bool | None

    @property
    def more_steps(self) -> bool:
        """Whether it made more calls than were needed."""
        return self.steps > self.steps_needed


def conduct_of(turn: Turn, calls: list[ActualCall], answer: str, verdict: Verdict) -> Conduct:
    """Judge the conduct of one turn. `calls` with the tools' own error texts, where they are known."""
    given = [c for c in calls if c.error and _expected(c, turn)]
    timed_out = sum(TIMED_OUT in c.output for c in given)
    last = calls[-1] if calls else None
    searched = last is not None and last.tool == SEARCH
    passages = _texts(last.output) if last and searched else []
    return Conduct(
        steps=len(calls),
        steps_needed=len(without_repeats(list(turn.calls))) + timed_out,
        own_errors=sum(c.error for c in calls) - len(given),
        given_errors=len(given),
        answer_right=verdict.answer_states
        and not (last is not None and last.error and not _expected(last, turn)),
        recovered=_recovered(calls, answer, verdict, turn) if any(c.error for c in calls) else None,
        answer_faithful=None if last is None or searched else _faithful(last, answer),
        passage_found=any(_says(p, turn.answer, 1.0) for p in passages)
        if searched and turn.calls
        else None,
        passage_faithful=any(_says(p, answer) for p in passages) if searched else None,
    )


def _expected(call: ActualCall, turn: Turn) -> bool:
    return any((call.tool, call.arguments) == (e.tool, e.arguments) for e in turn.calls)


def _recovered(calls: list[ActualCall], answer: str, verdict: Verdict, turn: Turn) -> bool:
    last = calls[-1]
    if not last.error:
        return verdict.answer_states
    if TIMED_OUT in last.output and sum(TIMED_OUT in c.output for c in calls) < 2:
        return False  # given up at the first try
    return _expected(last, turn) and apologises(last.output, answer)


def _faithful(last: ActualCall | Call, answer: str) -> bool | None:
    if last.error:
        return apologises(last.output, answer)
    if not last.output:
        return None  # it was not run: the model called what the request does not offer
    return all(stated(_spoken(value), answer) for value in leaves(last.output))


def _spoken(value: str) -> str:
    """A diagnosis without a failed check is told as 'passed'."""
    return "passed" if value == "none" else value


def _texts(output: str) -> list[str]:
    try:
        found = json.loads(output)
    except ValueError:
        return [output]
    return [str(text) for text in found] if isinstance(found, list) else [output]


def _says(passage: str, answer: str, share: float = SAME_WORDS) -> bool:
    """Whether one sentence of the passage holds all numbers of the answer and this share of its words that matter."""
    words = _words(answer)
    numbers = {w for w in words if any(c.isdigit() for c in w)}
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", passage):
        there = _words(sentence)
        if words and numbers <= there and len(words & there) >= share * len(words):
            return True
    return False


def _words(text: str) -> set[str]:
    return set(re.findall(r"[\w%-]+", text.lower())) - _SMALL_WORDS
