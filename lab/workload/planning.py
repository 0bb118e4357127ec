"""Make a plan: scenarios of the help desk, users and tenants who send them, an arrival process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice, takewhile

import numpy as np

from lab.errors import WorkloadError
from lab.settings import Settings
from lab.workload.arrivals import Arrivals, Constant, Users
from lab.workload.plan import ApiName, Plan, PlannedRequest
from lab.world import facts
from lab.world.scenarios import Scenario, make_scenarios

# The first tenant sends most: shares fall as 1, 1/2, 1/3, 1/4.
TENANTS = ("acme", "globex", "initech", "umbrella")
USERS_PER_TENANT = 8
FOLLOW_UP_THINK_S = 1.0
MAX_TOKENS = 192
WORLD = f"seed {facts.WORLD_SEED}"


def make_plan(
    *,
    arrivals: Arrivals,
    requests: int | None = None,
    duration_s: float | None = None,
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    api: ApiName = "responses",
    settings: Settings | None = None,
    model: str = "",
    max_tokens: int = MAX_TOKENS,
    temperature: float = 0.0,
    follow_up_think_s: float = FOLLOW_UP_THINK_S,
    tenants: Sequence[str] = TENANTS,
) -> Plan:
    """Plan `requests` requests, or (open loop only) all sessions that begin within `duration_s`.

    The same arguments give the same plan. `kinds` restricts the scenarios (see
    lab.world.scenarios.KINDS), `model` is the name of the model to use (default: the settings'
    model_name). Raises WorkloadError for arguments that make no plan, WorldError for an unknown
    kind.
    """
    _check(arrivals, requests, duration_s)
    if seed < 0:
        raise WorkloadError("a seed is negative", got=str(seed), fix="use 0 or a larger number")
    rng = np.random.default_rng(seed)
    starts = _starts(arrivals, seed, requests, duration_s)
    scenarios = make_scenarios(len(starts), seed, kinds=list(kinds) if kinds else None)
    common = {
        "api": api,
        "model": model or _model_name(settings),
        "max_tokens": max_tokens,
        "temperature": temperature,
    }

    planned: list[PlannedRequest] = []
    for number, (scenario, (offset_s, user)) in enumerate(zip(scenarios, starts, strict=True)):
        if requests is not None and len(planned) >= requests:
            break
        tenant, user_id = _sender(rng, tenants, user)
        for turn_index in range(len(scenario.turns)):
            first = turn_index == 0
            request = _request(
                scenario,
                turn_index,
                request_id=f"r{len(planned):05d}",
                session_id=f"s{seed}-{number:05d}",
                user=user,
                offset_s=offset_s if first else None,
                think_s=_think_s(rng, arrivals, first, follow_up_think_s),
                tenant=tenant,
                user_id=user_id,
                **common,
            )
            planned.append(request)
    return Plan(tuple(planned[:requests]), arrivals, seed, world=WORLD)


def plan_of(
    chosen: Iterable[Scenario],
    *,
    api: ApiName = "responses",
    settings: Settings | None = None,
    gap_s: float = 0.0,
) -> Plan:
    """Plan exactly these scenarios from one user, one session each, `gap_s` apart (0: at once).

    Raises WorkloadError if there is none.
    """
    planned = [
        _request(
            scenario,
            turn_index,
            request_id=f"r{number:05d}-{turn_index}",
            session_id=f"one-{number:05d}",
            user=-1,
            offset_s=number * gap_s if turn_index == 0 else None,
            think_s=0.0,
            tenant=TENANTS[0],
            user_id=f"{TENANTS[0]}-u00",
            api=api,
            model=_model_name(settings),
            max_tokens=MAX_TOKENS,
            temperature=0.0,
        )
        for number, scenario in enumerate(chosen)
        for turn_index in range(len(scenario.turns))
    ]
    if not planned:
        raise WorkloadError("a plan needs at least one scenario", got="none")
    return Plan(tuple(planned), Constant(1 / gap_s if gap_s else 1.0), 0, world=WORLD)


def _request(scenario: Scenario, turn_index: int, **values: object) -> PlannedRequest:
    return PlannedRequest(
        turn_index=turn_index,
        scenario_id=scenario.id,
        kind=scenario.kind,
        intent=scenario.intent,
        text=scenario.turns[turn_index].text,
        tools=list(scenario.offered),
        **values,  # type: ignore[arg-type]
    )


def _model_name(settings: Settings | None) -> str:
    return settings.model_name if settings else Settings.model_fields["model_name"].default


def _check(arrivals: Arrivals, requests: int | None, duration_s: float | None) -> None:
    if (requests is None) == (duration_s is None):
        raise WorkloadError(
            "a plan needs one end",
            got=f"requests={requests}, duration_s={duration_s}",
            fix="give either requests or duration_s",
        )
    if duration_s is not None and arrivals.closed:
        raise WorkloadError(
            "a closed-loop plan cannot be made by duration",
            got=f"duration_s={duration_s}",
            fix="give requests: the server decides how many a closed-loop user sends in a time",
        )
    size = duration_s if requests is None else requests
    if size is None or not size > 0:
        raise WorkloadError("a plan cannot be empty", got=f"{size}", fix="use more than 0")


def _starts(
    arrivals: Arrivals, seed: int, requests: int | None, duration_s: float | None
) -> list[tuple[float | None, int]]:
    """Return (offset of the first request or None, user) of as many sessions as may be needed."""
    offsets = arrivals.offsets(np.random.default_rng([seed, 1]))
    if requests is None:
        return [(t, -1) for t in takewhile(lambda t: t < (duration_s or 0), offsets)]
    if not isinstance(arrivals, Users):
        return [(t, -1) for t in islice(offsets, requests)]

    # A user's first session has an offset; the others wait for the one before.
    users = arrivals.count
    first = list(islice(offsets, users))
    return [(first[n] if n < users else None, n % users) for n in range(requests)]


def _sender(rng: np.random.Generator, tenants: Sequence[str], user: int) -> tuple[str, str]:
    """Return (tenant, user id) of a session; a closed-loop user is always the same person."""
    if user >= 0:
        tenant = tenants[user % len(tenants)]
        return tenant, f"{tenant}-u{user:02d}"
    shares = np.array([1 / (i + 1) for i in range(len(tenants))])
    tenant = tenants[rng.choice(len(tenants), p=shares / shares.sum())]
    return tenant, f"{tenant}-u{rng.integers(USERS_PER_TENANT):02d}"


def _think_s(
    rng: np.random.Generator, arrivals: Arrivals, first: bool, follow_up_think_s: float
) -> float:
    if isinstance(arrivals, Users):
        mean_s = arrivals.think_s
    else:
        mean_s = 0.0 if first else follow_up_think_s
    return float(rng.exponential(mean_s)) if mean_s else 0.0
