"""Cost: whose tokens they were, whether all sources agree on them, and what they cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd

from lab import prices
from lab.errors import NoData, SettingsError
from lab.frames import spans_frame
from lab.frames.turns import OTHERS, turn_frame
from lab.measures import (
    Energy,
    bill_by,
    by_tokens,
    cache_savings,
    cache_tokens,
    classify_work,
    cost_by,
    is_repeat,
    machine_bill,
    machine_usd_per_mtok,
    reconcile_money,
    reconcile_totals,
    scaled,
    token_totals,
    usd_per_thousand,
    with_shares,
)
from lab.observation import Observation
from lab.prices import ApiPrice, MachinePrice
from lab.schema import Metric, Service, Span
from lab.settings import Settings
from lab.world import scenario_of

__all__ = [
    "TokenReconciliation",
    "api_prices",
    "bill_by",
    "by_tokens",
    "cache_savings",
    "classify_work",
    "cost_by",
    "counter_totals",
    "energy",
    "engine_turns",
    "finished_calls",
    "find_price",
    "is_repeat",
    "machine_bill",
    "machine_prices",
    "machine_usd_per_mtok",
    "needed_turns",
    "reconcile",
    "reconcile_money",
    "reconcile_totals",
    "saved_ratio",
    "scaled",
    "token_totals",
    "usd_per_thousand",
    "with_busy_time",
    "with_shares",
]

BEFORE_S = (
    60.0  # other clients' calls that began this long before the run may still have been under way
)
ENGINE = (  # the chat model's calls, whatever its service is called
    f'{{ name = "{Span.VLLM}" && resource.service.name != "{Service.VLLM_EMBED}" && '
    f'resource.service.name != "{Service.VLLM_CANARY}" }}'
)
COUNTERS = {
    "prompt": Metric.PROMPT_TOKENS,
    "cached": Metric.CACHED_TOKENS,
    "completion": Metric.GENERATION_TOKENS,
}
CACHE_COUNTERS = {  # arguments of lab.measures.cache_tokens
    "cached": Metric.CACHED_TOKENS,
    "external": "vllm:external_prefix_cache_hits_total",
    "by_source": "vllm:prompt_tokens_by_source_total",
    "tiers": "vllm:prompt_tokens_cached_by_source_total",
}
ENERGY = {  # metric -> (joules per unit, what it covers)
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": (
        1e-3,
        "the GPUs, without processor, memory and cooling",
    ),
    "node_rapl_package_joules_total": (
        1.0,
        "the processor packages, without memory and the rest of the machine",
    ),
}
GPU_LABELS = ("Hostname", "hostname", "UUID", "gpu")
RAPL_LOOKED_FOR = 'node_scrape_collector_success{collector="rapl"}'

Price = TypeVar("Price", ApiPrice, MachinePrice)


def machine_prices(settings: Settings) -> dict[str, MachinePrice]:
    """Return every machine of data/prices/machines.toml, by name. Raises SettingsError."""
    return prices.machine_prices(settings.data_dir)


def api_prices(settings: Settings) -> dict[str, ApiPrice]:
    """Return every price list of data/prices/api.toml, by name. Raises SettingsError."""
    return prices.api_prices(settings.data_dir)


def find_price(price_list: Mapping[str, Price], name: str) -> Price:
    """Return the price of this name.

    Raises SettingsError, with the names that there are, where it is not listed.
    """
    if name not in price_list:
        raise SettingsError(
            f"there is no price for {name!r}",
            got=f"the prices of {', '.join(sorted(price_list))}",
            fix="use one of these, or add a row with its source (data/prices/README.md)",
        )
    return price_list[name]


def engine_turns(seen: Observation) -> pd.DataFrame:
    """Return every model call that vLLM worked on during the run: lab.frames.turn_frame.

    Other clients' calls are included. A server is often shared. Without the others' calls, its busy
    time could not be divided and its counters would not match.
    """
    start, end = seen.run.window
    turns = _turns_between(seen, start, end)
    during = (turns["ended_at"] > start) & (turns["scheduled_at"] < end)
    return turns[during | (turns["request_id"] != OTHERS)].reset_index(drop=True)


def _turns_between(seen: Observation, start: float, end: float) -> pd.DataFrame:
    """Return the run's model calls, and all others that the chat model's spans show."""
    spans = spans_frame(seen.tempo.spans(ENGINE, start - BEFORE_S, end))
    return turn_frame(seen.requests, spans)


def with_busy_time(seen: Observation) -> pd.DataFrame:
    """Return `engine_turns` with each call's share of the engine's busy seconds."""
    return with_shares(engine_turns(seen), seen.run.window)


def needed_turns(requests: pd.DataFrame) -> pd.Series:
    """Return how many model calls each request needs, by request_id.

    One per tool call of its scenario, and one for the answer. Requests without a scenario are left
    out.
    """
    known = requests[requests["scenario_id"].notna() & (requests["turn_index"] >= 0)]
    needed = {
        row.request_id: len(scenario_of(row.scenario_id).turns[row.turn_index].calls) + 1
        for row in known.itertuples()
    }
    return pd.Series(needed, name="needed", dtype="int64")


def counter_totals(seen: Observation) -> dict[str, float]:
    """Return the growth of vLLM's token counters over the run: {prompt, cached, completion}.

    NaN for a counter that this version of vLLM does not have. Waits for a scrape.
    """
    totals = {}
    for kind, metric in COUNTERS.items():
        try:
            totals[kind] = seen.increase(metric)
        except NoData:
            totals[kind] = float("nan")
    return totals


def saved_ratio(seen: Observation) -> float:
    """Return the share of the tokens counted as cached that caching saved in the run; 1 usually.

    Behind prefill/decode disaggregation the decoding engine, and so its API, counts the whole
    prompt as cached, since another engine computed it: 0. It is 1 where vLLM does not count prompt
    tokens by source, and where nothing was cached.
    """
    counters = {}
    for question, metric in CACHE_COUNTERS.items():
        by = ["source"] if question in ("by_source", "tiers") else []
        try:
            growth = seen.increases(metric).assign(run="")
            counters[question] = growth.groupby(["run", *by], observed=True)["increase"].sum()
        except NoData:
            counters[question] = pd.Series(dtype=float)
    cached = counters["cached"].sum()
    return float(cache_tokens(**counters)["cached"].sum() / cached) if cached else 1.0


@dataclass(frozen=True)
class TokenReconciliation:
    """The tokens of a run by all sources; see `reconcile`.

    `table`: rows prompt, cached, completion; one column per source, their differences, and
    `balanced`. `computed_tokens` is by Prometheus' three counters, `in_steps` by vLLM's engine
    steps; `others` is the number of other clients' model calls, `under_way` how many of those were
    running at the scrapes at which the counters' window begins and ends. Their tokens are partly
    outside of it, so then a difference means nothing.
    """

    table: pd.DataFrame
    computed_tokens: int
    in_steps: float
    others: int
    under_way: int = 0

    @property
    def balanced(self) -> bool:
        """Return whether all sources agree on prompt and completion, and the engine's steps do."""
        agree = self.table.loc[["prompt", "completion"], "balanced"].all()
        return bool(agree) and self.in_steps == self.computed_tokens

    def __str__(self) -> str:
        rows = self.table.loc[["prompt", "completion"]]
        others = f" (of them {self.others} model calls by others)" if self.others else ""
        total = int(rows["spans"].sum())
        differences = self._differences(rows)
        if not differences:
            everywhere = f"{total:,} prompt and generated tokens in every source"
            return f"the books balance to the token: {everywhere}{others}"
        return f"the books do NOT balance over {total:,} tokens{others}: {'; '.join(differences)}"

    def _differences(self, rows: pd.DataFrame) -> list[str]:
        tokens = rows.filter(like="_less_").stack()
        differences = [
            f"{kind} {more:+,.0f} ({name.replace('_', ' ')})"
            for (kind, name), more in tokens[tokens != 0].items()
        ]
        if self.in_steps != self.computed_tokens:
            more = self.in_steps - self.computed_tokens
            differences.append(f"computed {more:+,.0f} (vLLM's steps less its counters)")
        if differences and self.under_way:
            differences.append(
                f"but {self.under_way} calls of others were under way at its edges: "
                "no verdict, run it again"
            )
        return differences


def reconcile(seen: Observation) -> TokenReconciliation:
    """Compare the run's tokens by client, spans and Prometheus, to the token.

    Prometheus' counters cannot tell users apart. So `spans` is everything that vLLM worked on, and
    the other clients' tokens (calls that ended within the counters' window) are also added to the
    client's column, as `others`, so that a shared server is not a difference. A fourth source: vLLM
    counts the tokens of every engine step (`iteration_tokens_total`), which must equal the uncached
    prompt tokens plus the generated ones.

    Raises NoData without vLLM's counters.
    """
    growth = {kind: seen.increases(metric) for kind, metric in COUNTERS.items()}
    increases = {kind: float(table["increase"].sum()) for kind, table in growth.items()}
    # The counters' window is wider than the run's, by up to one scrape at each end, and by a whole
    # restart where vLLM has just started: its readiness probe is one of the others' calls then.
    firsts = pd.concat([table["first_at"] for table in growth.values()]).dropna()
    born = seen.run.window[0] - BEFORE_S
    first = born if firsts.empty else firsts.min().timestamp()
    end = seen.scraped_until

    turns = _turns_between(seen, first, end)
    ended_at = turns["ended_at"]
    theirs = turns[(turns["request_id"] == OTHERS) & (ended_at > first) & (ended_at <= end)]
    others = pd.Series({kind: float(theirs[f"{kind}_tokens"].sum()) for kind in COUNTERS})
    totals = token_totals(seen.requests, increases)
    silent = totals.attrs["client_silent"]
    totals["client"] += others
    totals["spans"] += others
    table = reconcile_totals(totals.astype("int64"))
    table.insert(0, "others", others.astype("int64"))
    table.attrs["client_silent"] = silent

    computed = increases["prompt"] - increases["cached"] + increases["completion"]
    in_steps = seen.increase(f"{Metric.STEP_TOKENS}_sum")
    under_way = _in_engine(seen, first) + _in_engine(seen, end)
    return TokenReconciliation(table, int(computed), in_steps, len(theirs), under_way)


def _in_engine(seen: Observation, at: float) -> int:
    """Return how many requests vLLM reported as running or waiting at a time."""
    answer = seen.prometheus.query(f"sum({seen.of_vllm(Metric.RUNNING, Metric.WAITING)})", at=at)
    return int(sum(float(series["value"][1]) for series in answer.metrics))


def finished_calls(seen: Observation) -> pd.Series:
    """Return how many model calls ended in which way during the run, by vLLM's counter.

    Calls that were broken off because their client hung up are not in it: vLLM 0.32 writes no span
    for them and does not count them (its reason `abort` stays 0); only the token counters include
    them.
    """
    calls = seen.increase(Metric.REQUESTS, by=["finished_reason"])
    return calls.astype("int64").rename("calls")


def energy(seen: Observation) -> Energy:
    """Return the joules of the run by DCGM's counter, otherwise RAPL's, otherwise why none."""
    window = seen.run.window
    for metric, (unit_j, covers) in ENERGY.items():
        # DCGM's exporter can write lower-case names, and an OpenMetrics scrape adds _total.
        series = seen.prometheus.samples(f'{{__name__=~"(?i:{metric})(_total)?"}}', *window).series
        if series:
            labels = series[0].labels
            growth = seen.increases(labels["__name__"], job=labels.get("job", ""))
            # DCGM repeats a GPU's energy for every instance (MIG) and every pod that shares it.
            gpu = [name for name in GPU_LABELS if name in growth]
            if gpu:
                growth = growth.groupby(gpu, observed=True, dropna=False)[["increase"]].max()
            units = float(growth["increase"].sum())
            return Energy(units * unit_j, metric, covers)

    looked_for = seen.prometheus.samples(RAPL_LOOKED_FOR, *window).series
    rapl = (
        "node-exporter looks for it here and finds none"
        if looked_for
        else "node-exporter's collector for it is off"
    )
    return Energy(
        float("nan"),
        "",
        f"this Prometheus has neither {' nor '.join(ENERGY)}.\n"
        "DCGM's exporter needs an NVIDIA GPU; the processor's own counter (RAPL) is hidden from "
        f"most virtual machines: {rapl}.",
    )
