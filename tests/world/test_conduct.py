"""How the agent got there: by hand, one promise a case."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lab.world import ActualCall, Call, Turn, conduct_of, documents, judge
from lab.world.facts import TIMED_OUT
from lab.world.judge import Conduct

TURN = Turn(
    "",
    (Call("get_node_status", {"node": "a1"}, '{"state": "down", "gpus_free": 3}'),),
    "",
    ("down", "3"),
)
RIGHT = ActualCall("get_node_status", {"node": "a1"}, '{"state": "down", "gpus_free": 3}')
LATE = replace(RIGHT, output=TIMED_OUT, error=True)
WRONG = replace(RIGHT, arguments={"node": "a2"}, output="unknown node a2", error=True)
ABSENT = Turn(
    "",
    (Call("get_node_status", {"node": "zz"}, "unknown node zz", error=True),),
    "",
    ("could not find",),
)
NOT_THERE = ActualCall("get_node_status", {"node": "zz"}, "unknown node zz", True)


def conduct(turn: Turn, calls: list[ActualCall], answer: str) -> Conduct:
    return conduct_of(turn, calls, answer, judge(turn, calls, answer))


def test_nothing_went_wrong() -> None:
    """One step, as needed; nothing to recover from; the answer is the tool's result.

    No search to judge.
    """
    found = conduct(TURN, [RIGHT], "a1 is down, 3 free")
    assert (found.steps, found.steps_needed, found.own_errors, found.given_errors) == (1, 1, 0, 0)
    assert (
        found.recovered,
        found.answer_faithful,
        found.passage_found,
        found.passage_faithful,
    ) == (
        None,
        True,
        None,
        None,
    )


def test_an_apology_for_ones_own_mistake_is_no_right_answer() -> None:
    """The question is about a node that exists; that another one does not is of no use.

    Where it is the truth, it is.
    """
    assert judge(TURN, [WRONG], "I could not find node a2.").answer_states, (
        "as the tool's error says"
    )
    assert not conduct(TURN, [WRONG], "I could not find node a2.").answer_right
    assert conduct(ABSENT, [NOT_THERE], "I could not find node zz.").answer_right
    assert (
        conduct(TURN, [RIGHT], "down, 3").answer_right
        and not conduct(TURN, [RIGHT], "up, 3").answer_right
    )


def test_faithful_is_not_right() -> None:
    """For the wrong node, it still states the tool's result.

    For the right one, it may not.
    """
    other = replace(RIGHT, arguments={"node": "a2"}, output='{"state": "ready", "gpus_free": 0}')
    assert conduct(TURN, [other], "a2 is ready, 0 free").answer_faithful
    assert not judge(TURN, [other], "a2 is ready, 0 free").answer_states
    assert not conduct(TURN, [RIGHT], "a1 is ready, 3 free").answer_faithful
    passed = replace(RIGHT, tool="run_diagnostics", output='{"failed_check": "none"}')
    assert conduct(TURN, [passed], "Node a1 passed all checks.").answer_faithful


@pytest.mark.parametrize(
    ("turn", "calls", "answer", "own", "given", "recovered"),
    [
        (TURN, [LATE, RIGHT], "down, 3", 0, 1, True),
        (TURN, [LATE, RIGHT], "up, 3", 0, 1, False),
        (TURN, [LATE, LATE], "It did not answer.", 0, 2, True),
        (TURN, [LATE], "It did not answer.", 0, 1, False),  # given up at the first try
        (TURN, [WRONG, RIGHT], "down, 3", 1, 0, True),
        (TURN, [WRONG], "I could not find node a2.", 1, 0, False),  # the question is not about a2
        (ABSENT, [NOT_THERE], "I could not find node zz.", 0, 1, True),
        (ABSENT, [NOT_THERE], "Node zz is down.", 0, 1, False),
        (
            ABSENT,
            [replace(NOT_THERE, output="Error (code 1): None")],
            "I could not find node zz.",
            0,
            1,
            True,
        ),
    ],
)
def test_errors_and_what_was_done_about_them(
    turn: Turn, calls: list[ActualCall], answer: str, own: int, given: int, recovered: bool
) -> None:
    """Whose error it was, and whether the user got a right answer all the same."""
    found = conduct(turn, calls, answer)
    assert (found.own_errors, found.given_errors, found.recovered) == (own, given, recovered)


def test_steps_more_than_needed() -> None:
    """Trying again after a time-out is needed.

    Asking twice for what was answered is not, nor a wrong name.
    """
    assert not conduct(TURN, [LATE, RIGHT], "").more_steps
    assert conduct(TURN, [RIGHT, RIGHT], "").more_steps
    assert conduct(TURN, [WRONG, RIGHT], "").more_steps
    assert conduct(Turn("", (), "", ()), [RIGHT], "").more_steps


def test_a_call_that_was_never_run_says_nothing_to_be_faithful_to() -> None:
    """Llama Stack does not run a tool that the request does not offer, and returns nothing."""
    assert conduct(TURN, [replace(RIGHT, output="")], "down").answer_faithful is None
    assert conduct(TURN, [], "down").answer_faithful is None


def _search(passages: list[str]) -> ActualCall:
    return ActualCall("file_search", {"query": "limit of trial accounts"}, json.dumps(passages))


@pytest.mark.parametrize("form", documents.FORMS)
def test_an_answer_from_documents_is_held_against_the_passages(form: str) -> None:
    """In any words of the document, the fact is found, and the answer faithful.

    Another passage's number is neither.
    """
    topic, value = "limit of trial accounts", "9 people"
    turn = Turn(
        "", (Call("file_search", {"query": topic}),), documents.sentence(topic, value), (value,)
    )
    here = "# Trial accounts\n\n" + form.format(
        thing="trial accounts", attribute="limit", value=value
    )
    here += " For trial accounts, the notice period is 7 days."
    found = conduct(turn, [_search([here])], documents.sentence(topic, value))
    assert (found.passage_found, found.passage_faithful, found.answer_faithful) == (
        True,
        True,
        None,
    )
    for wrong in ("7 people", "7 days", "9 days"):
        assert not conduct(
            turn, [_search([here])], documents.sentence(topic, wrong)
        ).passage_faithful
    elsewhere = conduct(
        turn, [_search([here.replace("rial", "rail")])], documents.sentence(topic, value)
    )
    assert (elsewhere.passage_found, elsewhere.passage_faithful) == (False, False)
    assert not conduct(turn, [_search([here])], "").passage_faithful
