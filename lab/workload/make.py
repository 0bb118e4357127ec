"""Make a plan: scenarios from the help desk's world, users and tenants who ask them, and an arrival process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice, takewhile

import numpy as np

from lab.errors import WorkloadError
from lab.settings import Settings
from lab.workload.arrivals import Arrival, Constant, Users
from lab.workload.plan import Api, Plan, PlannedRequest
from lab.world import facts
from lab.world.scenarios import Scenario, make_scenarios

TENANTS = (
    "acme",
    "globex",
    "initech",
    "umbrella",
)  # the first asks most: shares fall as 1, 1/2, 1/3, 1/4
USERS_PER_TENANT = 8
FOLLOW_UP_THINK_S = 1.0


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
    starts = _starts(arrivals, seed, requests, duration_s)
    scenarios = make_scenarios(len(starts), seed, kinds=list(kinds) if kinds else None)
    model = model or (
        settings.model_name if settings else Settings.model_fields["model_name"].default
    )
    made: list[PlannedRequest] = []
    for number, (scenario, (offset_s, user)) in enumerate(zip(scenarios, starts, strict=True)):
        if requests is not None and len(made) >= requests:
            break
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
    chosen: Iterable[Scenario],
    *,
    api: Api = "responses",
    settings: Settings | None = None,
    gap_s: float = 0.0,
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
        raise WorkloadError(
            "there is nothing to ask", got="no scenario", fix="give at least one scenario"
        )
    return Plan(
        tuple(made), Constant(1 / gap_s if gap_s else 1.0), 0, world=f"seed {facts.WORLD_SEED}"
    )


def _check(arrivals: Arrival, requests: int | None, duration_s: float | None) -> None:
    if (requests is None) == (duration_s is None):
        got = f"requests={requests}, duration_s={duration_s}"
        raise WorkloadError(
            "a plan needs to know where to end", got=got, fix="give either requests or duration_s"
        )
    if duration_s is not None and arrivals.closed:
        fix = "give requests: how many a closed-loop user sends in a time is the server's decision"
        raise WorkloadError(
            "a closed-loop plan cannot be made by duration", got=f"duration_s={duration_s}", fix=fix
        )
    wanted = duration_s if requests is None else requests
    if wanted is None or not wanted > 0:
        raise WorkloadError(
            "a plan of nothing was asked for", got=f"{wanted}", fix="ask for more than 0"
        )


def _starts(
    arrivals: Arrival, seed: int, requests: int | None, duration_s: float | None
) -> list[tuple[float | None, int]]:
    """(offset of its first request or None, user) of as many sessions as the plan can need."""
    offsets = arrivals.offsets(np.random.default_rng([seed, 1]))
    if requests is None:
        return [(t, -1) for t in takewhile(lambda t: t < (duration_s or 0), offsets)]
    if isinstance(arrivals, Users):
        begin = list(islice(offsets, arrivals.count))
        return [
            (begin[n] if n < arrivals.count else None, n % arrivals.count) for n in range(requests)
        ]
    return [(t, -1) for t in islice(offsets, requests)]


def _who(rng: np.random.Generator, tenants: Sequence[str], user: int) -> tuple[str, str]:
    """The tenant and the user of a session; a closed-loop user is always the same person."""
    if user >= 0:
        tenant = tenants[user % len(tenants)]
        return tenant, f"{tenant}-u{user:02d}"
    shares = np.array([1 / (i + 1) for i in range(len(tenants))])
    tenant = tenants[rng.choice(len(tenants), p=shares / shares.sum())]
    return tenant, f"{tenant}-u{rng.integers(USERS_PER_TENANT):02d}"


def _think(
    rng: np.random.Generator, arrivals: Arrival, first: bool, follow_up_think_s: float
) -> float:
    mean_s = arrivals.think_s if isinstance(arrivals, Users) else follow_up_think_s
    if first and not isinstance(arrivals, Users):
        return 0.0
    return float(rng.exponential(mean_s)) if mean_s else 0.0
