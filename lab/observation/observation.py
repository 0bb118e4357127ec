"""An observation: a run, its requests and spans, and the stores that know more of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

import pandas as pd

from lab.engines import PARTS, actual_name, own_names
from lab.errors import NoData
from lab.frames import (
    histogram_frame,
    increase_exact,
    request_frame,
    series_frame,
    spans_frame,
    trace_problems,
)
from lab.frames.completeness import roles_of
from lab.frames.replicas import merge_copies
from lab.frames.roles import Role
from lab.observation.judging import VERDICTS, judge_requests
from lab.observation.window import WindowRun, window_run
from lab.places import place_of
from lab.runs import Conditions
from lab.settings import Settings
from lab.stores import Arrival, Prometheus, SpansAnswer, Tempo
from lab.stores.prometheus import job_matcher
from lab.workload import Plan, Poisson, Run, Users, make_plan

AFTER_S = 120.0  # a later scrape may count other clients' requests too
STORED_S = 5.0  # a scrape is reported a moment before its samples can be queried
POLL_S = 0.2
NO_ENGINE = "vLLM's span has not arrived"
NOT_SENT = "its request was not sent"


@dataclass(frozen=True)
class Observation:
    """A run with its telemetry.

    `requests` (lab.schema.REQUEST_FRAME and the verdicts), `spans`, and what arrived.

    Counters are read up to the first successful scrape after the run: it holds all of the run and
    nothing later.
    """

    run: Run
    settings: Settings
    requests: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    spans: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    arrival: Arrival = field(default_factory=lambda: Arrival((), {}, 0.0))
    _scraped: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def prometheus(self) -> Prometheus:
        """Return a client of the run's Prometheus."""
        return Prometheus(self.settings)

    @cached_property
    def tempo(self) -> Tempo:
        """Return a client of the run's Tempo."""
        return Tempo(self.settings)

    def of_vllm(self, *metrics: str) -> str:
        """Return a selector of these metrics of the chat model's vLLM.

        The metrics are the lab's own (lab.schema.Metric); the selector has the names that this
        engine exports them under. An embedding server exports metrics of the same names, under
        another job.
        """
        job = job_matcher(self.settings.vllm_job)
        known = self._engine_names
        prefix = self.settings.metric_prefix
        names = [actual_name(metric, known, prefix) for metric in metrics]
        if len(metrics) == 1:
            return names[0].selector(job) if names[0] else f"{metrics[0]}{{{job}}}"
        texts = [
            name.metric if name else metric for name, metric in zip(names, metrics, strict=True)
        ]
        return f'{{__name__=~"{"|".join(texts)}",{job}}}'

    @cached_property
    def _engine_names(self) -> list[str]:
        """Return the names of all metrics of the chat model's scrape job."""
        match = f"{{{job_matcher(self.settings.vllm_job)}}}"
        return self.prometheus.label_values("__name__", match=match)

    def _selector(self, metric: str, job: str) -> str:
        """Return a selector of a metric of a job, whatever its exporter's version calls it.

        Raises NoData where the store has it under none of its names.
        """
        if job == self.settings.vllm_job:
            name = actual_name(metric, self._engine_names, self.settings.metric_prefix)
            if name:
                return name.selector(job_matcher(job))
        return f"{self.prometheus.present(metric)}{{{job_matcher(job)}}}"

    @property
    def scraped_until(self) -> float:
        """Return the time of the first successful scrape of vLLM after the run; see `scraped`."""
        return self.scraped(self.settings.vllm_job)

    def scraped(self, job: str) -> float:
        """Return when (epoch seconds) a scrape of a job first succeeded after the run.

        Live, it is waited for. A failed scrape (`up` is 0) brought no counters and is skipped; of
        several instances the one that was scraped last counts. Raises StoreError where no scrape
        comes, NoData where none was kept.
        """
        if job not in self._scraped:
            self._scraped[job] = self._find_scrape(job)
        return self._scraped[job]

    def increases(self, metric: str, job: str | None = None) -> pd.DataFrame:
        """Return the growth of each series of a counter over the run: `lab.frames.increase_exact`.

        `job` is the scrape job, by default the chat model's vLLM; the metric may have the name of
        another version of its exporter. Raises NoData where Prometheus has no sample of it in the
        run.
        """
        job = self.settings.vllm_job if job is None else job
        start = self.run.window[0]
        end = self.scraped(job)
        selector = self._selector(metric, job)
        growth = increase_exact(self.prometheus.samples(selector, start, end), start, end)
        part = next((part for part in PARTS if metric.endswith(part)), "")
        if part and "metric" in growth:  # a native histogram has all its parts in one answer
            growth = growth[growth["metric"].astype(str).str.endswith(part)]
        if growth.empty:
            raise NoData(
                f"Prometheus has no sample of {metric} in this run's window", query=selector
            )
        return merge_copies(growth, ["increase", "resets", "from_zero", "first_at", "last_at"])

    def increase(self, metric: str, by: Sequence[str] = (), job: str | None = None) -> Any:
        """Return how much a counter grew over the run, exactly.

        A float in total, or with labels in `by` a Series per combination of them. Raises NoData as
        `increases` does.
        """
        growth = self.increases(metric, job)
        if not by:
            return float(growth["increase"].sum())
        return growth.groupby(list(by), observed=True)["increase"].sum()

    def samples(self, selector: str) -> pd.DataFrame:
        """Return the samples of a selector from the run's start to the scrape that holds it all.

        lab.frames.series_frame; `metric` has the lab's own names. Raises NoData, with the reason
        that the server knows, where there is none.
        """
        first = self.prometheus.samples(selector, *self.run.window).series
        job = first[0].labels.get("job", "") if first else self.settings.vllm_job
        start = self.run.window[0]
        end = self.scraped(job)
        answer = self.prometheus.samples(selector, start, end, lookback_s=0.0)
        frame = series_frame(answer.require())
        if "metric" in frame:
            names = frame["metric"].cat.categories
            own = own_names(names, self.settings.metric_prefix)
            if own:
                renamed = frame["metric"].astype(object).replace(own)
                frame["metric"] = renamed.astype("category")
        return merge_copies(frame, ["value"])

    def histogram(self, metric: str) -> pd.DataFrame:
        """Return a histogram of vLLM over the run: lab.frames.histogram_frame."""
        start = self.run.window[0]
        end = self.scraped_until
        selector = self._selector(f"{metric}_bucket", self.settings.vllm_job)
        answer = self.prometheus.samples(selector, start, end).require()
        return histogram_frame(answer, start, end)

    def _find_scrape(self, job: str) -> float:
        ended = self.run.window[1]
        # The scrapes of an older run were all made, and its targets may be gone.
        fresh = place_of(self.settings).live and time.time() < ended + AFTER_S
        if fresh:
            self.prometheus.wait_for_scrape(ended, jobs=[job])

        limit = time.monotonic() + (STORED_S if fresh else 0.0)
        while True:
            scrapes = self._first_successes(job)
            if scrapes and all(scrapes):
                return max(scrapes)
            if time.monotonic() > limit:
                raise NoData(
                    f"no scrape of {job} succeeded within {AFTER_S:.0f} s after the run",
                    query=f"up{{{job_matcher(job)}}}",
                    fix="see `lab status`; a recording must last until a scrape after its last run",
                )
            time.sleep(POLL_S)

    def _first_successes(self, job: str) -> list[float]:
        """Return when each instance was first scraped after the run; 0 for never."""
        ended = self.run.window[1]
        up = self.prometheus.samples(
            f"up{{{job_matcher(job)}}}", ended, ended + AFTER_S, lookback_s=0.0
        ).metrics
        firsts = []
        for series in up:
            times = [float(at) for at, value in series["values"] if float(value) == 1]
            firsts.append(min((at for at in times if at > ended), default=0.0))
        return firsts


def observe(run: Run, settings: Settings, wait_s: float = 30.0) -> Observation:
    """Wait at most `wait_s` seconds for the run's traces and return its Observation.

    Incomplete traces are kept and marked. A window's run was made of its traces, so nothing is
    waited for.
    """
    if isinstance(run, WindowRun):
        spans = run.spans
        arrival = run.arrival()
    else:
        spans, arrival = wait_for_spans(settings, run.records, wait_s)
    judgements = judge_requests(run.records, spans)[["request_id", *VERDICTS]]
    requests = request_frame(run.records, spans, judgements)
    return Observation(run, settings, requests, spans, arrival)


def wait_for_spans(
    settings: Settings, records: pd.DataFrame, wait_s: float = 30.0, *, bulk: bool = False
) -> tuple[pd.DataFrame, Arrival]:
    """Return the spans of these client records, waited for at most `wait_s` s, and what arrived.

    A request that was never sent, since the one before it in its conversation failed, has no trace
    and is not waited for.

    With `bulk`, a store that can stream is queried for everything in the records' time at once,
    instead of once per trace; for hundreds of short traces that is many times faster.
    """
    tempo = Tempo(settings)
    is_unsent = (records["status"] == "cancelled") & records["sent_at"].isna()
    ids = records.loc[~is_unsent, "trace_id"].astype(str).tolist()
    unsent = records.loc[is_unsent, "trace_id"].astype(str).tolist()
    direct = direct_ids(records)
    window = None
    if bulk:
        window = float(records["scheduled_at"].min()) - 1, float(records["done_at"].max()) + 1

    looks: list[pd.DataFrame] = []

    def look(answer: SpansAnswer) -> dict[str, str]:
        looks[:] = [spans_frame(answer)]
        return problems(looks[0], direct)

    arrival = tempo.wait_for_traces(
        ids,
        timeout_s=min(wait_s, place_of(settings).max_trace_wait_s),
        problems=look,
        window=window,
    )
    arrival = replace(arrival, incomplete={**arrival.incomplete, **dict.fromkeys(unsent, NOT_SENT)})
    if window and tempo.streams and looks:  # each look was at everything
        spans = looks[0]
        return spans[spans["trace_id"].isin(ids)].reset_index(drop=True), arrival
    return spans_frame(tempo.traces(ids)), arrival


def problems(spans: pd.DataFrame, direct: set[str]) -> dict[str, str]:
    """Return `lab.frames.trace_problems`; the traces in `direct` also need vLLM's span.

    In these the client called vLLM itself. The client's own span may arrive before it, and such
    a trace looks complete without it.
    """
    reasons = {str(trace_id): why for trace_id, why in trace_problems(spans).items()}
    arrived = set(spans.loc[roles_of(spans) == Role.ENGINE, "trace_id"].astype(str))
    without_engine = (direct - arrived) & reasons.keys()
    return reasons | {trace_id: reasons[trace_id] or NO_ENGINE for trace_id in without_engine}


def direct_ids(records: pd.DataFrame) -> set[str]:
    """Return the trace ids of the answered requests that were sent straight to vLLM."""
    direct = (records["api"] == "chat") & (records["status"] == "ok")
    return set(records.loc[direct, "trace_id"].astype(str))


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
