"""Was the agent right? What it did and said, held against the ground truth. Pure; live runs and evaluation share it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from lab.world.facts import TIMED_OUT
from lab.world.scenarios import TICKET, Call, Turn

# What a right answer says after a tool has failed so; where the error does not say why, either will do: Llama Stack
# passes on no more than "Error (code 1): None".
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
    """One turn judged. `arguments` has one entry per expected argument of the calls whose tool was right.

    right_tool: the calls, in order, are the expected ones (none where none is needed); a repeat after an error counts
    once.
    arguments_exact: right_tool, and every argument equal. answer_states: the answer holds every value that it should.
    """

    right_tool: bool
    arguments_exact: bool
    answer_states: bool
    needless_call: bool
    missing_call: bool
    not_offered_call: bool
    malformed: bool
    tool_errors: int
    arguments: tuple[tuple[str, str, bool], ...]  # (tool, argument, exact)


def judge(
    turn: Turn, calls: list[ActualCall], answer: str, offered: tuple[str, ...] = ()
) -> Verdict:
    """Judge what the agent did in one turn. `offered` are the tools of the request; empty: do not check that."""
    expected, made = compared(turn, calls)
    stopped = bool(made) and made[-1].error
    right_tool = [c.tool for c in made] == [c.tool for c in expected]
    pairs = [(e, a) for e, a in zip(expected, made, strict=False) if e.tool == a.tool]
    arguments = tuple(
        (e.tool, name, _equal((a.arguments or {}).get(name), wanted))
        for e, a in pairs
        for name, wanted in e.arguments.items()
    )
    extra = any(set(a.arguments or {}) - set(e.arguments) for e, a in pairs)
    malformed = any(c.arguments is None for c in calls) or "<tool_call>" in answer
    return Verdict(
        right_tool=right_tool,
        arguments_exact=right_tool
        and not extra
        and not malformed
        and all(exact for _, _, exact in arguments),
        answer_states=apologises(made[-1].output, answer)
        if stopped
        else all(stated(value, answer) for value in _values(turn, made)),
        needless_call=len(made) > len(expected),
        missing_call=len(made) < len(expected),
        not_offered_call=bool(offered) and any(c.tool not in offered for c in calls),
        malformed=malformed,
        tool_errors=sum(c.error for c in calls),
        arguments=arguments,
    )


def compared(turn: Turn, calls: list[ActualCall]) -> tuple[list[Call], list[ActualCall]]:
    """(expected, made): the calls that are held against each other, position by position, repeats after errors gone."""
    made, expected = without_repeats(calls), without_repeats(list(turn.calls))
    if (
        made and made[-1].error
    ):  # a tool that fails ends the chain: nothing after it can be expected
        expected = expected[: len(made)]
    return expected, made


def apologises(error: str, answer: str) -> bool:
    """Whether the answer says what went wrong, as far as the tool's error tells."""
    fitting = [words for told, words in _APOLOGIES.items() if told in error]
    return any(stated(words, answer) for words in fitting or _APOLOGIES.values())


def without_repeats(calls: list[Any]) -> list[Any]:
    """Calls without those that failed and were made again just so: asking again after an error is right."""
    kept: list[Any] = []
    for call in calls:
        if (
            kept
            and kept[-1].error
            and (kept[-1].tool, kept[-1].arguments) == (call.tool, call.arguments)
        ):
            kept.pop()
        kept.append(call)
    return kept


def _values(turn: Turn, made: list[ActualCall | Call]) -> tuple[str, ...]:
    if made and not turn.calls:
        return turn.states
    if (
        turn.calls and turn.calls[-1].error and made
    ):  # the tool that should have failed has answered
        return leaves(made[-1].output)
    return tuple(_ticket_of(made) if value == TICKET else value for value in turn.states)


def _ticket_of(made: list[ActualCall | Call]) -> str:
    found = leaves(made[-1].output) if made else ()
    return found[0] if found else TICKET


def leaves(output: str) -> tuple[str, ...]:
    """The values of a tool's JSON result as text; the text itself where it is no JSON."""
    try:
        found = json.loads(output)
    except ValueError:
        return (output,)
    return tuple(str(v) for v in found.values()) if isinstance(found, dict) else (str(found),)


def _equal(actual: Any, wanted: Any) -> bool:
    if (
        isinstance(wanted, (int, float))
        and not isinstance(actual, bool)
        and isinstance(actual, (int, float))
    ):
        return math.isclose(actual, wanted, rel_tol=1e-9)
    if isinstance(wanted, str) and isinstance(actual, str):
        return actual.strip() == wanted.strip()
    return actual == wanted


def stated(value: str, answer: str) -> bool:
    """The value stands in the answer by itself, not as part of a longer number or word."""
    return re.search(rf"(?<![\w.-]){re.escape(value)}(?![\w-])(?!\.\d)", answer) is not None
