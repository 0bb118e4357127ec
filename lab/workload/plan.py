"""A plan: the requests to send, and when.

Made before anything is sent, seeded, saved, the same each time it is driven.

Open loop: the first request of a session has an offset from the run's start. Its follow-ups cannot
have one, because they need the answer before them: they are due `think_s` after it, and their
latency counts from then. Closed loop: the plan's sessions are distributed over the users, who each
go through theirs one after another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import pandas as pd

from lab.errors import WorkloadError
from lab.files import write_atomically
from lab.workload import arrivals as arrival_processes
from lab.workload.arrivals import Arrivals

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
    arrivals: dict
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
    arrivals: Arrivals
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
            arrivals=self.arrivals.as_dict(),
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
            fix = "make one with make_plan(...).save(path)"
            raise WorkloadError(f"{name} is not a plan", got=str(e), fix=fix) from e
        _check_header(name, header, lines)

        array = b"[" + b",".join(lines.splitlines()) + b"]"
        requests = msgspec.json.decode(array, type=list[PlannedRequest])
        arrivals = arrival_processes.from_dict(header.arrivals)
        return cls(tuple(requests), arrivals, header.seed, header.world, header.shard)

    def save(self, path: str | Path) -> Path:
        """Write the plan to a file, whole or not at all.

        Raises WorkloadError if it cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, self.to_bytes())
        except OSError as e:
            raise WorkloadError(
                f"{path} cannot be written",
                got=str(e),
                fix="choose a folder that can be written, on a disk with room",
            ) from e
        return path

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
    requests = tuple(msgspec.structs.replace(r, model=model) for r in plan.requests)
    return replace(plan, requests=requests)
