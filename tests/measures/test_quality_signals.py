"""What telemetry alone shows: each signal by hand,
and their worth by generated traffic with known truth.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import FrameError
from lab.measures import alert_quality, compare_signals, signals, ungrounded_values
from lab.measures.quality import NUMBERS, SIGNALS

OK = {"tool": "get_quota", "arguments": {"team": "a"}, "output": '{"gpus": 12}', "error": None}


def _row(answer: str = "12 GPUs.", calls: tuple = (OK,), **more: object) -> dict:
    base = {
        "status": "ok",
        "answer": answer,
        "prompt": "How many GPUs has team a?",
        "tool_calls": json.dumps(calls),
        "finish_reason": "completed",
        "session_id": "s1",
        "turn_index": 0,
        "completion_tokens": 30,
        "turns": 2,
    }
    return base | more


def _flags(**row: object) -> set[str]:
    found = signals(pd.DataFrame([_row(**row)])).iloc[0]
    return {name for name in SIGNALS if found[name]}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, set()),
        ({"answer": "13 GPUs."}, {"ungrounded"}),
        ({"answer": ""}, {"no_answer"}),
        ({"answer": "", "status": "error", "calls": ()}, {"failed_request"}),
        (
            {"calls": (OK | {"error": "Error (code 1)", "output": None},), "answer": "Sorry."},
            {"failed_call"},
        ),
        ({"calls": (OK | {"output": None},), "answer": "Sorry."}, {"refused_call"}),
        ({"calls": (OK | {"arguments": '{"team": '},)}, {"malformed_call"}),
        ({"answer": '<tool_call>{"name"'}, {"malformed_call"}),
        ({"answer": "a dockdockdockdockdock"}, {"repetition"}),
        ({"answer": "the the the the the end"}, {"repetition"}),
        ({"finish_reason": "incomplete"}, {"cut_off"}),
    ],
)
def test_each_signal_and_only_that_one(row: dict, expected: set[str]) -> None:
    """A fault is flagged as what it is."""
    assert _flags(**row) == expected


def test_numbers_count() -> None:
    """Calls, words, tokens and model calls; a count that the API did not give is 0."""
    found = signals(
        pd.DataFrame([_row(calls=(OK, OK), answer="a b c", completion_tokens=-1)])
    ).iloc[0]
    assert found[list(NUMBERS)].tolist() == [2, 3, 0, 2]


def test_what_was_said_before_in_the_session_is_a_source() -> None:
    """A follow-up may use the first answer's number; another session may not.

    The order of rows does not matter.
    """
    first = _row(answer="12 GPUs.")
    after = _row(answer="As I said, 12.", calls=(), prompt="Again?", turn_index=1)
    other = after | {"session_id": "s2", "turn_index": 0}
    assert signals(pd.DataFrame([after, first, other])).ungrounded.tolist() == [False, False, True]


def test_values_are_compared_as_numbers_and_words_as_words() -> None:
    """36 is 36.0; a trailing full stop is not part of a value;
    a node's name is one value, not two numbers.
    """
    assert ungrounded_values("It costs 36 USD.", ["the price is 36.0"]) == set()
    assert ungrounded_values("Node r7-n12 is up.", ["r7-n1 2 7 12"]) == {"r7-n12"}
    assert ungrounded_values("It arrives on 2026-12-01.", ['{"date": "2026-12-01"}']) == set()
    assert ungrounded_values("no digits here", []) == set()


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=5), st.integers(10**7, 10**8))
def test_an_answer_made_of_its_sources_is_grounded_and_one_more_value_is_not(
    known: list[int], new: int
) -> None:
    """Exactly the values that no source states are found, however many there are."""
    sources = [f'{{"value": {n}}}' for n in known]
    answer = " and ".join(map(str, known))
    assert ungrounded_values(answer, sources) == set()
    assert ungrounded_values(f"{answer}, {new}", sources) == {f"{float(new):.10g}"}


def test_the_worth_of_signals_by_hand() -> None:
    """Four requests, two wrong: one signal finds one of them and no other;
    together they find both and a right one.
    """
    flags = pd.DataFrame({name: [False] * 4 for name in SIGNALS})
    flags["ungrounded"], flags["failed_call"] = (
        [True, False, False, False],
        [False, True, True, False],
    )
    table = alert_quality(flags, [True, True, False, False])
    assert table.index.tolist() == ["failed_call", "ungrounded", "any"]
    assert table.precision_ratio.tolist() == [0.5, 1.0, pytest.approx(2 / 3)]
    assert table.recall_ratio.tolist() == [0.5, 0.5, 1.0] and table.flagged.tolist() == [2, 1, 3]
    assert (table.recall_low_ratio <= table.recall_ratio).all() and (
        table.recall_ratio <= table.recall_high_ratio
    ).all()


def _traffic(rng: np.random.Generator, n: int, ungrounded: float) -> pd.DataFrame:
    wrong = rng.random(n) < ungrounded
    rows = [
        _row(answer="999 GPUs." if w else "12 GPUs.", session_id=f"s{i}")
        for i, w in enumerate(wrong)
    ]
    return signals(pd.DataFrame(rows))


def test_a_known_difference_is_found_and_none_is_not_invented() -> None:
    """0.02 against 0.38 ungrounded of 100 each shows in that signal alone;
    equal traffic shows in none.
    """
    rng = np.random.default_rng(8)
    good, bad, same = _traffic(rng, 100, 0.02), _traffic(rng, 100, 0.38), _traffic(rng, 100, 0.02)
    table = compare_signals(good, bad)
    assert table.p_holm.idxmin() == "ungrounded" and (table.p_holm < 0.05).sum() == 1
    assert table.loc["ungrounded", "b"] == pytest.approx(bad.ungrounded.mean())
    assert (compare_signals(good, same).p_holm > 0.05).all()


def test_a_frame_of_something_else_is_refused() -> None:
    """With the names of what it lacks."""
    with pytest.raises(FrameError, match="lacks status, answer"):
        signals(pd.DataFrame({"x": [1]}))
