"""Drive a workload: send it, or, in the place `recorded`, take the run that was recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar

from lab.observation.window import window_run
from lab.places import place_of
from lab.runs import Conditions
from lab.settings import Settings
from lab.workload import Plan, Poisson, Run, Users, make_plan

Reading = TypeVar("Reading")


def drive(
    settings: Settings,
    *,
    n_requests: int,
    rate_per_s: float = 1.0,
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    model: str = "",
    users: int = 0,
    think_s: float = 1.0,
    api: Literal["responses", "chat"] = "responses",
    temperature: float = 0.0,
    max_tokens: int = 192,
    label: str = "",
    timeout_s: float = 60.0,
    progress: bool = True,
    window: str = "",
) -> Run:
    """Send `n_requests` seeded requests and return the run.

    Open loop: `rate_per_s` conversations begin per second (Poisson arrivals). With `users` > 0
    closed loop instead: that many users, who each think for `think_s` seconds on average between
    two requests. `kinds` restricts the scenarios (lab.world.scenarios.KINDS), `model` is the name
    to request (default: the settings' `model_name`), `api` is 'responses' (the agent) or 'chat'
    (vLLM alone). `label` names what these arguments do not say, such as 'prefix cache off'. A
    request that fails is a row with its status, not an exception.

    The run is saved to `<state_dir>/runs/<run_id>`, from where `lab record` takes it. In the place
    `recorded` nothing is sent: the recording's run of the same rate, users, kinds, model, api,
    temperature and label is returned; differences in `n_requests`, `seed` and `max_tokens` are
    printed.

    With a `window` ('START/END' in ISO 8601 with a time zone, or 'last 15m') nothing is sent
    either: the run is made of the traces that Tempo has of it, whoever sent them
    (`lab.observation.window.window_run`, with what it raises). Of the other arguments only `model`
    counts then: only requests to it are taken.

    Raises WorkloadError (arguments that make no plan; a recording without such a run) and NotUp.
    """
    if window:
        return window_run(settings, window, model=model)

    conditions = Conditions(
        n_requests=n_requests,
        rate_per_s=0.0 if users else rate_per_s,
        users=users,
        think_s=think_s if users else 0.0,
        seed=seed,
        kinds=tuple(sorted(kinds or ())),
        model=model or settings.model_name,
        api=api,
        temperature=temperature,
        max_tokens=max_tokens,
        label=label,
    )

    def plan() -> Plan:
        return make_plan(
            requests=n_requests,
            arrivals=Users(users, think_s) if users else Poisson(rate_per_s),
            seed=seed,
            kinds=kinds,
            api=api,
            settings=settings,
            model=model,
            max_tokens=max_tokens,
            temperature=temperature,
        )

    return place_of(settings).run(
        settings, conditions, plan, progress=progress, timeout_s=timeout_s
    )


class Sampler(Generic[Reading]):
    """Call `read` before a block, every `every_s` seconds during it, and after it.

    `readings` has what it returned. A reading that fails in the background ends the sampling
    without an error; the first one raises.
    """

    def __init__(self, read: Callable[[], Reading], every_s: float) -> None:
        self._read = read
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True, name="lab sampler")
        self.readings: list[Reading] = []

    def __enter__(self) -> Self:
        self.readings.append(self._read())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if error is None:
            self.readings.append(self._read())

    def _sample(self) -> None:
        while not self._over.wait(self._every_s):
            self.readings.append(self._read())
