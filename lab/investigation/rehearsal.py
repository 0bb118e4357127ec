"""An incident under load, with the calm time before it: to practise on, and to measure by."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from lab import incidents
from lab.errors import LabError, StackError
from lab.incidents import INCIDENTS, Record
from lab.investigation.change import Span
from lab.investigation.grading import Truth
from lab.observation import drive
from lab.settings import Settings
from lab.stores.timestamps import utc
from lab.workload import Poisson, Run, make_plan

UNITS = {  # parameters of incidents that say how much, in the order in which they are looked for
    "delay_s": "s",
    "error_ratio": "share",
    "stale_ratio": "share",
    "lost_spans_ratio": "share",
    "clock_skew_s": "s",
    "share": "share",
    "users": "users",
    "processes": "processes",
}


@dataclass(frozen=True)
class Rehearsal:
    """A run with an incident in it; `record` is what may be known of it (None: a quiet run).

    `baseline` is the calm part, `window` the rest, as text for `investigate`.
    """

    run: Run
    record: Record | None
    calm_until: float

    @property
    def baseline(self) -> str:
        """Return the calm time before the window."""
        return text_of((self.run.window[0], self.calm_until))

    @property
    def window(self) -> str:
        """Return the time to investigate: from a little before the incident to the last request.

        The time in which only the last answers come is left out: its load is another one.
        """
        last_sent = float(self.run.records["scheduled_at"].max())
        return text_of((self.calm_until, min(self.run.window[1], last_sent + 1.0)))


def text_of(span: Span) -> str:
    """Return a window as text, in whole milliseconds."""
    return f"{utc(span[0])}/{utc(span[1])}"


def rehearse(
    settings: Settings,
    incident: str = "",
    *,
    seed: int | None = None,
    strength: float | None = None,
    hidden: bool = False,
    calm_s: float = 30.0,
    incident_s: float = 35.0,
    rate_per_s: float = 2.0,
    load_seed: int = 0,
    progress: bool = False,
) -> Rehearsal:
    """Begin conversations for `calm_s` + `incident_s` seconds, with an incident after `calm_s`.

    `rate_per_s` conversations begin per second, some of several requests.

    `incident`, `seed`, `strength` and `hidden` are those of `lab.incidents.start`; without an
    incident all of it stays calm. Failed requests are rows, as ever. Raises what `lab.drive` and
    `lab.incidents` raise; the incident is undone in any case.
    """
    plan = make_plan(
        arrivals=Poisson(rate_per_s),
        duration_s=calm_s + incident_s,
        seed=load_seed,
        settings=settings,
    )
    began = time.time()
    abandoned = threading.Event()

    def start() -> None:
        abandoned.wait(max(0.0, began + calm_s - time.time()))
        if incident and not abandoned.is_set():
            incidents.start(
                incident, settings, seed=seed, strength=strength, hidden=hidden, wait=False
            )

    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(start)
        try:
            run = drive(
                settings,
                n_requests=len(plan),
                rate_per_s=rate_per_s,
                seed=load_seed,
                label="rehearsal",
                progress=progress,
            )
            starting.result()
        except BaseException:
            abandoned.set()
            wait([starting])
            _undo(settings)
            raise
    record = _stop(settings) if incident else None
    return Rehearsal(run, record, began + max(calm_s - 3.0, calm_s / 2))


def _undo(settings: Settings) -> None:
    record = incidents.current(settings)
    if record is not None and record.ended_at is None:
        _stop(settings)


def _stop(settings: Settings) -> Record:
    try:
        return incidents.stop(settings)
    except StackError as e:
        # A part that restarted for the incident may still be on its way back.
        record = incidents.current(settings)
        if record is None or record.ended_at is None:
            raise e
        return record


def truth_of(record: Record) -> Truth:
    """Return what was the matter, of a record that was revealed. Raises LabError for another."""
    if not record.name:
        raise LabError("the incident is still hidden", fix="reveal it: `lab incident reveal`")
    place = INCIDENTS[record.name].place.format(**record.parameters)
    truth = Truth(record.name, place, record.onset_at or record.started_at)
    for parameter, unit in UNITS.items():
        if parameter in record.parameters:
            return replace(truth, how_much=abs(record.parameters[parameter]), unit=unit)
    return replace(truth, how_much=math.nan)
