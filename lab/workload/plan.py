"""A plan: who asks what, and when. Made before anything is sent, seeded, saved, and the same every time it is driven.

Open loop: the first request of a session has an offset from the run's start. Its follow-ups cannot have one, because
they need the answer before them: they are due `think_s` after it, and their latency counts from then.
Closed loop: the plan's sessions are dealt out to the users, who each go through theirs one after another.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import pandas as pd

from lab.errors import WorkloadError
from lab.workload import arrivals as arrival_processes
from lab.workload.arrivals import Arrival

FORMAT, VERSION = "lab-plan", 1
Api = Literal["responses", "chat"]


class PlannedRequest(msgspec.Struct, frozen=True):
    """One request to be. `offset_s` is from the run's start, None where the request waits for what is before it."""

    request_id: str
    session_id: str
    turn_index: int
    user: int  # the number of the closed-loop user whose session this is; -1 in open loop
    offset_s: float | None
    think_s: float  # to wait after the answer before this one, where offset_s is None
    tenant: str
    user_id: str
    scenario_id: str
    kind: str
    intent: str
    text: str
    tools: list[str]  # names of the tools that the request offers
    api: Api
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

    `world` names the facts that the questions are about; `shard` is 'i/n' for a part of a plan, else ''.
    """

    requests: tuple[PlannedRequest, ...]
    arrivals: Arrival
    seed: int
    world: str = ""
    shard_of: str = ""

    def __len__(self) -> int:
        return len(self.requests)

    def __repr__(self) -> str:
        shard = f", shard {self.shard_of}" if self.shard_of else ""
        sessions = len({r.session_id for r in self.requests})
        return f"<Plan of {len(self)} requests in {sessions} sessions, {self.arrivals}, seed {self.seed}{shard}>"

    def sessions(self) -> Iterator[list[PlannedRequest]]:
        """The requests of each session, in the order of the plan."""
        grouped: dict[str, list[PlannedRequest]] = {}
        for request in self.requests:
            grouped.setdefault(request.session_id, []).append(request)
        yield from grouped.values()

    def frame(self) -> pd.DataFrame:
        """One row a request; columns are the fields of PlannedRequest, with `text` as `prompt`."""
        rows = [msgspec.structs.asdict(r) for r in self.requests]
        return pd.DataFrame(rows, columns=list(PlannedRequest.__struct_fields__)).rename(
            columns={"text": "prompt"}
        )

    def shard(self, index: int, of: int) -> Plan:
        """Part `index` (from 0) of `of`; all parts driven together, from the same start, are the whole plan.

        Sessions (and in closed loop users) stay whole. Raises WorkloadError for an index that is not one of the parts.
        """
        if not 0 <= index < of:
            raise WorkloadError(
                "there is no such shard", got=f"shard {index} of {of}", fix=f"use 0 to {of - 1}"
            )
        mine = []
        for number, session in enumerate(self.sessions()):
            if (session[0].user if self.arrivals.closed else number) % of == index:
                mine.extend(session)
        return replace(self, requests=tuple(mine), shard_of=f"{index}/{of}")

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON lines, whole or not at all: a header, then one request a line.

        Raises WorkloadError if the file cannot be written.
        """
        path = Path(path)
        write_whole(path, self.to_bytes())
        return path

    def to_bytes(self) -> bytes:
        """Return the plan as `save` writes it."""
        lines = b"".join(msgspec.json.encode(r) + b"\n" for r in self.requests)
        header = _Header(
            FORMAT,
            VERSION,
            self.seed,
            self.arrivals.as_dict(),
            self.world,
            self.shard_of,
            len(self.requests),
            hashlib.sha256(lines).hexdigest(),
        )
        return msgspec.json.encode(header) + b"\n" + lines

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read what `save` wrote. Raises WorkloadError for a file that is missing, of another kind, cut or changed."""
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as e:
            raise WorkloadError(
                f"the plan {path} cannot be read", got=str(e), fix="check the path"
            ) from e
        return cls.from_bytes(content, str(path))

    @classmethod
    def from_bytes(cls, content: bytes, name: str) -> Plan:
        """Return the plan of `to_bytes`; `name` is what errors call it. Raises WorkloadError as `load` does."""
        first, _, lines = content.partition(b"\n")
        try:
            header = msgspec.json.decode(first, type=_Header)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            fix = "make one with make_plan(...).save(path)"
            raise WorkloadError(f"{name} is not a plan", got=str(e), fix=fix) from e
        _check_header(name, header, lines)
        requests = tuple(
            msgspec.json.decode(
                b"[" + b",".join(lines.splitlines()) + b"]", type=list[PlannedRequest]
            )
        )
        arrivals = arrival_processes.from_dict(header.arrivals)
        return cls(requests, arrivals, header.seed, header.world, header.shard)


def _check_header(name: str, header: _Header, lines: bytes) -> None:
    again = "make the plan again with make_plan(...).save(path): the same seed gives the same plan"
    if (header.format, header.version) != (FORMAT, VERSION):
        got = f"format {header.format!r}, version {header.version}; this lab reads {FORMAT!r}, version {VERSION}"
        raise WorkloadError(f"{name} is not a plan that this lab reads", got=got, fix=again)
    found = hashlib.sha256(lines).hexdigest()
    if found != header.sha256:
        whole = len(lines.splitlines())
        got = f"{whole} of {header.requests} requests, SHA-256 {found[:12]} instead of {header.sha256[:12]}"
        raise WorkloadError(f"the plan {name} is damaged", got=got, fix=again)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all. Raises WorkloadError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as e:
        raise WorkloadError(
            f"{path} cannot be written", got=str(e), fix="choose a folder that can be written"
        ) from e
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(draft, path)
    except OSError as e:
        raise WorkloadError(f"{path} cannot be written", got=str(e), fix="is the disk full?") from e
    finally:
        Path(draft).unlink(missing_ok=True)


def with_api(plan: Plan, api: Api) -> Plan:
    """The same plan through the other API."""
    return replace(plan, requests=tuple(msgspec.structs.replace(r, api=api) for r in plan.requests))


def with_model(plan: Plan, model: str) -> Plan:
    """The same plan, asked of another model."""
    return replace(
        plan, requests=tuple(msgspec.structs.replace(r, model=model) for r in plan.requests)
    )
