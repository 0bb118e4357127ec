"""One call for a notebook's workload: driven live, or, in the place `recorded`, the run that was recorded.

Or, with a `window`, the requests that somebody else's clients made (lab.kit.window).

So a notebook never asks where it is: `run = lab.drive(settings, n_requests=60)` and then `lab.observe(run, settings)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lab.kit import recorded
from lab.kit.asked import Asked, save_asked
from lab.kit.window import window_run
from lab.settings import Settings
from lab.workload import Poisson, Run, Users, make_plan, run_plan


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
    """Send `n_requests` seeded requests and return the run: its records, its window, how late the driver was itself.

    Open loop: `rate_per_s` conversations begin in a second (Poisson arrivals). With `users` > 0 closed loop instead:
    so many users, who each think `think_s` on average between two requests. `kinds` restricts the scenarios
    (lab.world.scenarios.KINDS), `model` is the name to ask for (default: the settings' `model_name`), `api` is
    'responses' (the agent) or 'chat' (vLLM alone). `label` names what these arguments do not say and what a comparison
    is about, such as 'prefix cache off'. A request that fails is a row with its status, not an exception.

    Live, the run is kept in `<state_dir>/runs/<run_id>`, from where `lab record` takes it. In the place `recorded`
    nothing is sent: the recording's run of the same rate, users, kinds, model, api, temperature and label is returned;
    `n_requests`, `seed` and `max_tokens` may differ, and where they do a line says so.

    With a `window` ('START/END' in ISO 8601 with a time zone, or 'last 15m') nothing is sent either: the run is made of
    the traces that Tempo has of it, whoever sent them (`lab.kit.window.window_run`, with what it raises). Of the other
    arguments only `model` counts then: if it is named, only requests to it are taken.

    Raises WorkloadError (arguments that make no plan; a recording without such a run, with what it holds) and NotUp.
    """
    if window:
        return window_run(settings, window, model=model)
    asked = Asked(
        n_requests=n_requests, rate_per_s=0.0 if users else rate_per_s, users=users, think_s=think_s if users else 0.0,
        seed=seed, kinds=tuple(sorted(kinds or ())), model=model or settings.model_name, api=api,
        temperature=temperature, max_tokens=max_tokens, label=label,
    )  # fmt: skip
    if settings.place == "recorded":
        return recorded.run_for(settings, asked)
    plan = make_plan(
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
    run = run_plan(
        plan, settings, out_dir=settings.state_dir / "runs", progress=progress, timeout_s=timeout_s
    )
    save_asked(run.folder, asked)
    return run
