"""A real run's books: every token and every cent of the hour is attributed."""

from __future__ import annotations

import pytest

from lab.cost import energy, finished_calls, needed_turns, reconcile, with_busy_time
from lab.measures import bill_by, cost_by, machine_bill, reconcile_money
from lab.observation import drive, observe
from lab.prices import ApiPrice
from lab.settings import Settings

PRICE = ApiPrice("list", 1.0, 10.0, "", None, "", cached_input_usd_per_mtok=0.1)  # type: ignore[arg-type]
HOURLY_USD = 3.6


@pytest.fixture(scope="module")
def seen(live_lab: Settings):
    """A small run through the agent, with its request frame, its model calls and its books.

    Repeated where another client's call was under way as it began or ended.
    """
    for seed in (66, 67, 68, 69):
        run = drive(
            live_lab,
            n_requests=10,
            users=2,
            think_s=0.1,
            seed=seed,
            label="books test",
            progress=False,
        )
        seen = observe(run, live_lab)
        turns = with_busy_time(seen)
        books = reconcile(seen, turns)
        if not books.under_way:
            break
    return seen, turns, books


def test_tokens_balance_in_every_source(seen) -> None:
    """Client, spans, counters and engine steps agree to the token, on a shared server too."""
    books = seen[-1]
    assert books.balanced, str(books)
    assert "balance to the token" in str(books)


def test_money_balances_too(seen) -> None:
    """Prefill, decode and idle time are the window at its price; so are all tenants together."""
    run, turns = seen[0].run, seen[1]
    bill = machine_bill(turns, run.window, HOURLY_USD)
    paid = run.duration_s / 3600 * HOURLY_USD
    assert reconcile_money(bill, run.window, HOURLY_USD).difference_usd == pytest.approx(
        0, abs=1e-12
    )
    assert (bill.seconds[["prefill", "decode"]] > 0).all()
    for column in ("tenant", "reads", "session_id", "model"):
        parts = bill_by(turns, [column], window=run.window, usd_per_hour=HOURLY_USD)
        assert parts.machine_usd.sum() == pytest.approx(paid, rel=1e-9), column


def test_the_clients_bill_misses_most_of_the_cache(seen) -> None:
    """Llama Stack passes on the last call's cached tokens only; by the spans nothing costs more."""
    run, requests, turns = seen[0].run, seen[0].requests, seen[1]
    mine = turns[turns.request_id.isin(requests.request_id)]
    by_spans = bill_by(
        mine, ["tenant"], window=run.window, usd_per_hour=HOURLY_USD, price=PRICE
    ).api_usd.sum()
    assert by_spans <= cost_by(requests, PRICE, by=["tenant"]).usd.sum()
    assert (mine.cached_tokens <= mine.prompt_tokens).all()


def test_calls_that_ended_are_counted(seen) -> None:
    """At least as many as there are model calls; other clients may have sent some too."""
    requests, turns = seen[0].requests, seen[1]
    assert (
        finished_calls(seen[0]).sum() >= len(turns[turns.request_id.isin(requests.request_id)]) > 0
    )
    assert needed_turns(requests).between(1, 6).all() and len(needed_turns(requests)) == len(
        requests
    )


def test_energy_is_a_number_or_a_reason(seen) -> None:
    """Never zero for 'not measured'."""
    found = energy(seen[0])
    assert found.joules > 0 if found.known else "RAPL" in found.why


def test_a_known_number_of_tokens_is_billed(live_lab: Settings) -> None:
    """Eight direct questions of three generated tokens each: 24 in the spans and on the bill."""
    run = drive(
        live_lab,
        n_requests=8,
        users=2,
        think_s=0.1,
        seed=3,
        api="chat",
        max_tokens=3,
        kinds=["single"],
        label="three tokens each",
        progress=False,
    )
    seen = observe(run, live_lab)
    turns = with_busy_time(seen)
    mine = turns[turns.request_id.isin(seen.requests.request_id)]
    assert mine.completion_tokens.tolist() == [3] * 8
    parts = bill_by(mine, ["tenant"], window=run.window, usd_per_hour=HOURLY_USD, price=PRICE)
    assert parts.completion_tokens.sum() == 24 and parts.requests.sum() == 8
    fresh = mine.prompt_tokens.sum() - mine.cached_tokens.sum()
    by_hand = (fresh + mine.cached_tokens.sum() * 0.1 + 24 * 10) / 1e6
    assert parts.api_usd.sum() == pytest.approx(by_hand)
