"""The table of signals: what may change, how it is measured, and where a person can look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec

import numpy as np
import pandas as pd

from lab.engines import either_name
from lab.investigation.change import Effect, Pool, Scale
from lab.investigation.evidence import Evidence

NEIGHBOURS = 15  # tool calls, by which it is known how slow all of them are
LONG_PROMPT = 6.0  # times nearly the longest of the baseline: a very long one
LONG_ANSWER = 4.0
BIN_S = 2.0  # of counts and of gaps between samples
SETTLED_S = 30.0  # a counter that begins so long after its target was first scraped began at 0
Points = Callable[[Evidence], pd.DataFrame]
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True)
class Signal:
    """One quantity.

    Attributes:
        name: as in causes.toml
        title: for people
        unit: of its values: s, tokens, share, per second, ...
        scale: whether ratios, differences of shares, or differences of levels matter
        least: the smallest change that matters: a ratio, a share, or a level
        traces, metrics: return its points (time, value, key); traces are preferred
        promql, traceql: a query that shows it, to paste into Grafana
        floor: on the scale `ratio`, values below it do not differ
        by: what the keys of its points are: tool, tenant, job, ...; empty without keys
        role: who looks at it first: developer, sre or payer
        common: whether many causes change it, so that it decides little
        only_rises: whether a fall says nothing: one share falls whenever another rises
        alike: whether its keys are alike, so that a key with few values borrows from all
    """

    name: str
    title: str
    unit: str
    scale: Scale
    least: float
    traces: Points | None = None
    metrics: Points | None = None
    promql: str = ""
    traceql: str = ""
    floor: float = 0.002
    by: str = ""
    role: str = "sre"
    common: bool = False
    only_rises: bool = False
    alike: bool = False


@dataclass(frozen=True)
class Observed:
    """A signal in one investigation: for all, or for one key of it (a tool, a tenant, a job).

    `state` is 1 (up), -1 (down), 0 (unchanged) or NaN (not known); halves are likely changes that
    are not certain. `p_value` is corrected for all signals at once.
    """

    signal: Signal
    source: str
    key: str = ""
    effect: Effect = field(default_factory=Effect)
    p_value: float = float("nan")
    state: float = float("nan")
    points: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    pooled: Pool | None = None

    @property
    def where(self) -> str:
        """Return the key with what it is a key of, as in 'tool get_order'."""
        return f"{self.signal.by} {self.key}" if self.key else ""


def _points(time: Any, value: Any, key: Any = "") -> pd.DataFrame:
    """Return points: `time` in epoch seconds, `value`, and `key` where a signal has several."""
    return pd.DataFrame({"time": time, "value": value, "key": key})


_EMPTY = _points([], [], [])


def _from(
    name: str,
) -> Callable[
    [Callable[Concatenate[pd.DataFrame, Evidence, Arguments], pd.DataFrame]],
    Callable[Arguments, Points],
]:
    """Turn a function of one of an Evidence's tables into a maker of Points.

    The function gets the table, the evidence, and the arguments of the maker. Where the table is
    empty there are no points, and the function is not called.
    """

    def decorate(
        function: Callable[Concatenate[pd.DataFrame, Evidence, Arguments], pd.DataFrame],
    ) -> Callable[Arguments, Points]:
        def make(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Points:
            def points(evidence: Evidence) -> pd.DataFrame:
                table = getattr(evidence, name)
                return _EMPTY if table.empty else function(table, evidence, *args, **kwargs)

            return points

        return make

    return decorate


def _column(table: pd.DataFrame, _: Evidence, column: str, key: str = "") -> pd.DataFrame:
    """Return the values of a column that are known."""
    keys = table[key].astype(object).fillna("?") if key else ""
    points = _points(table["time"].astype(float), table[column].astype(float), keys)
    return points.dropna(subset="value")


_of_tools = _from("tools")(_column)
_of_turns = _from("turns")(_column)
_of_embeddings = _from("embeddings")(_column)
_of_services = _from("services")(_column)
_of_skew = _from("skew")(_column)


@_from("tools")
def _tool_times(tools: pd.DataFrame, evidence: Evidence) -> pd.DataFrame:
    """Return the time of each call that did not fail, less what all tools have in common then.

    On a machine that is busy all tools are slower, which is not the fault of one of them. A call
    that fails takes another time, such as that of a timeout.
    """
    points = _column(tools[~tools["failed"].astype(bool)], evidence, "duration_s", "tool")
    points = points.sort_values("time", ignore_index=True)
    before = points[points["time"].between(*evidence.baseline)]
    usual = points["key"].map(before.groupby("key")["value"].median())
    slowness = (points["value"] / usual.clip(lower=0.005)).fillna(1.0)
    common = slowness.rolling(NEIGHBOURS, center=True, min_periods=1).median()
    return points.assign(value=points["value"] / common.clip(lower=1.0))


def _residents(table: pd.DataFrame, time: str, evidence: Evidence) -> pd.DataFrame:
    """Return the rows of tenants that the baseline has, too: one population."""
    before = table[time].between(*evidence.baseline)
    resident = table["tenant"].isin(table.loc[before, "tenant"].unique())
    return table[resident] if before.any() else table


@_from("turns")
def _turns(turns: pd.DataFrame, evidence: Evidence, column: str) -> pd.DataFrame:
    """Return points of the residents' model calls.

    The time is that of their end: what had ended before a change was not touched by it.
    """
    table = _residents(turns, "time", evidence)
    return _points(table["ended_at"], table[column]).dropna()


@_from("requests")
def _phase(requests: pd.DataFrame, evidence: Evidence, column: str) -> pd.DataFrame:
    table = _residents(requests, "scheduled_at", evidence)
    return _points(table["done_at"], table[column].astype(float)).dropna()


@_from("requests")
def _failures(requests: pd.DataFrame, _: Evidence) -> pd.DataFrame:
    return _points(requests["scheduled_at"], (requests["status"] != "ok").astype(float))


@_from("turns")
def _longer(turns: pd.DataFrame, evidence: Evidence, column: str, factor: float) -> pd.DataFrame:
    """Return for each model call whether it has many times more tokens than usual."""
    before = turns.loc[turns["time"].between(*evidence.baseline), column]
    if before.empty:
        return _EMPTY
    is_long = turns[column] > factor * before.quantile(0.98)
    return _points(turns["time"], is_long * 1.0)


@_from("requests")
def _request_rate(requests: pd.DataFrame, evidence: Evidence) -> pd.DataFrame:
    """Return how many requests begin per second, in bins of time; bins of an outage are 0."""
    bins = []
    for start, end in (evidence.baseline, evidence.window):
        edges = np.arange(start, end, BIN_S)
        counts = np.histogram(requests["scheduled_at"], np.append(edges, edges[-1] + BIN_S))[0]
        bins.append(_points(edges, counts / BIN_S))
    return pd.concat(bins, ignore_index=True)


@_from("requests")
def _tenant_shares(requests: pd.DataFrame, _: Evidence) -> pd.DataFrame:
    """Return for each tenant whether each session is its own; requests of one are no news."""
    if requests["tenant"].isna().all():
        return _EMPTY
    requests = requests.sort_values("scheduled_at")
    is_later = requests["session_id"].notna() & requests.duplicated(["tenant", "session_id"])
    requests = requests[~is_later]
    tenant = requests["tenant"].astype(str)
    parts = [
        _points(requests["scheduled_at"], (tenant == name) * 1.0, name)
        for name in tenant.value_counts().index[:12]
    ]
    return pd.concat(parts, ignore_index=True)


def _new_engine(evidence: Evidence) -> pd.DataFrame:
    """Return for each model call whether its engine (else its model) is new since the baseline."""
    engines = evidence.engines
    if engines.empty and len(evidence.turns):
        model = evidence.turns["model"].astype(str).str.rpartition("/")[2]
        engines = pd.DataFrame({"time": evidence.turns["time"], "value": model})
    if engines.empty:
        return _EMPTY
    before = engines["time"].between(*evidence.baseline)
    if not before.any():
        return _EMPTY
    shares = engines.loc[before, "value"].value_counts(normalize=True)
    is_new = ~engines["value"].isin(shares[shares > 0.05].index)
    return _points(engines["time"], is_new * 1.0)


@_from("samples")
def _new_engine_by_counters(samples: pd.DataFrame, evidence: Evidence) -> pd.DataFrame:
    """Return the share of the finished requests that a new engine finished, in bins of time."""
    finished = growth(samples, "requests")
    finished = finished[~finished["job"].str.contains("embed")]
    engine = finished["job"] + " " + finished["model_name"]
    usual = set(engine[finished["time"].between(*evidence.baseline) & (finished["value"] > 0)])
    if not usual:
        return _EMPTY
    of_new = finished["value"].where(~engine.isin(usual), 0.0)
    sums = pd.DataFrame({"new": of_new, "all": finished["value"]})
    sums = sums.groupby(_bins(finished)).sum()
    sums = sums[sums["all"] > 0]
    return _points(sums.index + BIN_S, (sums["new"] / sums["all"]).to_numpy())


@_from("requests")
def _repeats(requests: pd.DataFrame, _: Evidence) -> pd.DataFrame:
    """Return for each request whether the same scenario was asked by the same tenant before."""
    if requests["scenario_id"].isna().all():
        return _EMPTY
    same = ["tenant", "scenario_id", "session_id"]
    table = requests[["scheduled_at", *same]].sort_values("scheduled_at")
    elsewhere = table.groupby(same[:2], dropna=False).cumcount() > 0
    elsewhere &= ~table.duplicated(same)
    return _points(table["scheduled_at"], elsewhere * 1.0)


@_from("requests")
def _session_turns(requests: pd.DataFrame, _: Evidence) -> pd.DataFrame:
    """Return how many requests of its session came before each request."""
    if requests["session_id"].isna().all():
        return _EMPTY
    table = requests.sort_values("scheduled_at")
    number = table.groupby(["tenant", "session_id"], dropna=False).cumcount()
    return _points(table["scheduled_at"], (number >= 2) * 1.0)


@_from("answers")
def _wrong_answers(answers: pd.DataFrame, _: Evidence) -> pd.DataFrame:
    return _points(answers["time"], answers["wrong"])


@_from("answers")
def _wrong_by_tool(answers: pd.DataFrame, _: Evidence) -> pd.DataFrame:
    rows = answers.explode("tools").dropna(subset="tools")
    return _points(rows["time"], rows["wrong"], rows["tools"])


def growth(samples: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the growth of each counter of a metric from sample to sample, with its labels."""
    table = samples[samples["metric"] == metric].sort_values(["series", "time"])
    first = ~table.duplicated("series")
    step = table["value"].diff()
    step = step.where(step >= 0, table["value"]).where(~first)
    begins = samples.groupby("job")["time"].min()
    late = table["time"] - table["job"].map(begins) > SETTLED_S / 6
    return table.assign(value=step.where(~(first & late), table["value"])).dropna(subset="value")


def _bins(table: pd.DataFrame) -> pd.Series:
    """Return the beginning of each row's bin, of twice BIN_S."""
    return np.floor(table["time"] / (2 * BIN_S)) * 2 * BIN_S


@_from("samples")
def _ratio(
    samples: pd.DataFrame,
    _: Evidence,
    top: str,
    bottom: str,
    key: str = "",
    *,
    only: tuple[str, str] | None = None,
    embed: bool = False,
) -> pd.DataFrame:
    """Return the growth of one counter by the growth of another, in bins of time.

    `only` is the (label, value) of the series that count at the top.
    """
    sums = []
    for metric, chosen in ((top, only), (bottom, None)):
        table = growth(samples, metric)
        table = table[table["job"].str.contains("embed") == embed]
        if chosen:
            table = table[table[chosen[0]] == chosen[1]]
        groups = [_bins(table), table[key] if key else table["time"] * 0]
        sums.append(table.groupby(groups)["value"].sum())
    both = pd.concat(sums, axis=1, keys=["top", "bottom"]).fillna(0.0)
    both = both[both["bottom"] > 0]
    keys = both.index.get_level_values(1) if key else ""
    times = both.index.get_level_values(0) + BIN_S
    return _points(times, (both["top"] / both["bottom"]).to_numpy(), keys)


@_from("samples")
def _rate(samples: pd.DataFrame, _: Evidence, metric: str, *, embed: bool = False) -> pd.DataFrame:
    table = growth(samples, metric)
    table = table[table["job"].str.contains("embed") == embed]
    sums = table.groupby(_bins(table))["value"].sum() / (2 * BIN_S)
    return _points(sums.index + BIN_S, sums.to_numpy())


@_from("samples")
def _gauge(
    samples: pd.DataFrame, _: Evidence, metric: str, key: str = "", *, largest: bool = False
) -> pd.DataFrame:
    table = samples[samples["metric"] == metric]
    table = table[~table["job"].str.contains("embed") | (key == "job")]
    groups = table.groupby([table["time"].round(), table[key] if key else table["time"] * 0])
    values = groups["value"].max() if largest else groups["value"].sum()
    keys = values.index.get_level_values(1) if key else ""
    return _points(values.index.get_level_values(0), values.to_numpy(), keys)


_ups = _gauge("up", "job", largest=True)


def _fresh_share(evidence: Evidence) -> pd.DataFrame:
    hits = _ratio("prefix_hits", "prefix_queries")(evidence)
    return hits.assign(value=1.0 - hits["value"])


def _down(evidence: Evidence) -> pd.DataFrame:
    ups = _ups(evidence)
    return ups.assign(value=1.0 - ups["value"])


def _unscraped(evidence: Evidence) -> pd.DataFrame:
    """Return for each job and time of a scrape whether no sample came near it; one may be late."""
    ups = _ups(evidence)
    if ups.empty:
        return _EMPTY
    step = max(float(ups.groupby("key")["time"].diff().median()), 1.0)
    due = np.concatenate(
        [np.arange(a + step, b - step, step) for a, b in (evidence.baseline, evidence.window)]
    )
    parts = []
    for job, table in ups.groupby("key"):
        times = np.concatenate(([-np.inf], np.sort(table["time"]), [np.inf]))
        after = np.searchsorted(times, due)
        distance = np.minimum(times[after] - due, due - times[after - 1])
        parts.append(_points(due, (distance > 1.5 * step) * 1.0, job))
    return pd.concat(parts, ignore_index=True)


@_from("samples")
def _restarted(samples: pd.DataFrame, _: Evidence, *, engines: bool) -> pd.DataFrame:
    """Return for each sample whether its process (of an engine or not) began anew."""
    of_engines = samples.loc[samples["metric"] == "running", "job"].unique()
    table = samples[samples["metric"] == "started_at"]
    table = table[table["job"].isin(of_engines) == engines]
    table = table.sort_values("time", ignore_index=True)
    first = table.groupby("job")["value"].transform("first")
    return _points(table["time"], (table["value"] > first + 1.0) * 1.0, table["job"])


@_from("samples")
def _config(samples: pd.DataFrame, _: Evidence, name: str) -> pd.DataFrame:
    table = samples[samples["metric"] == "cache_config"].sort_values("time")
    if table.empty:
        return _EMPTY
    # A second engine (a rollout, embeddings) is not a change of the first.
    job = "vllm" if (table["job"] == "vllm").any() else table["job"].iloc[0]
    table = table[table["job"] == job]
    text = table[name].replace({"True": "1", "False": "0", "None": ""})
    return _points(table["time"], pd.to_numeric(text, errors="coerce")).dropna()


@_from("samples")
def _foreign_cpu(samples: pd.DataFrame, _: Evidence) -> pd.DataFrame:
    """Return the busy cores of the machine less those of the processes that are scraped."""
    machine = growth(samples, "machine_cpu")
    if machine.empty:
        return _EMPTY
    bins = 4 * BIN_S
    of_machine = machine.assign(bin=np.floor(machine["time"] / bins))
    whole = of_machine.groupby("bin")["value"].sum()
    idle = of_machine[of_machine["mode"].isin(["idle", "iowait"])].groupby("bin")["value"].sum()
    scrapes = of_machine.groupby("bin")["time"].nunique()
    ours = growth(samples, "process_cpu")
    own = ours.groupby(np.floor(ours["time"] / bins))["value"].sum()
    cores = machine["series"].str.extract(r"cpu=(\d+)")[0].nunique()
    seconds = whole / max(cores, 1)
    busy = ((whole - idle) - own.reindex(whole.index).fillna(0.0)) / seconds
    busy = busy[scrapes >= scrapes.median()]
    return _points(busy.index * bins + bins / 2, busy.to_numpy())


VLLM = '{job="vllm"}'
VLLM_EMBED = '{job="vllm-embed"}'


def _mean_of(histogram: str) -> str:
    return f"sum(rate({histogram}_sum{VLLM}[1m])) / sum(rate({histogram}_count{VLLM}[1m]))"


_LLM = 'name = "llm_request"'
SIGNALS: tuple[Signal, ...] = (
    Signal(
        "e2e", "end-to-end time of a request", "s", "ratio", 1.25, _phase("e2e_s"),
        _ratio("e2e_sum", "e2e_count"), _mean_of("vllm:e2e_request_latency_seconds"),
        '{ name = "lab.request" } | quantile_over_time(duration, .5, .95)', floor=0.02,
        common=True,
    ),
    Signal(
        "queue", "time in vLLM's queue", "s", "ratio", 1.5, _turns("queue_s"),
        _ratio("queue_sum", "queue_count"), _mean_of("vllm:request_queue_time_seconds"),
        f"{{ {_LLM} && span.gen_ai.latency.time_in_queue > 0.1 }}", floor=0.01,
        common=True,
    ),
    Signal(
        "prefill", "prefill of a model call", "s", "ratio", 1.3, _turns("prefill_s"),
        _ratio("prefill_sum", "prefill_count"), _mean_of("vllm:request_prefill_time_seconds"),
        f"{{ {_LLM} }} | avg_over_time(span.gen_ai.latency.time_in_model_prefill)", floor=0.01,
        common=True,
    ),
    Signal(
        "token_time", "time per generated token", "s", "ratio", 1.25, _turns("token_s"),
        _ratio("itl_sum", "itl_count"), _mean_of("vllm:inter_token_latency_seconds"),
        f"{{ {_LLM} }} | avg_over_time(span.gen_ai.latency.time_in_model_decode)", floor=0.001,
        common=True,
    ),
    Signal(
        "stack", "Llama Stack's own time", "s", "ratio", 1.4, _phase("stack_s"), floor=0.01,
        traceql='{ name = "POST /v1/responses" } | avg_over_time(duration)', role="developer",
        common=True,
    ),
    Signal(
        "embedding", "time of an embedding call", "s", "ratio", 1.5, _of_embeddings("value"),
        _ratio("e2e_sum", "e2e_count", embed=True),
        'sum(rate(vllm:e2e_request_latency_seconds_sum{job="vllm-embed"}[1m])) / '
        'sum(rate(vllm:e2e_request_latency_seconds_count{job="vllm-embed"}[1m]))',
        '{ resource.service.name = "vllm-embed" }', floor=0.005, common=True,
    ),
    Signal(
        "embedding_rate", "embedding calls per second", "1/s", "ratio", 2.0,
        metrics=_rate("requests", embed=True),
        promql=f"sum(rate(vllm:request_success_total{VLLM_EMBED}[1m]))", floor=1.0,
    ),
    Signal(
        "tool_time", "time of a tool call", "s", "ratio", 1.5,
        _tool_times(), _ratio("tool_sum", "tool_count", "tool"),
        "sum by (tool) (rate(lab_tool_duration_seconds_sum[1m])) / "
        "sum by (tool) (rate(lab_tool_duration_seconds_count[1m]))",
        '{ name =~ "execute_tool .*" } | avg_over_time(duration) by (name)', floor=0.02, by="tool",
        role="developer", alike=True,
    ),
    Signal(
        "tool_failures", "failed calls of a tool", "share", "share", 0.25,
        _of_tools("failed", "tool"),
        _ratio("tool_calls", "tool_count", "tool", only=("outcome", "error")),
        'sum by (tool) (rate(lab_tool_calls_total{outcome="error"}[1m])) / '
        "sum by (tool) (rate(lab_tool_calls_total[1m]))",
        '{ name =~ "execute_tool .*" && status = error }', by="tool", role="developer",
        alike=True,
    ),
    Signal(
        "wrong_answers", "wrong answers", "share", "share", 0.05, _wrong_answers(),
        role="developer",
    ),
    Signal(
        "wrong_with_tool", "wrong answers of requests that used a tool", "share", "share", 0.3,
        _wrong_by_tool(), by="tool", role="developer", alike=True,
    ),
    Signal(
        "failures", "failed requests", "share", "share", 0.05, _failures(),
        _ratio("stack_requests", "stack_requests", only=("status", "error")),
        either_name(
            'sum(rate(llama_stack_requests_total{status="error"}[1m])) / '
            "sum(rate(llama_stack_requests_total[1m]))"
        ),
        '{ name = "lab.request" && status = error }',
        common=True,
    ),
    Signal(
        "request_rate", "requests per second", "1/s", "ratio", 1.4, _request_rate(),
        _rate("requests"), "sum(rate(vllm:request_success_total[1m]))", floor=0.5, role="payer",
        common=True,
    ),
    Signal(
        "tenant_share", "share of the requests", "share", "share", 0.1, _tenant_shares(),
        traceql='{ name = "lab.request" } | rate() by (span.lab.tenant)', by="tenant", role="payer",
        only_rises=True,
    ),
    Signal(
        "repeats", "questions that were sent before, in another session", "share", "share", 0.1,
        _repeats(), role="developer",
    ),
    Signal(
        "session_length", "requests that continue a long session", "share", "share", 0.1,
        _session_turns(), role="developer",
    ),
    Signal(
        "prompt_tokens", "prompt tokens of a model call", "tokens", "ratio", 1.3,
        _of_turns("prompt_tokens"), _ratio("prompt_tokens", "requests"),
        "sum(rate(vllm:prompt_tokens_total[1m])) / sum(rate(vllm:request_success_total[1m]))",
        f"{{ {_LLM} }} | avg_over_time(span.gen_ai.usage.prompt_tokens)", floor=10, role="payer",
    ),
    Signal(
        "long_prompts", "very long prompts (six times the usual maximum)", "share", "share", 0.05,
        _longer("prompt_tokens", LONG_PROMPT), promql="histogram_quantile(0.95, sum by (le) "
        "(rate(vllm:request_prompt_tokens_bucket[1m])))", role="payer",
    ),
    Signal(
        "fresh_share", "prompt tokens that were not in the prefix cache", "share", "level", 0.15,
        _of_turns("fresh_ratio"), _fresh_share,
        "1 - sum(rate(vllm:prefix_cache_hits_total[1m])) / "
        "sum(rate(vllm:prefix_cache_queries_total[1m]))", role="payer",
    ),
    Signal(
        "completion_tokens", "generated tokens of a model call", "tokens", "ratio", 1.5,
        _of_turns("completion_tokens"), _ratio("generation_tokens", "requests"),
        "sum(rate(vllm:generation_tokens_total[1m])) / sum(rate(vllm:request_success_total[1m]))",
        f"{{ {_LLM} }} | avg_over_time(span.gen_ai.usage.completion_tokens)", floor=5, role="payer",
    ),
    Signal(
        "long_answers", "very long answers (four times the usual maximum)", "share", "share", 0.03,
        _longer("completion_tokens", LONG_ANSWER), promql="histogram_quantile(0.95, sum by (le) "
        "(rate(vllm:request_generation_tokens_bucket[1m])))", role="payer",
    ),
    Signal(
        "generation_rate", "generated tokens per second", "1/s", "ratio", 1.8,
        metrics=_rate("generation_tokens"), promql="sum(rate(vllm:generation_tokens_total[1m]))",
        floor=5.0, role="payer",
    ),
    Signal(
        "cpu_wanted", "processes that run or wait for a core", "processes", "level", 1.0,
        metrics=_gauge("procs_running"), promql="node_procs_running", common=True,
    ),
    Signal(
        "new_engine", "model calls that a new engine ran", "share", "share", 0.1,
        _new_engine, _new_engine_by_counters(),
        "sum by (job, model_name) (rate(vllm:request_success_total[1m]))",
    ),
    Signal(
        "running", "requests running in vLLM", "requests", "level", 1.0,
        metrics=_gauge("running"), promql="sum(vllm:num_requests_running)",
        common=True,
    ),
    Signal(
        "waiting", "requests waiting in vLLM", "requests", "level", 0.5,
        metrics=_gauge("waiting"), promql="sum(vllm:num_requests_waiting)",
        common=True,
    ),
    Signal(
        "kv_usage", "usage of the KV cache", "share", "level", 0.1,
        metrics=_gauge("kv_usage", largest=True), promql="max(vllm:kv_cache_usage_perc)",
        common=True,
    ),
    Signal(
        "preemptions", "preemptions per second", "1/s", "level", 0.05,
        metrics=_rate("preemptions"), promql="sum(rate(vllm:num_preemptions_total[1m]))",
    ),
    Signal(
        "kv_blocks", "size of the KV cache", "blocks", "ratio", 1.1,
        metrics=_config("num_gpu_blocks"), promql="vllm:cache_config_info", floor=1.0,
    ),
    Signal(
        "caching", "prefix caching (1 on, 0 off)", "", "level", 0.5,
        metrics=_config("enable_prefix_caching"), promql="vllm:cache_config_info",
    ),
    Signal(
        "restarted", "process started anew", "share", "level", 0.2,
        metrics=_restarted(engines=False), by="job",
        promql="changes(process_start_time_seconds[5m]) > 0",
    ),
    Signal(
        "engine_restarted", "engine started anew", "share", "level", 0.2,
        metrics=_restarted(engines=True), by="job",
        promql="changes(process_start_time_seconds[5m]) > 0 and on (job) vllm:cache_config_info",
    ),
    Signal(
        "down", "scrapes without an answer", "share", "share", 0.2,
        metrics=_down, promql="up == 0", by="job",
    ),
    Signal(
        "unscraped", "missing scrapes", "share", "share", 0.3,
        metrics=_unscraped, promql='absent_over_time(up{job="vllm"}[30s])', by="job",
        only_rises=True,
    ),
    Signal(
        "foreign_cpu", "CPU cores used by other processes", "cores", "level", 0.3,
        metrics=_foreign_cpu(),
        promql='sum(rate(node_cpu_seconds_total{mode!~"idle|iowait"}[1m])) - '
        "sum(rate(process_cpu_seconds_total[1m]))",
        common=True,
    ),
    Signal(
        "missing_spans", "calls whose server's span is missing", "share", "share", 0.1,
        _of_services("value", "key"), by="service",
        traceql='{ name = "invoke_mcp_tool" } !> { resource.service.name = "lab-tools" }',
    ),
    Signal(
        "skew", "seconds that spans lie outside of their parents' time", "s", "ratio", 2.0,
        _of_skew("value", "key"), by="service", floor=0.1,
    ),
)  # fmt: skip


def extract(evidence: Evidence, signal: Signal) -> list[tuple[str, str, pd.DataFrame]]:
    """Return (key, source, points) of a signal: of the traces where they have it, else metrics."""
    for source in ("traces", "metrics"):
        points_of = getattr(signal, source)
        points = points_of(evidence) if points_of else _EMPTY
        if len(points):
            if not signal.by:
                return [("", source, points)]
            return [(str(key), source, part) for key, part in points.groupby("key", observed=True)]
    return []
