"""Start, stop and reveal an incident of the running lab."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from pathlib import Path
from random import Random

from lab import stack
from lab.errors import NotUp, StackError
from lab.incidents import record
from lab.incidents.catalogue import INCIDENTS
from lab.incidents.record import Record
from lab.settings import Settings
from lab.stack import processes, state
from lab.stack.plan import INCIDENT

ANY = "any"
ONSET_AFTER_S = (1.0, 8.0)
WEAKEST = 0.3  # of the strengths that are drawn
STOP_S = 60.0
START_S = 90.0
POLL_S = 0.2
RUNS = (state.WAITING, state.STARTING, state.READY)


def start(
    name: str,
    settings: Settings,
    *,
    seed: int | None = None,
    strength: float | None = None,
    hidden: bool = False,
    onset_after_s: float | None = None,
    wait: bool = True,
) -> Record:
    """Bring an incident about, and return its record when the change is in effect.

    With "any" as its name, the seed draws the incident too. Strength (0 to 1) and onset (seconds
    from now) are drawn unless they are given. The default seed is 0, that of a hidden incident is
    random. Without `wait`, it returns as soon as the incident's process runs.

    Raises StackError for an unknown name, an incident that is on already, a lab that is not local
    or lacks a part; NotUp and PartFailed as `stack.require` does.
    """
    seed = seed if seed is not None else secrets.randbits(32) * hidden
    if name == ANY:
        name = Random(f"incident {seed}").choice(sorted(INCIDENTS))
    state_dir = _check(name, strength, settings)
    incident = INCIDENTS[name]

    random = Random(f"{name} {seed}")
    drawn_strength = round(random.uniform(WEAKEST, 1.0), 2)
    drawn_onset_s = round(random.uniform(*ONSET_AFTER_S), 1)
    used = drawn_strength if strength is None else strength
    record.write(
        state_dir,
        Record(
            id=secrets.token_hex(4),
            hidden=hidden,
            started_at=time.time(),
            name=name,
            seed=seed,
            strength=used,
            parameters=incident.draw(random, used),
            onset_after_s=drawn_onset_s if onset_after_s is None else onset_after_s,
        ),
    )
    stack.start(settings, INCIDENT)
    return _wait_for_effect(state_dir) if wait else record.require(state_dir).shown()


def stop(settings: Settings) -> Record:
    """Undo the incident, wait until the lab is as before, and return its record.

    Raises StackError if none is on.
    """
    state_dir = settings.state_dir.resolve()
    before = current(settings)
    if before is None or before.ended_at is not None:
        raise StackError("no incident is on", fix="start one with `lab incident start NAME`")

    stack.stop(settings, INCIDENT)
    ended = record.require(state_dir)
    if ended.ended_at is None:
        ended = record.update(state_dir, ended_at=time.time())
    stack.require(settings, wait_s=STOP_S)
    return ended.shown()


def reveal(settings: Settings) -> Record:
    """Return the whole record of the incident, on or ended, which is no longer hidden.

    Raises StackError if there was none.
    """
    current(settings)
    return record.update(settings.state_dir.resolve(), hidden=False)


def current(settings: Settings) -> Record | None:
    """Return the incident that is on, else the last one with its end, None if there was none.

    Name and details of a hidden one are left out. An incident whose process has ended without a
    `stop` (`lab down`, kill) is recorded as ended.
    """
    state_dir = settings.state_dir.resolve()
    now = record.read(state_dir)
    if now is not None and now.ended_at is None and not _process_runs(state_dir):
        now = record.write(state_dir, replace(now, ended_at=time.time()))
    return now.shown() if now else None


def _check(name: str, strength: float | None, settings: Settings) -> Path:
    """Return the state folder of a lab in which this incident can be started."""
    if name not in INCIDENTS:
        raise StackError(
            f"there is no incident {name!r}", fix=f"use {ANY}, or one of {', '.join(INCIDENTS)}"
        )
    if strength is not None and not 0 <= strength <= 1:
        raise StackError("the strength is out of range", got=f"{strength}", fix="use 0 to 1")
    if settings.place != "local":
        raise StackError(
            "incidents change a lab on this machine only",
            got=f"the place is `{settings.place}`",
            fix="use the place `local`",
        )
    state_dir = settings.state_dir.resolve()
    running = state.read(state_dir)
    if running is None:
        raise NotUp("no lab is running", got=f"nothing in {state_dir}", fix="run `lab up`")
    if lacking := [part for part in INCIDENTS[name].needs if not running.part(part)]:
        raise StackError(
            "this incident needs a part that the lab does not run itself",
            got=f"no part {', '.join(lacking)}",
            fix="leave out the address that you set for it",
        )
    stack.require(settings)
    now = current(settings)
    if now is not None and now.ended_at is None:
        raise StackError("an incident is on already", fix="end it with `lab incident stop`")
    return state_dir


def _wait_for_effect(state_dir: Path) -> Record:
    limit = time.monotonic() + START_S
    while time.monotonic() < limit:
        runs = _process_runs(state_dir)
        now = record.require(state_dir)
        if now.error or not runs:
            raise StackError(
                "the incident could not be brought about, and was undone",
                got=now.error or "its process ended",
                fix="look at `lab status`",
            )
        if now.in_effect_at is not None:
            return now.shown()
        time.sleep(POLL_S)
    raise StackError(f"the incident is not in effect after {START_S:.0f} s", fix="stop it")


def _process_runs(state_dir: Path) -> bool:
    """Return whether the incident's process runs, or is about to."""
    running = state.read(state_dir)
    part = running.part(INCIDENT) if running else None
    if running is None or part is None or part.state not in RUNS:
        return False
    lab_runs = processes.is_same(running.supervisor_pid, running.supervisor_create_time)
    return lab_runs and (part.pid is None or processes.identity(part.pid) is not None)
