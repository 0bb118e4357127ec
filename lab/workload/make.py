"""Make a plan: scenarios from the help desk's world, users and tenants who ask them, and an arrival process."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import cache
from itertools import count, islice
from pathlib import Path

import numpy as np

from lab.errors import WorkloadError
from lab.settings import Settings
from lab.workload.arrivals import Arrival, Constant, Users
from lab.workload.plan import Api, Plan, PlannedRequest
from lab.world import facts, scenarios
from lab.world.scenarios import Scenario

TENANTS = ("acme", "globex", "initech", "umbrella")  # the first asks most: shares fall as 1, 1/2, 1/3, 1/4
USERS_PER_TENANT = 8
FOLLOW_UP_THINK_S = 1.0
BLOCK = 60  # scenarios made at a time


def make_plan(
    *,
    arrivals: Arrival,
    requests: int | None = None,
    duration_s: float | None = None,
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    api: Api = "responses",
    settings: Settings | None = None,
    model: str = "",
    max_tokens: int = 192,
    temperature: float = 0.0,
    follow_up_think_s: float = FOLLOW_UP_THINK_S,
    tenants: Sequence[str] = TENANTS,
) -> Plan:
    """A plan of `requests` requests, or (open loop only) of all sessions that begin within `duration_s`.

    The same arguments give the same plan. `kinds` restricts the scenarios (see lab.world.scenarios.KINDS), `model` is
    the name to ask for (default: the settings' model_name). Raises WorkloadError for arguments that make no plan,
    WorldError for an unknown kind.
    """
    _check(arrivals, requests, duration_s)
    rng = np.random.default_rng(seed)
    times = arrivals.offsets(np.random.default_rng([seed, 1]))
    chosen = _sessions(_endless_scenarios(seed, kinds), times, arrivals, requests, duration_s)
    model = model or (settings.model_name if settings else Settings.model_fields["model_name"].default)
    made: list[PlannedRequest] = []
    for number, (scenario, offset_s, user) in enumerate(chosen):
        tenant, user_id = _who(rng, tenants, user)
        for turn_index, turn in enumerate(scenario.turns):
            first = turn_index == 0
            made.append(
                PlannedRequest(
                    request_id=f"r{len(made):05d}",
                    session_id=f"s{seed}-{number:05d}",
                    turn_index=turn_index,
                    user=user,
                    offset_s=offset_s if first else None,
                    think_s=_think(rng, arrivals, first, follow_up_think_s),
                    tenant=tenant,
                    user_id=user_id,
                    scenario_id=scenario.id,
                    kind=scenario.kind,
                    intent=scenario.intent,
                    text=turn.text,
                    tools=list(scenario.offered),
                    api=api,
                    model=model,
                    max_tokens=max_tokens,
                    temperature=temperature,
                )
            )
    return Plan(tuple(made[:requests]), arrivals, seed, world=f"seed {facts.WORLD_SEED}")


def plan_of(
    chosen: Iterable[Scenario], *, api: Api = "responses", settings: Settings | None = None, gap_s: float = 0.0
) -> Plan:
    """A plan that asks these very scenarios, one session each, `gap_s` apart (0: all at once), as one user.

    Raises WorkloadError if there is none.
    """
    model = settings.model_name if settings else Settings.model_fields["model_name"].default
    made = [
        PlannedRequest(
            request_id=f"r{number:05d}-{turn_index}",
            session_id=f"one-{number:05d}",
            turn_index=turn_index,
            user=-1,
            offset_s=number * gap_s if turn_index == 0 else None,
            think_s=0.0,
            tenant=TENANTS[0],
            user_id=f"{TENANTS[0]}-u00",
            scenario_id=scenario.id,
            kind=scenario.kind,
            intent=scenario.intent,
            text=turn.text,
            tools=list(scenario.offered),
            api=api,
            model=model,
            max_tokens=192,
            temperature=0.0,
        )
        for number, scenario in enumerate(chosen)
        for turn_index, turn in enumerate(scenario.turns)
    ]
    if not made:
        raise WorkloadError("there is nothing to ask", had="no scenario", do="give at least one scenario")
    return Plan(tuple(made), Constant(1 / gap_s if gap_s else 1.0), 0, world=f"seed {facts.WORLD_SEED}")


def make_scenarios(n: int, *, seed: int = 0, kinds: Sequence[str] | None = None) -> list[Scenario]:
    """`n` scenarios about the help desk's facts: the same that the tool server of a fresh lab serves.

    The same seed gives the same scenarios. Raises WorldError for a kind that does not exist.
    """
    return scenarios.make_scenarios(n, seed, _database(), list(kinds) if kinds else None)


@cache
def _database() -> sqlite3.Connection:
    """The help desk's database in memory, made once a process."""
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.sqlite"
        facts.build_database(path)
        with closing(sqlite3.connect(path)) as built:
            built.backup(memory)
    return memory


def _check(arrivals: Arrival, requests: int | None, duration_s: float | None) -> None:
    if (requests is None) == (duration_s is None):
        had = f"requests={requests}, duration_s={duration_s}"
        raise WorkloadError("a plan needs to know where to end", had=had, do="give either requests or duration_s")
    if duration_s is not None and arrivals.closed:
        do = "give requests: how many a closed-loop user sends in a time is the server's decision"
        raise WorkloadError("a closed-loop plan cannot be made by duration", had=f"duration_s={duration_s}", do=do)
    wanted = duration_s if requests is None else requests
    if wanted is None or not wanted > 0:
        raise WorkloadError("a plan of nothing was asked for", had=f"{wanted}", do="ask for more than 0")


def _endless_scenarios(seed: int, kinds: Sequence[str] | None) -> Iterator[Scenario]:
    """Scenarios in blocks, each block from a seed of its own, so that a longer plan begins as a shorter one does."""
    for block in count():
        yield from make_scenarios(BLOCK, seed=seed * 10_000 + block, kinds=kinds)


def _sessions(
    endless: Iterator[Scenario],
    times: Iterator[float],
    arrivals: Arrival,
    requests: int | None,
    duration_s: float | None,
) -> Iterator[tuple[Scenario, float | None, int]]:
    """(scenario, offset of its first request or None, user) until there are enough."""
    if isinstance(arrivals, Users):
        starts = list(islice(times, arrivals.count))
        users = ((starts[n] if n < arrivals.count else None, n % arrivals.count) for n in count())
    else:
        users = ((t, -1) for t in times)
    turns = 0
    for scenario, (offset_s, user) in zip(endless, users, strict=False):
        if (requests is not None and turns >= requests) or (duration_s is not None and (offset_s or 0) >= duration_s):
            return
        turns += len(scenario.turns)
        yield scenario, offset_s, user


def _who(rng: np.random.Generator, tenants: Sequence[str], user: int) -> tuple[str, str]:
    """The tenant and the user of a session; a closed-loop user is always the same person."""
    if user >= 0:
        tenant = tenants[user % len(tenants)]
        return tenant, f"{tenant}-u{user:02d}"
    shares = np.array([1 / (i + 1) for i in range(len(tenants))])
    tenant = tenants[rng.choice(len(tenants), p=shares / shares.sum())]
    return tenant, f"{tenant}-u{rng.integers(USERS_PER_TENANT):02d}"


def _think(rng: np.random.Generator, arrivals: Arrival, first: bool, follow_up_think_s: float) -> float:
    mean_s = arrivals.think_s if isinstance(arrivals, Users) else follow_up_think_s
    if first and not isinstance(arrivals, Users):
        return 0.0
    return float(rng.exponential(mean_s)) if mean_s else 0.0
