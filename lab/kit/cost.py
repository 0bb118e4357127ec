"""What a notebook needs for a run's bill: who used the engine, the books of tokens by all sources, and the energy."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from lab.errors import NoData
from lab.frames import increase_exact, spans_frame
from lab.frames.turns import OTHERS, turn_frame
from lab.kit.scrapes import of_vllm, scraped_until
from lab.measures import Energy, reconcile_totals, token_totals, with_shares
from lab.schema import Metric, Service, Span
from lab.settings import Settings
from lab.stores import Prometheus, Tempo
from lab.workload import Run
from lab.world import scenario_of

BEFORE_S = 60.0  # calls of others that began so long before the run may still have been under way
ENGINE = (  # of the chat model, whatever its service is called
    f'{{ name = "{Span.VLLM}" && resource.service.name != "{Service.VLLM_EMBED}" && '
    f'resource.service.name != "{Service.VLLM_CANARY}" }}'
)
COUNTERS = {
    "prompt": Metric.PROMPT_TOKENS,
    "cached": Metric.CACHED_TOKENS,
    "completion": Metric.GENERATION_TOKENS,
}
ENERGY = (  # metric, joules of one unit, what it covers
    (
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        1e-3,
        "the GPUs, without processor, memory and cooling",
    ),
    (
        "node_rapl_package_joules_total",
        1.0,
        "the processor packages, without memory and the rest of the machine",
    ),
)


def engine_turns(settings: Settings, run: Run, requests: pd.DataFrame) -> pd.DataFrame:
    """Every model call that vLLM worked on while the run was driven: lab.frames.turn_frame, others' calls included.

    A server is often shared; without the others' calls its busy time could not be divided, nor its books balance.
    """
    start, end = run.window
    found = spans_frame(Tempo(settings).spans(ENGINE, start - BEFORE_S, end))
    turns = turn_frame(requests, found)
    inside = (turns["ended_at"] > start) & (turns["scheduled_at"] < end)
    return turns[inside | (turns["request_id"] != OTHERS)].reset_index(drop=True)


def with_busy_time(settings: Settings, run: Run, requests: pd.DataFrame) -> pd.DataFrame:
    """`engine_turns`, with each call's share of the engine's busy seconds in the run (lab.measures.with_shares)."""
    return with_shares(engine_turns(settings, run, requests), run.window)


def needed_turns(requests: pd.DataFrame) -> pd.Series:
    """How many model calls each request needs by its scenario, by request_id: one a tool call, and one to answer.
    Requests without a scenario are left out."""
    ours = requests[requests["scenario_id"].notna() & (requests["turn_index"] >= 0)]
    rows = zip(ours["request_id"], ours["scenario_id"], ours["turn_index"], strict=True)
    need = {
        request: len(scenario_of(scenario).turns[turn].calls) + 1
        for request, scenario, turn in rows
    }
    return pd.Series(need, name="needed", dtype="int64")


@dataclass(frozen=True)
class TokenBooks:
    """`table`: rows prompt, cached, completion; a column a source, differences and `balanced`; see `reconcile`.

    `computed_tokens` by Prometheus' three counters, `in_steps` by vLLM's steps; `others`: model calls of others;
    `under_way`: how many of theirs were at work at the scrapes that the counters' window begins and ends with. Their
    tokens lie partly outside of it, so then a difference says nothing.
    """

    table: pd.DataFrame
    computed_tokens: int
    in_steps: float
    others: int
    under_way: int = 0

    @property
    def balanced(self) -> bool:
        """Prompt and completion agree in all sources, and what the engine's steps counted is what was computed."""
        agree = self.table.loc[["prompt", "completion"], "balanced"].all()
        return bool(agree) and self.in_steps == self.computed_tokens

    def __str__(self) -> str:
        rows = self.table.loc[["prompt", "completion"]]
        used = f" (of them {self.others} model calls by others)" if self.others else ""
        off = [
            f"{kind} {row[name]:+,.0f} ({name.replace('_', ' ')})"
            for kind, row in rows.iterrows()
            for name in rows
            if "_less_" in name and row[name]
        ]
        if self.in_steps != self.computed_tokens:
            off.append(
                f"computed {self.in_steps - self.computed_tokens:+,.0f} (vLLM's steps less its counters)"
            )
        total = int(rows["spans"].sum())
        if off and self.under_way:
            off.append(
                f"but {self.under_way} calls of others were under way at its edges: no verdict, run it again"
            )
        if off:
            return f"the books do NOT balance over {total:,} tokens{used}: " + "; ".join(off)
        return f"the books balance to the token: {total:,} prompt and generated tokens in every source{used}"


def reconcile(
    settings: Settings, run: Run, requests: pd.DataFrame, turns: pd.DataFrame
) -> TokenBooks:
    """The run's tokens by client, spans and Prometheus, to the token.

    Prometheus' counters cannot tell users apart. So `spans` here is all that vLLM worked on meanwhile, and what others
    asked (calls that ended within the counters' window) is added to the client's column too, as `others`, so that a
    shared server is no difference. A fourth source: vLLM counts the tokens of every step of its engine
    (`iteration_tokens_total`), which must be the prompt tokens that no cache held, and the generated ones.
    """
    prometheus = Prometheus(settings)
    start, end = run.window[0], scraped_until(settings, prometheus, run, settings.vllm_job)
    grown = {what: _growth(settings, metric, start, end) for what, metric in COUNTERS.items()}
    first = min(
        g["first_at"].min().timestamp() if g["first_at"].notna().any() else start
        for g in grown.values()
    )
    theirs = turns[
        (turns["request_id"] == OTHERS) & (turns["ended_at"] > first) & (turns["ended_at"] <= end)
    ]
    totals = token_totals(requests, {what: float(g["increase"].sum()) for what, g in grown.items()})
    silent = totals.attrs["client_silent"]
    others = pd.Series({what: float(theirs[f"{what}_tokens"].sum()) for what in COUNTERS})
    totals["client"] += others
    totals["spans"] += others
    table = reconcile_totals(totals.astype("int64"))
    table.insert(0, "others", others.astype("int64"))
    table.attrs["client_silent"] = silent
    computed = int(totals["prometheus"] @ pd.Series({"prompt": 1, "cached": -1, "completion": 1}))
    steps = float(_growth(settings, f"{Metric.STEP_TOKENS}_sum", start, end)["increase"].sum())
    in_engine = f"sum({of_vllm(settings, Metric.RUNNING, Metric.WAITING)})"
    edges = [
        sum(float(s["value"][1]) for s in prometheus.query(in_engine, at=t).metrics)
        for t in (first, end)
    ]
    return TokenBooks(table, computed, steps, len(theirs), int(sum(edges)))


def finished_calls(settings: Settings, run: Run) -> pd.Series:
    """How many model calls ended in which way during the run, by vLLM's counter: stop, length, abort, error, ...

    Not in it are calls that were broken off because their client hung up: vLLM 0.32 lets neither a span nor this
    counter tell of them (its reason `abort` stays 0); only the counters of tokens do.
    """
    prometheus = Prometheus(settings)
    start, end = run.window[0], scraped_until(settings, prometheus, run, settings.vllm_job)
    grown = _growth(settings, Metric.REQUESTS, start, end)
    return (
        grown.groupby("finished_reason", observed=True)["increase"]
        .sum()
        .astype("int64")
        .rename("calls")
    )


def energy(settings: Settings, run: Run) -> Energy:
    """Joules of the run by the first counter that this Prometheus has: DCGM's, else RAPL's; else why there is none."""
    prometheus = Prometheus(settings)
    for metric, unit_j, covers in ENERGY:
        answer = prometheus.samples(metric, *run.window)
        if not len(answer):
            continue
        job = answer.series[0].labels.get("job", "")
        start, end = run.window[0], scraped_until(settings, prometheus, run, job)
        grown = increase_exact(prometheus.samples(metric, start, end), start, end)
        return Energy(float(grown["increase"].sum()) * unit_j, metric, covers)
    names = " nor ".join(metric for metric, _, _ in ENERGY)
    looked = prometheus.samples(
        'node_scrape_collector_success{collector="rapl"}', *run.window
    ).metrics
    rapl = (
        "node-exporter looks for it here and finds none"
        if looked
        else "node-exporter was not asked for it"
    )
    why = (
        f"this Prometheus has neither {names}.\nDCGM's exporter needs an NVIDIA GPU; the processor's own counter (RAPL)"
        f" is hidden from most virtual machines: {rapl}."
    )
    return Energy(float("nan"), "", why)


def _growth(settings: Settings, metric: str, start: float, end: float) -> pd.DataFrame:
    selector = of_vllm(settings, metric)
    grown = increase_exact(Prometheus(settings).samples(selector, start, end), start, end)
    if grown.empty:
        raise NoData(f"Prometheus has no sample of {metric} in this run's window", query=selector)
    return grown
