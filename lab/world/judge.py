"""Judge whether the agent was right: compare its calls and its answer with the ground truth.

`judge` decides whether the right tools were called and the right answer was given; `conduct_of`
looks at the way there: steps, errors, recovery, faithfulness to the tools. Pure functions, shared
by live runs and the evaluation of the model.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lab.world.facts import TIMED_OUT
from lab.world.scenarios import TICKET, Call, Turn

# What a right answer says after a tool has failed, by the tool's error. Where the error gives no
# reason, either will do: Llama Stack passes on no more than "Error (code 1): None".
_APOLOGIES = {TIMED_OUT: "did not answer", "unknown ": "could not find"}


@dataclass(frozen=True)
class ActualCall:
    """A call that the agent made. `arguments` is None where its JSON could not be read."""

    tool: str
    arguments: dict[str, Any] | None
    output: str = ""
    error: bool = False


@dataclass(frozen=True)
class Verdict:
    """The judgement of one turn.

    - `right_tool`: the calls, in order, are the expected ones (none where none is needed). A repeat
      after an error counts once.
    - `arguments_exact`: `right_tool`, and every argument is equal.
    - `answer_states`: the answer holds every value that it should.
    - `arguments`: (tool, argument, exact) for every expected argument of the calls whose tool was
      right.
    """

    right_tool: bool
    arguments_exact: bool
    answer_states: bool
    needless_call: bool
    missing_call: bool
    not_offered_call: bool
    malformed: bool
    arguments: tuple[tuple[str, str, bool], ...]


_AnyCall = TypeVar("_AnyCall", Call, ActualCall)


def judge(
    turn: Turn, calls: list[ActualCall], answer: str, offered: tuple[str, ...] = ()
) -> Verdict:
    """Judge one turn. `offered` are the tools of the request; if empty, that is not checked."""
    expected, made = compared(turn, calls)
    right_tool = [c.tool for c in made] == [c.tool for c in expected]
    malformed = any(c.arguments is None for c in calls) or "<tool_call>" in answer
    arguments, nothing_extra = _compare_arguments(expected, made)
    all_exact = nothing_extra and all(exact for _, _, exact in arguments)

    return Verdict(
        right_tool=right_tool,
        arguments_exact=right_tool and all_exact and not malformed,
        answer_states=_answer_states(turn, made, answer),
        needless_call=len(made) > len(expected),
        missing_call=len(made) < len(expected),
        not_offered_call=bool(offered) and any(c.tool not in offered for c in calls),
        malformed=malformed,
        arguments=arguments,
    )


def compared(turn: Turn, calls: list[ActualCall]) -> tuple[list[Call], list[ActualCall]]:
    """Return (expected, made) to compare one by one, without repeats after errors."""
    made = without_repeats(calls)
    expected = without_repeats(turn.calls)
    if made and made[-1].error:  # a failed tool ends the chain: nothing after it can be expected
        expected = expected[: len(made)]
    return expected, made


def without_repeats(calls: Sequence[_AnyCall]) -> list[_AnyCall]:
    """Drop calls that failed and were made again unchanged: trying again is right."""
    kept: list[_AnyCall] = []
    for call in calls:
        last = kept[-1] if kept else None
        if last and last.error and (last.tool, last.arguments) == (call.tool, call.arguments):
            kept.pop()
        kept.append(call)
    return kept


def _compare_arguments(
    expected: list[Call], made: list[ActualCall]
) -> tuple[tuple[tuple[str, str, bool], ...], bool]:
    """Return (tool, argument, exact) of all expected arguments, and whether there are no others."""
    compared_arguments = []
    nothing_extra = True
    for right, actual in zip(expected, made, strict=False):
        if right.tool != actual.tool:
            continue
        given = actual.arguments or {}
        nothing_extra = nothing_extra and given.keys() <= right.arguments.keys()
        for name, value in right.arguments.items():
            compared_arguments.append((right.tool, name, _equal(given.get(name), value)))
    return tuple(compared_arguments), nothing_extra


def _equal(actual: Any, expected: Any) -> bool:
    if isinstance(expected, str) and isinstance(actual, str):
        return actual.strip() == expected.strip()
    numbers = isinstance(expected, (int, float)) and isinstance(actual, (int, float))
    if numbers and not isinstance(actual, bool):
        return math.isclose(actual, expected, rel_tol=1e-9)
    return actual == expected


def _answer_states(turn: Turn, made: list[ActualCall], answer: str) -> bool:
    if made and made[-1].error:
        return apologises(made[-1].output, answer)
    return all(stated(value, answer) for value in _values(turn, made))


def _values(turn: Turn, made: list[ActualCall]) -> tuple[str, ...]:
    """Return the values that the answer should state, given what the tools really returned."""
    if not made or not turn.calls:
        return turn.states
    if turn.calls[-1].error:  # the tool that should have failed has answered
        return leaves(made[-1].output)
    tickets = leaves(made[-1].output) or (TICKET,)
    return tuple(tickets[0] if value == TICKET else value for value in turn.states)


def apologises(error: str, answer: str) -> bool:
    """Return whether the answer says what went wrong, as far as the tool's error tells."""
    fitting = [words for text, words in _APOLOGIES.items() if text in error]
    return any(stated(words, answer) for words in fitting or _APOLOGIES.values())


def leaves(output: str) -> tuple[str, ...]:
    """Return the values of a tool's JSON result as text; the text itself where it is not JSON."""
    try:
        result = json.loads(output)
    except (ValueError, RecursionError):
        return (output,)
    return tuple(str(v) for v in result.values()) if isinstance(result, dict) else (str(result),)


def stated(value: str, answer: str) -> bool:
    """Return whether the value stands in the answer, and not within a longer number or word."""
    return re.search(rf"(?<![\w.-]){re.escape(value)}(?![\w-])(?!\.\d)", answer) is not None


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
    numbers = {word for word in words if any(c.isdigit() for c in word)}
    sentences = map(_words, re.split(r"(?<=[.!?])\s+|\n+", passage))
    return bool(words) and any(
        numbers <= there and len(words & there) >= share * len(words) for there in sentences
    )


def _words(text: str) -> set[str]:
    return set(re.findall(r"[\w%-]+", text.lower())) - _SMALL_WORDS
