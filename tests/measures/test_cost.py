"""Shares of busy time, bills that add up, savings, and what was paid for nothing."""

from __future__ import annotations

import math
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import FrameError
from lab.frames.requests import union_length
from lab.measures import (
    bill_by,
    by_tokens,
    cache_savings,
    classify_work,
    fair_shares,
    is_repeat,
    machine_bill,
    reconcile_money,
    scaled,
    slopes_by_half,
    usd_per_thousand,
    with_shares,
)
from lab.measures.cost import Energy
from lab.prices import ApiPrice
from tests.measures.recorded import recorded_calls, recorded_records

PRICE = ApiPrice(
    "list", 1.0, 10.0, "for the test", date(2026, 1, 1), "by hand", cached_input_usd_per_mtok=0.5
)
T0 = 1_790_000_000.0
WINDOW = (T0, T0 + 10.0)


def turns() -> pd.DataFrame:
    """a: prefill 0-1 s, decode 1-3 s; b: prefill 2-3 s, decode 3-4 s.

    Alone 0-2 and 3-4, together 2-3.
    """
    frame = {
        "trace_id": ["0a", "0b"],
        "request_id": ["r0", "r1"],
        "tenant": ["a", "b"],
        "turn": [1, 1],
        "prompt_tokens": [100, 60],
        "cached_tokens": [40, 0],
        "completion_tokens": [20, 10],
        "scheduled_at": [T0, T0 + 2],
        "first_token_at": [T0 + 1, T0 + 3],
        "ended_at": [T0 + 3, T0 + 4],
        "prefill_s": [1.0, 1.0],
    }
    return with_shares(pd.DataFrame(frame), WINDOW)


def test_an_instant_is_shared_by_those_who_run() -> None:
    """a alone for two seconds and half of one, b half of one and one alone:
    2.5 and 1.5 of the 4 busy seconds.
    """
    found = turns()
    assert found.prefill_share_s.tolist() == pytest.approx([1.0, 0.5])
    assert found.decode_share_s.tolist() == pytest.approx([1.5, 1.0])


def test_what_lies_outside_the_window_is_not_shared() -> None:
    """Intervals are cut at the window;
    those that are unknown or end before they start have nothing.
    """
    shares = fair_shares([-1.0, 3.0, math.nan, 2.0], [1.0, 9.0, 2.0, 1.0], (0.0, 4.0))
    assert shares.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert fair_shares([], [], (0.0, 1.0)).tolist() == []
    with pytest.raises(FrameError, match="ends before it starts"):
        fair_shares([0.0], [1.0], (1.0, 0.0))


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**8)), min_size=1, max_size=40),
    st.integers(0, 4 * 10**8),
)
def test_shares_add_up_to_what_was_covered(intervals: list[tuple[int, int]], cut: int) -> None:
    """However calls overlap, nothing is counted twice or lost.

    And who runs longer within another's time gets no less.
    """
    start = np.array([s for s, _ in intervals])
    end = start + np.array([d for _, d in intervals])
    window = (cut, 10**9)
    clipped = np.clip(start, *window), np.clip(end, *window)
    covered = union_length(np.zeros(len(start), int), *clipped, 1)[0]
    shares = fair_shares(start / 1e6, end / 1e6, (window[0] / 1e6, window[1] / 1e6))
    assert shares.sum() == pytest.approx(covered / 1e6, abs=1e-6)
    assert (shares >= 0).all() and (shares <= (end - start) / 1e6 + 1e-9).all()


def test_the_machines_bill_by_hand() -> None:
    """1.5 s prefill, 2.5 s decode and 6 s idle of a 3.6 USD machine are 1.5,
    2.5 and 6 mUSD; 120 fresh tokens.
    """
    bill = machine_bill(turns(), WINDOW, 3.6)
    assert bill.seconds.tolist() == pytest.approx([1.5, 2.5, 6.0])
    assert (bill.usd * 1e3).tolist() == pytest.approx([1.5, 2.5, 6.0])
    assert bill.tokens.tolist()[:2] == [120, 30] and math.isnan(bill.usd_per_mtok["idle"])
    assert bill.usd_per_mtok["prefill"] == pytest.approx(1.5e-3 / 120 * 1e6)
    assert reconcile_money(bill, WINDOW, 3.6).difference_usd == pytest.approx(0, abs=1e-15)


def test_every_groups_part_adds_up_to_the_machines_price() -> None:
    """Idle time is divided as busy time is: a 2.5 of 4, b 1.5 of 4.

    The price list sees tokens only.
    """
    bill = bill_by(turns(), ["tenant"], window=WINDOW, usd_per_hour=3.6, price=PRICE).set_index(
        "tenant"
    )
    assert (bill.machine_usd * 1e3).round(9).to_dict() == {"a": 6.25, "b": 3.75}
    assert bill.machine_usd.sum() == pytest.approx(10 / 3600 * 3.6)
    assert bill.api_usd["a"] == pytest.approx((60 + 40 * 0.5 + 20 * 10) / 1e6)
    assert bill.index.tolist() == ["a", "b"] and bill.turns.tolist() == [1, 1]


def test_a_bill_for_more_requests_scales_money_only() -> None:
    """A thousand times the USD; tokens and counts stay what was measured."""
    bill = bill_by(turns(), ["tenant"], window=WINDOW, usd_per_hour=3.6, price=PRICE)
    more = scaled(bill, 1000)
    assert more.machine_usd.tolist() == pytest.approx((bill.machine_usd * 1000).tolist())
    assert more.api_usd.sum() == pytest.approx(bill.api_usd.sum() * 1000)
    assert more.prompt_tokens.tolist() == bill.prompt_tokens.tolist() and more.turns.sum() == 2


def test_a_bill_of_other_tables_is_refused() -> None:
    """What is missing is named; a window too short for the work is noticed."""
    with pytest.raises(FrameError, match="lack prefill_share_s"):
        machine_bill(turns().drop(columns="prefill_share_s"), WINDOW, 1.0)
    with pytest.raises(FrameError, match="busy longer"):
        machine_bill(turns(), (T0, T0 + 1), 1.0)


def test_dividing_by_tokens_is_another_answer() -> None:
    """Four busy seconds over 120 fresh and 30 generated tokens."""
    assert by_tokens(turns()) == pytest.approx({"prefill": 3.2, "decode": 0.8})
    assert all(map(math.isnan, by_tokens(turns().iloc[:0]).values()))


def test_cached_tokens_are_worth_what_more_fresh_ones_would_take() -> None:
    """A call takes 10 ms and 1 ms a fresh token: 500 cached tokens spared half a second.

    One stall moves nothing.
    """
    fresh = np.arange(1, 51)
    calls = pd.DataFrame(
        {
            "prompt_tokens": fresh + 10,
            "cached_tokens": 10,
            "prefill_s": 0.01 + 0.001 * fresh + 0.0 * fresh,
        }
    )
    calls.loc[7, "prefill_s"] = 3.0
    saved = cache_savings(calls)
    assert saved.tokens == 500 and saved.seconds == pytest.approx(0.5, rel=1e-6) and saved.low_s > 0
    assert saved.low_s <= 0.5 + 1e-9 and saved.high_s >= 0.5 - 1e-9
    assert cache_savings(calls.head(3)).line is None, "three calls say nothing"


def test_two_recorded_measurements_of_the_cache_agree_where_prompts_are_alike() -> None:
    """A probe with prompts of up to 1,916 tokens and an agent's calls of at most 172 fresh ones.

    A token of a long prompt costs several times as much as one of a short prompt, so one line
    through the whole probe is not a price of the agent's tokens; the probe's shorter half is.
    """
    probe = recorded_records("run-20261126T171121-4c29").sort_values("scheduled_at")
    probe = probe[~probe["prompt"].duplicated()]
    prefill = recorded_calls("run-20261126T171121-4c29")[["trace_id", "prefill_s"]]
    probe = probe.merge(prefill, on="trace_id")
    agent = cache_savings(recorded_calls("run-20261126T171135-c7e8"))

    short, long = slopes_by_half(probe["prompt_tokens"], probe["prefill_s"])

    assert long.low > short.high, "attention"
    assert short.low < agent.line.per_x < short.high
    assert agent.line.low < short.per_x < agent.line.high
    assert agent.line.per_x < long.low
    assert (agent.line.x_low, agent.line.x_high, long.x_high) == (4, 172, 1916)


def test_the_interval_of_the_savings_holds_what_it_promises() -> None:
    """Of 300 made-up runs with a known price a token and stalls,
    the 95 % interval misses it in about one in twenty.
    """
    missed = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        fresh = rng.integers(1, 200, 60)
        took = 0.02 + 0.001 * fresh + rng.exponential(0.03, 60)
        saved = cache_savings(
            pd.DataFrame({"prompt_tokens": fresh + 100, "cached_tokens": 100, "prefill_s": took})
        )
        missed += not saved.low_s <= 0.001 * 6000 <= saved.high_s
    assert missed <= 27, "more than 9 %"


def test_what_a_call_was_good_for() -> None:
    """Failed before wrong before needless;
    calls of no request are 'others'; no verdict is 'not known'.
    """
    requests = pd.DataFrame(
        {
            "request_id": ["ok", "fail", "wrong", "long", "unjudged"],
            "status": ["ok", "timeout", "ok", "ok", "ok"],
            "answer_states": pd.array([True, None, False, True, None], dtype="boolean"),
        }
    )
    calls = pd.DataFrame(
        {
            "request_id": ["ok", "fail", "wrong", "long", "long", "unjudged", "(others)"],
            "turn": [2, 9, 9, 2, 3, 1, 1],
        }
    )
    needed = pd.Series({"ok": 2, "fail": 2, "wrong": 2, "long": 2})
    assert classify_work(calls, requests, needed).tolist() == [
        "useful",
        "failed request",
        "wrong answer",
        "useful",
        "more calls than needed",
        "not known",
        "others",
    ]


def test_questions_that_were_asked_before() -> None:
    """From any user, in the order in which they were sent; follow-ups are not compared."""
    requests = pd.DataFrame(
        {
            "prompt": ["x", "y", "x", "y"],
            "turn_index": [0, 0, 0, 1],
            "scheduled_at": [3.0, 1.0, 2.0, 4.0],
        }
    )
    assert is_repeat(requests).tolist() == [True, False, False, False]


def test_energy_says_what_it_knows() -> None:
    """7.2 MJ are 2 kWh; a missing counter is a reason, not a zero."""
    known, unknown = Energy(7.2e6, "some_joules_total"), Energy(math.nan, "", "there is no counter")
    assert known.cost_usd(0.25) == pytest.approx(0.5) and known.per_token_j(7.2e6) == 1.0
    assert (
        "2 kWh" in str(known)
        and str(unknown) == "no energy figure: there is no counter"
        and not unknown.known
    )


def test_the_price_of_a_thousand_has_the_interval_of_their_number() -> None:
    """Garwood's interval of 60 arrivals is 45.8 to 77.2 (tables of the Poisson distribution)."""
    value, low, high = usd_per_thousand(0.6, 60)
    assert value == pytest.approx(10.0)
    assert (600 / high, 600 / low) == pytest.approx((45.8, 77.2), abs=0.05)
    assert math.isnan(usd_per_thousand(0.6, 0)[0])
