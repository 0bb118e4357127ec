"""Blame finds who delayed whom, by how much, and blames nobody where nobody is to blame."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.diagnosis import blame as campaign
from benchmarks.diagnosis.live import DATA
from lab.errors import FrameError
from lab.measures import blame
from lab.measures.blame import DECODE, WAITING


def _turns(*calls: tuple[str, float, float, float, float, int, int]) -> pd.DataFrame:
    """Return turns of (tenant, called, scheduled, first token, end, prompt and other tokens)."""
    columns = ["tenant", "called_at", "scheduled_at", "first_token_at", "ended_at"]
    table = pd.DataFrame(calls, columns=[*columns, "prompt_tokens", "completion_tokens"])
    names = [f"t{number:02d}" for number in range(len(table))]
    return table.assign(trace_id=names, request_id=names, model="m", cached_tokens=0)


def _quiet(start: float, tenant: str = "a") -> tuple[str, float, float, float, float, int, int]:
    """Return a call that nobody disturbs: 0.1 s of prefill, 10 tokens per second."""
    return (tenant, start, start, start + 0.1, start + 1.1, 100, 11)


def test_time_is_lost_to_the_prefill_that_ran_meanwhile() -> None:
    quiet = [_quiet(10.0 + 2 * k, "abc"[k % 3]) for k in range(12)]
    culprit = ("bulk", 0.5, 0.5, 2.5, 2.6, 4000, 2)
    decoding = ("a", 0.0, 0.0, 0.1, 3.1, 100, 11)  # 10 tokens take 3 s, 2 of them beside it
    waiting = [("b", 1.0 + 0.2 * k, 2.5, 2.5 + 0.1, 3.6, 1, 11) for k in range(6)]
    answer = blame(_turns(culprit, decoding, *waiting, *quiet), by="tenant")

    assert answer.blamed == ["bulk"]
    lost = answer.losses[answer.losses["culprit"] == "bulk"].groupby(["victim", "kind"])["lost_s"]
    assert lost.sum()["a", DECODE] == pytest.approx(2.0, abs=0.1)
    assert lost.sum()["b", WAITING] == pytest.approx(1.5 + 1.3 + 1.1 + 0.9 + 0.7 + 0.5, rel=0.1)
    assert answer.pace["m"].alone_per_s == pytest.approx(10, rel=0.05)
    by_victim = answer.victims.set_index("victim")["lost_s"]
    assert by_victim["c"] == pytest.approx(0.0, abs=0.01)


def test_nobody_is_blamed_where_calls_do_not_meet() -> None:
    answer = blame(_turns(*[_quiet(2.0 * k, "ab"[k % 2]) for k in range(20)]), by="request_id")
    assert answer.blamed == []
    assert answer.losses["lost_s"].sum() == pytest.approx(0.0, abs=1e-6)


def test_a_long_window_makes_no_culprit_of_a_small_difference() -> None:
    """Thirty times the same run without a culprit, one after another."""
    turns = pd.read_parquet(DATA / "agents-turns.parquet")
    turns = turns[(turns["stage"] == "agent a") & (turns["seed"] == 101)]
    times = ["called_at", "scheduled_at", "first_token_at", "ended_at"]
    later = [turns.assign(**{name: turns[name] + 1e3 * k for name in times}) for k in range(30)]
    parts = [each.assign(trace_id=each["trace_id"] + str(k)) for k, each in enumerate(later)]
    assert blame(pd.concat(parts, ignore_index=True), by="tenant").blamed == []


def test_engines_do_not_delay_each_other() -> None:
    turns = _turns(("bulk", 0.0, 0.0, 5.0, 5.1, 4000, 2), *[_quiet(0.3 * k) for k in range(12)])
    apart = turns.assign(model=["other"] + ["m"] * 12)
    losses = blame(apart, by="tenant").losses
    assert not (losses["culprit"] == "bulk").any()


def test_the_lost_seconds_are_those_of_the_run_without_the_culprit() -> None:
    """20 real runs with a tenant of long prompts, against the same plan without it."""
    table = campaign.culprits()
    assert len(table) == 20
    assert table["first"].all() and table["blamed"].all()
    assert table["falsely"].sum() == 0
    assert (table["ratio"] - 1).abs().max() <= campaign.TOLERANCE
    assert table["true_s"].between(table["low_s"], table["high_s"]).mean() >= 0.9


def test_too_few_calls_and_other_tables_are_refused() -> None:
    turns = _turns(*[_quiet(float(k)) for k in range(5)])
    with pytest.raises(FrameError, match="too few model calls"):
        blame(turns)
    with pytest.raises(FrameError, match="the turns lack session_id"):
        blame(turns, by="session_id")
