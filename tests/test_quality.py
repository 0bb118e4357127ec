"""A run is judged with its spans, and the canary runs only while it is needed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lab import quality, stack
from lab.measures import share_table, wilson
from lab.observation import Observation
from lab.settings import Settings, load_settings
from lab.stack.state import PartStatus
from lab.workload import Run
from lab.world import facts, make_scenarios

SEED = 31
NO_RUN = Run("by hand", (0.0, 1.0), pd.DataFrame(), plan=None)  # type: ignore[arg-type]


def _row(number: int, scenario, turn_index: int, calls: list[dict], answer: str, **more) -> dict:
    turn = scenario.turns[turn_index]
    base = {
        "request_id": f"r{number:05d}",
        "trace_id": f"{number:032x}",
        "scenario_id": scenario.id,
        "kind": scenario.kind,
        "turn_index": turn_index,
        "session_id": f"x{number}",
        "status": "ok",
        "prompt": turn.text,
        "answer": answer,
        "tool_calls": json.dumps(calls),
        "finish_reason": "completed",
        "completion_tokens": 9,
        "turns": 2,
    }
    return base | more


def _calls(turn, number: int, spoil: bool = False) -> tuple[list[dict], list[dict]]:
    """Return the turn's calls as in Llama Stack's answer, and the spans of failed calls."""
    records = []
    spans = []
    for position, call in enumerate(turn.calls):
        falsify = spoil and position == 0
        arguments = {k: f"{v}x" for k, v in call.arguments.items()} if falsify else call.arguments
        failed = call.error or (falsify and call.tool != "file_search")
        text = facts.unknown("thing", "x") if failed and not call.error else call.result
        output = [text] if call.tool == "file_search" else text
        records.append(
            {
                "tool": call.tool,
                "arguments": arguments,
                "output": None if failed else output,
                "error": "Error (code 1): None" if failed else None,
            }
        )
        if failed:
            spans.append(
                {
                    "trace_id": f"{number:032x}",
                    "name": f"execute_tool {call.tool}",
                    "status": "error",
                    "status_message": text,
                    "start_at": pd.Timestamp(position, unit="s", tz="UTC"),
                }
            )
        if failed and not call.error:
            break
    return records, spans


def _observation(spoiled: np.ndarray, kinds: list[str] | None = None) -> Observation:
    """Return a run that answers every scenario correctly, except those to be spoiled."""
    rows = []
    spans = []
    for number, (scenario, spoil) in enumerate(
        zip(make_scenarios(len(spoiled), SEED, kinds=kinds), spoiled, strict=True)
    ):
        turn = scenario.turns[0]
        calls, failed = _calls(turn, number, bool(spoil))
        answer = "I could not find thing x." if spoil else turn.answer.replace("$ticket", "T-7")
        calls = [
            c | {"output": (c["output"] or "").replace("$ticket", "T-7")}
            if isinstance(c["output"], str)
            else c
            for c in calls
        ]
        rows.append(_row(number, scenario, 0, calls, answer))
        spans += failed
    columns = ["trace_id", "name", "status", "status_message", "start_at"]
    frame = pd.DataFrame(spans, columns=columns)
    return Observation(NO_RUN, load_settings(), pd.DataFrame(rows), frame)


def test_a_run_without_mistakes_is_judged_as_right() -> None:
    """Expected answers to every kind of scenario are right by every judgement."""
    frame = quality.judged(_observation(np.zeros(200, bool)))
    for name in (
        "right_tool",
        "arguments_exact",
        "answer_right",
        "answer_faithful",
        "recovered",
        "passage_faithful",
    ):
        assert frame[name].dropna().all(), frame.loc[
            ~frame[name].fillna(True), ["kind", "prompt", "answer", "tool_calls"]
        ]
    for name in (
        "needless_call",
        "missing_call",
        "not_offered_call",
        "malformed",
        "own_error",
        "more_steps",
    ):
        assert not frame[name].any()
    assert not frame.ungrounded.any() and frame.failed_call.any() and frame.recovered.notna().any()
    assert (frame.expected_tools == frame.called_tools).all()


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.8])
def test_a_known_share_of_wrong_arguments_is_measured(ratio: float) -> None:
    """Right answers, exact arguments and own errors differ exactly where they were spoiled.

    The interval of the share includes the ratio with which they were drawn.
    """
    spoiled = np.random.default_rng(3).random(200) < ratio
    frame = quality.judged(_observation(spoiled, kinds=["single"]))
    assert (~frame.arguments_exact.astype(bool)).tolist() == spoiled.tolist()
    assert (~frame.answer_right.astype(bool)).tolist() == frame.wrong.tolist() == spoiled.tolist()
    assert frame.own_error.astype(bool).tolist() == spoiled.tolist()
    row = share_table(frame, ["own_error"]).loc["own_error"]
    assert (
        row.low_ratio <= ratio <= row.high_ratio
        and row.rate_ratio == wilson(int(spoiled.sum()), 200)[0]
    )


def test_the_text_of_an_error_is_taken_from_the_tool_servers_span() -> None:
    """Without the span a timeout would look like a name that does not exist."""
    seen = _observation(np.zeros(300, bool), kinds=["tool_error"])
    late = [i for i, r in enumerate(seen.spans.itertuples()) if r.status_message == facts.TIMED_OUT]
    assert late
    blind = replace(seen, requests=seen.requests.assign(answer="I could not find it."))
    wrong_words = quality.judged(blind).set_index("trace_id").loc[seen.spans.trace_id.iloc[late[0]]]
    assert not wrong_words.answer_states


def test_a_failed_request_is_judged_only_as_failed() -> None:
    """A slow server must not look like a wrong model, but the user has no right answer."""
    seen = _observation(np.zeros(20, bool), kinds=["single"])
    seen.requests.loc[[0, 1], ["status", "answer", "tool_calls"]] = ["error", "", "[]"]
    frame = quality.judged(seen)
    row = share_table(
        frame, ["answer_right", "right_tool", "needless_call", "failed_request", "wrong"]
    )
    assert row.n.tolist() == [18, 18, 18, 20, 20] and row.successes.tolist() == [18, 18, 0, 2, 2]


def test_arguments_are_judged_one_by_one() -> None:
    """There is one row per expected argument of a call with the right tool."""
    frame = quality.judged(_observation(np.array([False, True] * 20), kinds=["single"]))
    arguments = quality.argument_frame(frame)
    wrong = arguments[~arguments.exact.astype(bool)]
    assert set(wrong.request_id) == set(frame.request_id[1::2]) and len(arguments) > len(frame)


@pytest.mark.parametrize("was_on", [False, True])
def test_the_canary_is_left_in_its_previous_state(
    was_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped again if it was off, also after an error, and left on otherwise."""
    actions: list[str] = []
    monkeypatch.setattr(
        stack,
        "status",
        lambda _: [PartStatus("vllm-canary", "ready" if was_on else "off", ready=was_on)],
    )
    monkeypatch.setattr(stack, "start", lambda _, name: actions.append(f"start {name}"))
    monkeypatch.setattr(stack, "stop", lambda _, name: actions.append(f"stop {name}"))
    with pytest.raises(ZeroDivisionError), quality.canary_served(load_settings()):
        raise ZeroDivisionError
    assert actions == ([] if was_on else ["start vllm-canary", "stop vllm-canary"])


@pytest.mark.parametrize("place", ["cluster", "recorded"])
def test_the_canary_is_not_started_in_other_places(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is started in a cluster or a recording, and no supervisor is contacted."""
    monkeypatch.setattr(stack, "status", lambda _: pytest.fail("contacted"))
    with quality.canary_served(Settings(place=place)):
        pass
