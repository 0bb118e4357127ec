"""A plan: the requests to send, and when.

Made before anything is sent, seeded, saved, the same each time it is driven.

Open loop: an arrival process gives the first request of a session its offset from the run's start;
how long the server takes changes nothing about it. Its follow-ups cannot have an offset, because
they need the answer before them: they are due `think_s` after it, and their latency counts from
then. Closed loop: the plan's sessions are distributed over the users, who each go through theirs
one after another. At most `count` requests are under way, and a slow server lowers the load: that
hides queueing, which is why both are here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice, takewhile
from pathlib import Path
from typing import ClassVar, Literal

import msgspec
import numpy as np
import pandas as pd

from lab import files
from lab.errors import WorkloadError
from lab.settings import Settings
from lab.world import facts
from lab.world.scenarios import Scenario, make_scenarios

FORMAT = "lab-plan"
VERSION = 1
ApiName = Literal["responses", "chat"]


class PlannedRequest(msgspec.Struct, frozen=True):
    """One request of a plan.

    `offset_s` is from the run's start, None where the request waits for the answer before it;
    `think_s` is then the wait after that answer. `user` is the number of the closed-loop user whose
    session it is, -1 in open loop. `tools` are the names of the tools that the request offers.
    """

    request_id: str
    session_id: str
    turn_index: int
    user: int
    offset_s: float | None
    think_s: float
    tenant: str
    user_id: str
    scenario_id: str
    kind: str
    intent: str
    text: str
    tools: list[str]
    api: ApiName
    model: str
    max_tokens: int
    temperature: float


class _Header(msgspec.Struct):
    format: str
    version: int
    seed: int
    arrivals: Process
    world: str
    shard: str
    requests: int
    sha256: str


@dataclass(frozen=True)
class Plan:
    """The requests in the order of their sessions' starts, and how they were made.

    `world` names the facts that the questions are about; `shard_of` is 'i/n' for a part of a plan,
    else ''.
    """

    requests: tuple[PlannedRequest, ...]
    arrivals: Process
    seed: int
    world: str = ""
    shard_of: str = ""

    def __len__(self) -> int:
        return len(self.requests)

    def __repr__(self) -> str:
        shard = f", shard {self.shard_of}" if self.shard_of else ""
        sessions = len({r.session_id for r in self.requests})
        size = f"{len(self)} requests in {sessions} sessions"
        return f"<Plan of {size}, {self.arrivals}, seed {self.seed}{shard}>"

    def sessions(self) -> Iterator[list[PlannedRequest]]:
        """Yield the requests of each session, in the order of the plan."""
        grouped: dict[str, list[PlannedRequest]] = {}
        for request in self.requests:
            grouped.setdefault(request.session_id, []).append(request)
        yield from grouped.values()

    def frame(self) -> pd.DataFrame:
        """Return one row per request.

        Columns are the fields of PlannedRequest, with `text` as `prompt`.
        """
        rows = [msgspec.structs.asdict(r) for r in self.requests]
        table = pd.DataFrame(rows, columns=list(PlannedRequest.__struct_fields__))
        return table.rename(columns={"text": "prompt"})

    def shard(self, index: int, of: int) -> Plan:
        """Return part `index` (from 0) of `of`.

        All parts driven together, from one start, are the whole plan.

        Sessions (and in closed loop users) stay whole. Raises WorkloadError for an index that is
        not one of the parts.
        """
        if not 0 <= index < of:
            raise WorkloadError(
                "there is no such shard", got=f"shard {index} of {of}", fix=f"use 0 to {of - 1}"
            )
        part: list[PlannedRequest] = []
        for number, session in enumerate(self.sessions()):
            if (session[0].user if self.arrivals.closed else number) % of == index:
                part.extend(session)
        return replace(self, requests=tuple(part), shard_of=f"{index}/{of}")

    def to_bytes(self) -> bytes:
        """Return the plan as JSON lines: a header, then one request per line."""
        lines = b"".join(msgspec.json.encode(r) + b"\n" for r in self.requests)
        header = _Header(
            format=FORMAT,
            version=VERSION,
            seed=self.seed,
            arrivals=self.arrivals,
            world=self.world,
            shard=self.shard_of,
            requests=len(self.requests),
            sha256=hashlib.sha256(lines).hexdigest(),
        )
        return msgspec.json.encode(header) + b"\n" + lines

    @classmethod
    def from_bytes(cls, content: bytes, name: str) -> Plan:
        """Return the plan of `to_bytes`; `name` is what errors call it.

        Raises WorkloadError as `load` does.
        """
        first, _, lines = content.partition(b"\n")
        try:
            header = msgspec.json.decode(first, type=_Header)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            raise WorkloadError(
                f"{name} is not a plan", got=str(e), fix="make one with make_plan(...).save(path)"
            ) from e
        _check_header(name, header, lines)

        array = b"[" + b",".join(lines.splitlines()) + b"]"
        requests = msgspec.json.decode(array, type=list[PlannedRequest])
        return cls(tuple(requests), header.arrivals, header.seed, header.world, header.shard)

    def save(self, path: str | Path) -> Path:
        """Write the plan to a file, whole or not at all.

        Raises WorkloadError if it cannot be written.
        """
        return files.save(path, self.to_bytes(), WorkloadError)

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read what `save` wrote.

        Raises WorkloadError for a file that is missing, of another kind, cut or changed.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as e:
            raise WorkloadError(
                f"the plan {path} cannot be read", got=str(e), fix="check the path"
            ) from e
        return cls.from_bytes(content, str(path))


def _check_header(name: str, header: _Header, lines: bytes) -> None:
    again = "make the plan again with make_plan(...).save(path): the same seed gives the same plan"
    if (header.format, header.version) != (FORMAT, VERSION):
        raise WorkloadError(
            f"{name} is not a plan that this lab reads",
            got=f"format {header.format!r}, version {header.version}; "
            f"this lab reads {FORMAT!r}, version {VERSION}",
            fix=again,
        )
    sha256 = hashlib.sha256(lines).hexdigest()
    if sha256 != header.sha256:
        raise WorkloadError(
            f"the plan {name} is damaged",
            got=f"{len(lines.splitlines())} of {header.requests} requests, "
            f"SHA-256 {sha256[:12]} instead of {header.sha256[:12]}",
            fix=again,
        )


def with_model(plan: Plan, model: str) -> Plan:
    """Return the same plan for another model."""
    return replace(
        plan, requests=tuple(msgspec.structs.replace(r, model=model) for r in plan.requests)
    )


# The first tenant sends most: shares fall as 1, 1/2, 1/3, 1/4.
TENANTS = ("acme", "globex", "initech", "umbrella")
USERS_PER_TENANT = 8
FOLLOW_UP_THINK_S = 1.0
MAX_TOKENS = 192
WORLD = f"seed {facts.WORLD_SEED}"


def make_plan(
    *,
    arrivals: Process,
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


def _check(arrivals: Process, requests: int | None, duration_s: float | None) -> None:
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
    arrivals: Process, seed: int, requests: int | None, duration_s: float | None
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
    rng: np.random.Generator, arrivals: Process, first: bool, follow_up_think_s: float
) -> float:
    if isinstance(arrivals, Users):
        mean_s = arrivals.think_s
    else:
        mean_s = 0.0 if first else follow_up_think_s
    return float(rng.exponential(mean_s)) if mean_s else 0.0


class Arrivals(msgspec.Struct, frozen=True, tag_field="kind", tag=str.lower):
    """Base of the arrival processes, which are saved by their `kind` and numbers."""

    closed: ClassVar[bool] = False
    may_be_zero: ClassVar[tuple[str, ...]] = ()

    @property
    def kind(self) -> str:
        """Return the name of the process, as in `lab load --arrivals KIND:...`."""
        return type(self).__name__.lower()

    def __post_init__(self) -> None:
        """Raise WorkloadError for a number that is negative, or zero where it may not be."""
        for name, number in msgspec.structs.asdict(self).items():
            is_number = isinstance(number, (int, float)) and np.isfinite(number)
            may_be_zero = name in self.may_be_zero
            if not is_number or number < 0 or (number == 0 and not may_be_zero):
                rule = "must not be negative" if may_be_zero else "must be above 0"
                raise WorkloadError(
                    f"{name} of the arrival process {self.kind!r} {rule}", got=repr(number)
                )

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Yield ascending offsets in seconds of the sessions' first requests, without end."""
        raise NotImplementedError


class Constant(Arrivals, frozen=True):
    """A session every 1/rate_per_s seconds."""

    rate_per_s: float

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Return equally spaced offsets."""
        return (i / self.rate_per_s for i in count())


class Poisson(Arrivals, frozen=True):
    """Independent arrivals, `rate_per_s` per second on average: exponential gaps."""

    rate_per_s: float

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Return offsets with exponential gaps."""
        return _exponential(self.rate_per_s, rng)


class Burst(Arrivals, frozen=True):
    """Poisson arrivals: `rate_per_s` for `on_s`, `quiet_rate_per_s` for `off_s`, repeated."""

    rate_per_s: float
    on_s: float
    off_s: float
    quiet_rate_per_s: float = 0.0
    may_be_zero: ClassVar[tuple[str, ...]] = ("quiet_rate_per_s",)

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Yield offsets, burst by burst."""
        period = self.on_s + self.off_s
        for cycle in count():
            start = cycle * period
            yield from _within(start, start + self.on_s, self.rate_per_s, rng)
            yield from _within(start + self.on_s, start + period, self.quiet_rate_per_s, rng)


class Ramp(Arrivals, frozen=True):
    """Poisson arrivals whose rate changes linearly for `ramp_s`, and then stays.

    It shows where the server stops keeping up.
    """

    start_rate_per_s: float
    end_rate_per_s: float
    ramp_s: float
    may_be_zero: ClassVar[tuple[str, ...]] = ("start_rate_per_s",)

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Yield candidates at the highest rate, each kept with probability rate(t) / highest.

        This is thinning (Lewis and Shedler 1979).
        """
        highest = max(self.start_rate_per_s, self.end_rate_per_s)
        for t in _exponential(highest, rng):
            share = min(1.0, t / self.ramp_s)
            rate = self.start_rate_per_s + (self.end_rate_per_s - self.start_rate_per_s) * share
            if rng.random() * highest < rate:
                yield t


class Users(Arrivals, frozen=True):
    """Closed loop: `count` users send, read the answer, think (mean `think_s`), repeat.

    They do not all start at once: their first requests are spread evenly over `start_over_s`.
    """

    count: int
    think_s: float = 0.0
    start_over_s: float = 0.0
    closed: ClassVar[bool] = True
    may_be_zero: ClassVar[tuple[str, ...]] = ("think_s", "start_over_s")

    def offsets(self, rng: np.random.Generator) -> Iterator[float]:
        """Return the start of each user."""
        return (i * self.start_over_s / self.count for i in range(self.count))


Process = Constant | Poisson | Burst | Ramp | Users
KINDS: dict[str, Callable[..., Process]] = {
    "constant": Constant,
    "poisson": Poisson,
    "burst": Burst,
    "ramp": Ramp,
    "users": Users,
}


def _exponential(rate: float, rng: np.random.Generator) -> Iterator[float]:
    t = 0.0
    while True:
        t += rng.exponential(1 / rate)
        yield t


def _within(start: float, end: float, rate: float, rng: np.random.Generator) -> Iterator[float]:
    if rate > 0:
        yield from takewhile(lambda t: t < end, (start + t for t in _exponential(rate, rng)))
