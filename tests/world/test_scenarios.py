"""Scenarios can be answered rightly from the database, and the judge knows right from wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lab.errors import WorldError
from lab.world import (
    KINDS,
    ActualCall,
    Call,
    ToolFailed,
    Turn,
    call_tool,
    judge,
    make_scenarios,
    memory_database,
    scenario_of,
)
from lab.world.facts import TIMED_OUT


def _perfect(turn: Turn, db: object) -> tuple[list[ActualCall], str]:
    """What an agent that makes no mistake does."""
    calls = []
    for call in turn.calls:
        output, error = call.result, call.error
        if call.tool != "file_search" and call.result != TIMED_OUT:
            try:
                output, error = (
                    json.dumps(call_tool(db, call.tool, call.arguments), ensure_ascii=False),
                    False,
                )
            except ToolFailed as e:
                output, error = str(e), True
        calls.append(ActualCall(call.tool, call.arguments, output, error))
    ticket = (
        json.loads(calls[-1].output)["ticket"] if calls and calls[-1].tool == "open_ticket" else ""
    )
    return calls, turn.answer.replace("$ticket", ticket)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ground_truth_is_true(kind: str) -> None:
    """An agent that follows the ground truth is judged right, with the database's real answers."""
    db = memory_database()
    for scenario in make_scenarios(150, seed=3, db=db, kinds=[kind]):
        for turn in scenario.turns:
            calls, answer = _perfect(turn, db)
            v = judge(turn, calls, answer, scenario.offered)
            assert v.right_tool and v.arguments_exact and v.answer_states, (turn, calls, answer, v)
            assert not (v.needless_call or v.missing_call or v.not_offered_call or v.malformed)


def test_scenarios_repeat_by_seed() -> None:
    """The same seed, the same questions."""
    assert make_scenarios(50, seed=9) == make_scenarios(50, seed=9)
    assert make_scenarios(50, seed=9) != make_scenarios(50, seed=10)


@pytest.mark.parametrize("kinds", [None, ["chain", "rag"]])
def test_a_scenario_is_made_again_from_its_id(kinds: list[str] | None) -> None:
    """A saved run can be judged later by its ids alone."""
    for scenario in make_scenarios(70, seed=8, kinds=kinds):
        assert scenario_of(scenario.id) == scenario
    for wrong in ("", "s8", "nonsense", "s8-x"):
        with pytest.raises(WorldError, match="no such scenario"):
            scenario_of(wrong)


def test_unknown_kind_is_refused() -> None:
    """The error lists the kinds that there are."""
    with pytest.raises(WorldError, match="follow_up"):
        make_scenarios(1, seed=1, kinds=["nonsense"])


def test_tools_that_a_question_needs_are_not_offered_where_it_says_so() -> None:
    """`not_offered` scenarios leave out exactly what would be needed.

    Every other kind offers all that it needs.
    """
    for s in make_scenarios(400, seed=2):
        needed = {c.tool for t in s.turns for c in t.calls}
        assert needed <= set(s.offered)


TURN = Turn(
    "how is node a1",
    (Call("get_node_status", {"node": "a1"}, '{"state": "down"}'),),
    "Node a1 is down.",
    ("down", "3"),
)
RIGHT = ActualCall("get_node_status", {"node": "a1"}, '{"state": "down", "gpus_free": 3}')


@pytest.mark.parametrize(
    ("calls", "answer", "wrong"),
    [
        ([RIGHT], "a1 is down, 3 free", set()),
        ([RIGHT], "a1 is down, 31 free", {"answer_states"}),
        ([RIGHT], "a1 is down, 0.3 free", {"answer_states"}),
        ([replace(RIGHT, tool="get_job_status")], "down 3", {"right_tool", "arguments_exact"}),
        ([replace(RIGHT, arguments={"node": "a2"})], "down 3", {"arguments_exact"}),
        ([replace(RIGHT, arguments={"node": "a1", "x": 1})], "down 3", {"arguments_exact"}),
        ([], "down 3", {"right_tool", "arguments_exact", "missing_call"}),
        ([RIGHT, RIGHT], "down 3", {"right_tool", "arguments_exact", "needless_call"}),
        ([replace(RIGHT, arguments=None)], "down 3", {"arguments_exact", "malformed"}),
        ([RIGHT], 'down 3 <tool_call>{"name"', {"arguments_exact", "malformed"}),
        ([replace(RIGHT, output="upstream timed out", error=True), RIGHT], "down 3", set()),
        ([replace(RIGHT, output="upstream timed out", error=True)], "It did not answer", set()),
        ([replace(RIGHT, output="upstream timed out", error=True)], "down 3", {"answer_states"}),
    ],
)
def test_judge_by_hand(calls: list[ActualCall], answer: str, wrong: set[str]) -> None:
    """Each mistake is seen, and only that one."""
    v = judge(TURN, calls, answer, ("get_node_status",))
    good = {m for m in ("right_tool", "arguments_exact", "answer_states") if not getattr(v, m)}
    bad = {m for m in ("needless_call", "missing_call", "malformed") if getattr(v, m)}
    assert good | bad == wrong


def test_a_tool_that_was_not_offered_is_seen() -> None:
    """Calling what the request did not offer is a mistake of its own."""
    assert judge(TURN, [RIGHT], "down 3", ("quote_price",)).not_offered_call


def test_numbers_are_compared_as_numbers() -> None:
    """36 and 36.0 are the same amount; 36 and '36' are not the same argument."""
    turn = Turn("", (Call("convert_currency", {"amount_usd": 36, "to": "EUR"}),), "", ())
    exact = [
        judge(
            turn, [ActualCall("convert_currency", {"amount_usd": a, "to": "EUR"})], ""
        ).arguments_exact
        for a in (36.0, "36", 36.5)
    ]
    assert exact == [True, False, False]
