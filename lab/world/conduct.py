"""Judge how the agent went about a turn: its steps, errors, recovery, faithfulness to the tools.

`judge` decides whether the right tool was called and the right answer given; this is the way there.
Pure functions.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from lab.world.facts import TIMED_OUT
from lab.world.judge import ActualCall, Verdict, apologises, leaves, stated, without_repeats
from lab.world.scenarios import Turn

SEARCH = "file_search"
# Of an answer's significant words, the share that one sentence of a passage must hold, besides all
# of its numbers.
SAME_WORDS = 0.85
_SMALL_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by expect for give has have in is it of on our the to we with",
    )
)


@dataclass(frozen=True)
class Conduct:
    """The conduct of one turn; None where there is nothing to judge: no error, no tool, no search.

    - `steps`, `steps_needed`: calls made, and the fewest that could have answered: those expected,
      and one more for each upstream that timed out.
    - `own_errors`: failed calls that were not expected to fail: the agent's arguments or tool were
      wrong. `given_errors`: failures of the world.
    - `answer_right`: the answer is what a user needs: it states the right values, or rightly says
      that there are none. An apology for a failure of the agent's own making is not.
    - `recovered`: the answer is right in spite of an error (that something does not exist is a
      right answer too), and what timed out was tried again.
    - `answer_faithful`: the answer states the values that the last tool returned.
    - `passage_found`, `passage_faithful`: the search returned the passage with the fact; the answer
      says what a passage says.
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
    """Judge the conduct of one turn. `calls` hold the tools' own error texts, where known."""
    failed = [c for c in calls if c.error]
    given = [c for c in failed if _expected(c, turn)]
    # The last call failed and should not have been made.
    failed_by_itself = bool(calls) and calls[-1].error and not _expected(calls[-1], turn)
    timed_out = sum(TIMED_OUT in c.output for c in given)
    passage_found, passage_faithful = _search(turn, calls, answer)

    return Conduct(
        steps=len(calls),
        steps_needed=len(without_repeats(turn.calls)) + timed_out,
        own_errors=len(failed) - len(given),
        given_errors=len(given),
        answer_right=verdict.answer_states and not failed_by_itself,
        recovered=_recovered(calls, answer, verdict, turn) if failed else None,
        answer_faithful=_faithful(calls, answer),
        passage_found=passage_found,
        passage_faithful=passage_faithful,
    )


def _expected(call: ActualCall, turn: Turn) -> bool:
    return any((call.tool, call.arguments) == (e.tool, e.arguments) for e in turn.calls)


def _recovered(calls: list[ActualCall], answer: str, verdict: Verdict, turn: Turn) -> bool:
    last = calls[-1]
    if not last.error:
        return verdict.answer_states
    if TIMED_OUT in last.output and sum(TIMED_OUT in c.output for c in calls) < 2:
        return False  # it gave up at the first try
    return _expected(last, turn) and apologises(last.output, answer)


def _faithful(calls: list[ActualCall], answer: str) -> bool | None:
    if not calls or calls[-1].tool == SEARCH:
        return None
    last = calls[-1]
    if last.error:
        return apologises(last.output, answer)
    if not last.output:
        return None  # it was not run: the model called what the request does not offer
    # A diagnosis without a failed check is reported as 'passed'.
    values = ("passed" if value == "none" else value for value in leaves(last.output))
    return all(stated(value, answer) for value in values)


def _search(turn: Turn, calls: list[ActualCall], answer: str) -> tuple[bool | None, bool | None]:
    """Return (passage found, passage faithful) of a turn that ended with a search."""
    if not calls or calls[-1].tool != SEARCH:
        return None, None
    passages = _texts(calls[-1].output)
    is_there = any(_says(p, turn.answer, 1.0) for p in passages) if turn.calls else None
    return is_there, any(_says(p, answer) for p in passages)


def _texts(output: str) -> list[str]:
    try:
        passages = json.loads(output)
    except (ValueError, RecursionError):
        return [output]
    return [str(text) for text in passages] if isinstance(passages, list) else [output]


def _says(passage: str, answer: str, share: float = SAME_WORDS) -> bool:
    """Return whether a sentence has all numbers of the answer and this share of its words."""
    words = _words(answer)
    if not words:
        return False
    numbers = {word for word in words if any(c.isdigit() for c in word)}
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", passage):
        there = _words(sentence)
        if numbers <= there and len(words & there) >= share * len(words):
            return True
    return False


def _words(text: str) -> set[str]:
    return set(re.findall(r"[\w%-]+", text.lower())) - _SMALL_WORDS
