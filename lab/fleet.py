"""Fleet: engines side by side, from a Prometheus alone.

fleet = lab.fleet.look(settings, "last 15m")    # any engine of lab/engines, one or many of them
fleet.engines       # one row per engine: load, KV cache, tokens
fleet.latency       # mean and the bucket of each quantile; where none is known, why
fleet.remarks       # the outlier, work without a request, cache hits that are none, ...
fleet.unknown       # what these engines cannot answer, and why

Nothing is sent or started, and no trace is needed.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from lab.engines import LABELS, Dialect, Name, guess_prefix, questions, recognise
from lab.errors import NoData
from lab.frames.replicas import (
    NUMBERS,
    copies_in,
    merge_copies,
    per_engine,
    series_summary,
    without_copies,
)
from lab.measures import cache_tokens, read_histogram
from lab.observation.window import parse_window
from lab.settings import Settings
from lab.stores import MetricAnswer, Prometheus
from lab.stores.prometheus import job_matcher
from lab.stores.timestamps import utc

__all__ = ["Fleet", "Remark", "look", "look_at"]

HISTOGRAMS = ("ttft", "itl", "tpot", "e2e", "queue", "prefill", "decode", "inference")
QUANTILES = (0.5, 0.95, 0.99)
GAUGES = {"running": "running", "waiting": "waiting", "in_flight": "in_flight", "kv_usage": "kv"}
PREFIX = ("prefix_hits", "prefix_queries", "prefix_misses")
COUNTERS = (
    *("prompt_tokens", "generation_tokens", "cached_tokens", "requests", "aborted", "preemptions"),
    *PREFIX,
    "external_hits",
)
# An engine is named as an outlier if it differs from the median of the others by all of these.
OUTLIER = {  # column: (what, least difference, least factor)
    "kv_mean": ("KV cache usage", 0.25, 1.3),
    "waiting_mean": ("waiting requests", 5.0, 3.0),
    "running_mean": ("running requests", 8.0, 2.5),
    "preemptions": ("preemptions", 10.0, 3.0),
}
UNCOUNTED = 0.05  # of prompt tokens: less in no request metric is not worth a remark
# Labels that some metrics of an engine lack, and others have.
RANKS = ("engine", "dp_rank")
FILLED = (*RANKS, *LABELS["model"])
# Labels that depend on who scraped an engine, or under which job.
APART = 0.25  # of a counter's growth in the window: how far two scrapes of one engine differ
NOT_THE_ENGINES = (
    *("namespace", "exported_namespace", "job", "exported_job"),
    *("instance", "exported_instance", "pod", "exported_pod"),
)


class Store(Protocol):
    """What a fleet is read from."""

    @property
    def url(self) -> str:
        """Return the address, for messages."""

    def label_values(self, label: str, *, match: str = "") -> list[str]:
        """Return every value of a label."""

    def samples(self, selector: str, start: float, end: float) -> MetricAnswer:
        """Return the samples of the series that a selector matches, with some before the start."""


@dataclass(frozen=True)
class Remark:
    """Something that the numbers do not mean by themselves: where, what, and how it is known."""

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


@dataclass(frozen=True)
class Fleet:
    """The engines that a Prometheus has metrics of, over a window (epoch seconds).

    `engines` has one row per engine, named by what tells it apart:

    - `server` (vLLM, SGLang, ...), `model`, and `stem`, with which its metrics' names begin;
    - `running_mean`, `running_max`, `waiting_mean`, `waiting_max`: requests, time-weighted;
    - `kv_mean`, `kv_max`: usage of the KV cache, 0 to 1;
    - `prompt_tokens`, `cached_tokens`, `transferred_tokens`, `generation_tokens`, `requests`,
      `preemptions`: exact growth in the window. `cached_tokens` are those that caching saved;
      `transferred_tokens` were computed by another engine (prefill/decode disaggregation);
    - `hit_ratio`: prefix cache hits per query; `hit_ratio_since_start` over the engine's life.

    `latency` has one row per engine and histogram, and one of all engines of a kind (`engine` is
    'all'). NaN is 'not known'; `unknown` has the reasons (columns `server`, `question`, `why`).
    """

    window: tuple[float, float]
    dialects: tuple[Dialect, ...]
    engines: pd.DataFrame = field(repr=False)
    latency: pd.DataFrame = field(repr=False)
    finished: pd.DataFrame = field(repr=False)
    unknown: pd.DataFrame = field(repr=False)
    remarks: tuple[Remark, ...] = ()

    def totals(self) -> pd.DataFrame:
        """Return one row per kind of server: sums where a sum is meaningful, the largest KV usage.

        Kinds are not added up: a frontend (Dynamo) counts its workers' requests again.
        """
        groups = self.engines.groupby("server", sort=False)
        sums = ["running_mean", "waiting_mean", "in_flight_mean", *_TOKENS, "requests"]
        table = groups[[*sums, "preemptions"]].sum(min_count=1)
        table.insert(0, "engines", groups.size())
        table["kv_max"] = groups["kv_max"].max()
        return table


_TOKENS = ("prompt_tokens", "cached_tokens", "transferred_tokens", "generation_tokens")


def look(settings: Settings, window: str = "last 15m", *, job: str = "") -> Fleet:
    """Return the engines that have metrics in a window; with `job` only those of a scrape job.

    `window` is 'START/END' in ISO 8601 with a time zone, or 'last 15m'. Raises NoData where no
    engine is recognised (LAB_METRIC_PREFIX names metrics that were renamed).
    """
    start, end = parse_window(window)
    return look_at(Prometheus(settings), start, end, job=job, prefix=settings.metric_prefix)


def look_at(store: Store, start: float, end: float, *, job: str = "", prefix: str = "") -> Fleet:
    """Return the engines of a store (a Prometheus, or pages of one) in a window; see `look`."""
    match = f"{{{job_matcher(job)}}}" if job else ""
    names = store.label_values("__name__", match=match)
    dialects = recognise(names, prefix)
    if not dialects:
        raise NoData(
            f"no metric of a known model server at {store.url}",
            got=f"{len(names):,} other metrics",
            fix=prefix_fix(names),
        )
    observed = [_observe(store, dialect, start, end, job) for dialect in dialects]
    warnings = {remark.text for each in observed for remark in each.remarks}
    observed = _without_duplicates(observed)
    if not observed:
        stems = ", ".join(dialect.stem for dialect in dialects)
        raise NoData(
            f"Prometheus at {store.url} knows metrics {stems}..., but has no sample of them "
            "in this window",
            got="; ".join(
                [f"{utc(start)} to {utc(end)}{f', job {job}' if job else ''}", *sorted(warnings)]
            ),
            fix="check the window's time zone, that the engines are up (`up`), and the store's "
            "warnings: a partial answer lacks series",
        )
    return _fleet(observed, (start, end))


def prefix_fix(names: Sequence[str]) -> str:
    """Return what to do where no engine is recognised among these names."""
    guess, hits = guess_prefix(names)
    if guess:
        return f"set LAB_METRIC_PREFIX={guess}, with which {hits} names are those of an engine"
    return (
        "scrape the engine's /metrics; if its metrics were renamed, set LAB_METRIC_PREFIX "
        "to what stands before their names, such as acme_ or sglang=acme_"
    )


@dataclass
class _Observed:
    """What one dialect's engines showed: a summary of its series, and its histograms' buckets."""

    dialect: Dialect
    series: pd.DataFrame
    buckets: pd.DataFrame
    identity: list[str] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def remark(self, kind: str, text: str) -> None:
        """Add a remark on all of these engines."""
        self.remarks.append(Remark(kind, self.dialect.engine.title, text))

    def keep(self, rows: pd.Series, buckets: pd.Series) -> None:
        """Keep only these rows of both tables."""
        self.series = self.series[rows].reset_index(drop=True)
        self.buckets = self.buckets[buckets].reset_index(drop=True)


def _observe(store: Store, dialect: Dialect, start: float, end: float, job: str) -> _Observed:
    """Query everything that a dialect answers, and leave out copies of routers."""
    matcher = job_matcher(job) if job else ""
    plain = _metrics_of(dialect)
    router = [dialect.stem + name for name in dialect.engine.router if name in dialect.bare]
    answer = store.samples(_any_of([*plain, *router], matcher), start, end)
    series = series_summary(answer, start, end)
    histograms = [
        name.metric if name.native else f"{name.metric}_bucket"
        for question in HISTOGRAMS
        for name in dialect.alternatives.get(question, ())
    ]
    buckets = pd.DataFrame(columns=["metric", "le"])
    if histograms:
        bucket_answer = store.samples(_any_of(histograms, matcher), start, end)
        if bucket_answer.series:
            buckets = series_summary(bucket_answer, start, end, gauges=False)
    observed = _Observed(dialect, series, buckets)
    for warning in answer.provenance.warnings:
        observed.remark("store", f"the store says: {warning}")
    if not_finite := series.attrs["not_finite"]:
        text = f"{not_finite:,} samples are not numbers (NaN, Inf); they are left out"
        observed.remark("store", text)
    if not series.empty:
        _leave_out_routers(observed, router)
        _set_identity(observed)
    return observed


def _metrics_of(dialect: Dialect) -> list[str]:
    """Return the metrics of all answers but the buckets."""
    kinds = questions()
    metrics = []
    for question, names in dialect.alternatives.items():
        for name in names:
            if kinds[question] == "histogram" and not name.native:
                metrics += [f"{name.metric}_sum", f"{name.metric}_count"]
            else:
                metrics.append(name.metric)
    return sorted(set(metrics))


def _any_of(metrics: Iterable[str], matcher: str) -> str:
    matchers = [f'__name__=~"{"|".join(metrics)}"', *([matcher] if matcher else [])]
    return f"{{{','.join(matchers)}}}"


def _leave_out_routers(observed: _Observed, router: Sequence[str]) -> None:
    """Leave out series that a router or a federation copied from engines that are scraped too."""
    series = observed.series
    of_router = _is_router_target(series, router)
    scraped = series[~(_origins(series) != "").any(axis=1) & ~of_router]
    addresses: set[str] = set()
    for name in ("instance", "pod"):
        if name in scraped:
            addresses |= {_address(text) for text in scraped[name].unique() if text}
    copied = _is_copy(series, addresses) | (of_router & bool(len(scraped)))
    copied_buckets = _is_copy(observed.buckets, addresses)
    if copied.any():
        observed.remark(
            "router",
            f"{int(copied.sum())} series are a router's (or a federation's) copies of engines "
            "that are scraped themselves; they are left out",
        )
    metrics = series["metric"].isin(router)
    observed.keep(~copied & ~metrics, ~copied_buckets)


def _is_router_target(series: pd.DataFrame, router: Sequence[str]) -> pd.Series:
    """Return which series come from a target that exports a router's own metrics."""
    own = series["metric"].isin(router)
    targets = [name for name in ("job", "instance", "pod") if name in series]
    if not own.any() or not targets:
        return own
    keys = pd.MultiIndex.from_frame(series[targets])
    return pd.Series(keys.isin(keys[own.to_numpy()]), index=series.index)


def _origins(series: pd.DataFrame) -> pd.DataFrame:
    """Return the labels in which a router or a federation names the engine; empty without one."""
    return series.reindex(columns=LABELS["origin"], fill_value="")


def _is_copy(series: pd.DataFrame, addresses: set[str]) -> pd.Series:
    origins = _origins(series)
    return (origins.map(_address).isin(addresses) & (origins != "")).any(axis=1)


def _address(text: str) -> str:
    """Return HOST:PORT of a URL, or a pod's name as it is."""
    return urlsplit(text).netloc if "://" in text else text


def _set_identity(observed: _Observed) -> None:
    """Find the labels that tell these engines apart; give a single rank's label to the rest.

    SGLang's counters, for example, lack the `dp_rank` of its gauges.
    """
    observed.identity = [name for name in LABELS["identity"] if name in observed.series]
    repeated = copies_in(observed.series)
    if repeated and len(merge_copies(observed.series, NUMBERS)) < len(observed.series):
        observed.remark(
            "copies",
            f"series that differ only in {', '.join(repeated)} repeat one value; "
            "they are counted once",
        )
    for name in FILLED:
        others = [other for other in observed.identity if other != name]
        if name in observed.identity and others:
            ranks = observed.series.loc[observed.series[name] != "", [*others, name]]
            ranks = ranks.drop_duplicates()
            single = ranks[~ranks.duplicated(others, keep=False)]
            for table in (observed.series, observed.buckets) if len(single) else ():
                _fill(table, others, name, single.set_index(others)[name])


def _fill(table: pd.DataFrame, others: list[str], name: str, values: pd.Series) -> None:
    """Set an empty identity label where the other labels leave one possibility."""
    for other in [*others, name]:
        if other not in table:
            table[other] = ""
    missing = table[name] == ""
    if missing.any():
        keys = table.loc[missing, others]
        index = pd.MultiIndex.from_frame(keys) if len(others) > 1 else pd.Index(keys[others[0]])
        table.loc[missing, name] = values.reindex(index).fillna("").to_numpy()


def _without_duplicates(observed: list[_Observed]) -> list[_Observed]:
    """Leave out engines that are scraped twice: by two jobs, or under two names."""
    kept: dict[tuple[str, ...], list[_Life]] = {}
    for each in observed:
        drop = set()
        for place, life in _lives(each).items():
            before = kept.setdefault(life.target, [])
            if any(_is_same_engine(life, other) for other in before):
                drop.add(place)
            else:
                before.append(life)
        if drop:
            keep = ~_places(each.series, each.identity).isin(drop)
            keep_buckets = ~_places(each.buckets, each.identity).isin(drop)
            each.keep(keep, keep_buckets)
            names = ", ".join(sorted({"/".join(filter(None, place)) for place in drop})[:3])
            each.remark(
                "twice", f"scraped twice (another job or another name), counted once: {names}"
            )
    return [each for each in observed if not each.series.empty]


def _places(table: pd.DataFrame, identity: Sequence[str]) -> pd.Series:
    """Return the identity of each row as a tuple."""
    columns = [table[name] if name in table else [""] * len(table) for name in identity]
    return pd.Series(list(zip(*columns, strict=True)), index=table.index, dtype=object)


@dataclass
class _Life:
    """An engine whatever job scraped it: its target and rank, its pod, and its counters.

    `counters` has the columns `total` and `increase` by metric name without the stem.
    """

    target: tuple[str, ...]
    pod: str
    counters: pd.DataFrame


def _lives(observed: _Observed) -> dict[tuple[str, ...], _Life]:
    """Return the life of each engine with a target, by its identity."""
    parts = {"histogram": "_sum", "counter": ""}
    counters = [
        name.metric + parts[kind]
        for question, kind in questions().items()
        for name in observed.dialect.alternatives.get(question, ())
        if kind in parts
    ]
    table = observed.series[observed.series["metric"].isin(counters)]
    if table.empty:
        return {}
    table = without_copies(table, "counter")
    table["place"] = _places(table, observed.identity)
    table["metric"] = table["metric"].str.removeprefix(observed.dialect.stem)
    lives = {}
    for place, rows in table.groupby("place", sort=False):
        labels = dict(zip(observed.identity, place, strict=True))
        address = labels.get("instance") or labels.get("pod") or ""
        rank = [text for name, text in labels.items() if name not in NOT_THE_ENGINES]
        if address:
            target = (observed.dialect.engine.key, address, *filter(None, rank))
            sums = rows.groupby("metric")[["total", "increase"]].sum()
            lives[place] = _Life(target, labels.get("pod", ""), sums)
    return lives


def _is_same_engine(a: _Life, b: _Life) -> bool:
    """Return whether two lives of one target are one engine, scraped at other instants.

    All their counters are then a scrape's growth apart. An engine that has counted nothing yet
    looks like any other, so it is not the same.
    """
    if a.pod and b.pod and a.pod != b.pod:
        return False
    if not a.counters.index.equals(b.counters.index):
        return False
    total = a.counters["total"]
    apart = (total - b.counters["total"]).abs()
    growth = np.maximum(a.counters["increase"], b.counters["increase"])
    near = apart <= APART * growth + 1e-9 * total.abs()
    return bool(near.all() and total.gt(0).any())


def _answers(
    observed: _Observed, question: str, part: str = "", by: Sequence[str] = ()
) -> pd.DataFrame:
    """Return `per_engine` of a question: of each engine the newest of its names that it exports."""
    kind = "counter" if part else questions()[question]
    series = observed.buckets if part == "_bucket" else observed.series
    result = pd.DataFrame(columns=list(NUMBERS), dtype=float)
    for name in observed.dialect.alternatives.get(question, ()):
        rows = _matching(series, name, part)
        if rows.empty:
            continue
        table = per_engine(rows, observed.identity, kind, by)
        if result.empty:
            result = table
            continue
        mine = _engine_index(result, observed.identity)
        others = ~_engine_index(table, observed.identity).isin(mine)
        result = pd.concat([result, table[others]])
    return result


def _engine_index(table: pd.DataFrame, identity: Sequence[str]) -> pd.Index:
    extra = [name for name in table.index.names if name not in identity]
    return table.index.droplevel(extra) if extra else table.index


def _matching(series: pd.DataFrame, name: Name, part: str) -> pd.DataFrame:
    rows = series[series["metric"] == name.metric + part]
    for label, value in re.findall(r'(\w+)="([^"]*)"', name.matchers):
        rows = rows[rows[label] == value] if label in rows else rows.iloc[:0]
    return rows


def _fleet(observed: list[_Observed], window: tuple[float, float]) -> Fleet:
    tables = []
    latencies = []
    finished = []
    unknown = []
    remarks = []
    for each in observed:
        table = _engine_table(each)
        tables.append(table)
        latencies.append(_latency(each, table["name"]))
        finished.append(_finished(each, table["name"]))
        unknown += _unknown(each)
        remarks += each.remarks
        remarks += [*_work_without_requests(each, table), *_cache_remarks(table)]
        remarks += [*_lifetime_defects(each), *_several_sequences(each), *_outliers(table)]
    engines = pd.concat(tables).reset_index(drop=True)
    engines.insert(0, "engine", engines.pop("name"))
    return Fleet(
        window,
        tuple(each.dialect for each in observed),
        engines,
        pd.concat(latencies, ignore_index=True),
        pd.concat(finished, ignore_index=True),
        pd.DataFrame(unknown, columns=["server", "question", "why"]),
        tuple(dict.fromkeys(remarks)),
    )


def _engine_table(observed: _Observed) -> pd.DataFrame:
    """Return one row per engine, indexed by its identity."""
    columns: dict[str, pd.Series] = {}
    for question, short in GAUGES.items():
        answer = _answers(observed, question)
        columns[f"{short}_mean"] = answer["mean"]
        columns[f"{short}_max"] = answer["max"]
    for question in COUNTERS:
        answer = _answers(observed, question)
        columns[question] = answer["increase"]
        if question in PREFIX:
            columns[f"{question}_total"] = answer["total"]
    columns |= _cache_columns(observed, columns)
    places = pd.MultiIndex.from_frame(observed.series[observed.identity].drop_duplicates())
    table = pd.DataFrame(index=places.sort_values())
    for name, column in columns.items():
        table[name] = column.reindex(table.index).astype(float) if len(column) else np.nan
    table["hit_ratio"] = _hit_ratio(table)
    table["hit_ratio_since_start"] = _hit_ratio(table, "_total")
    table = table.drop(columns=[*PREFIX, *(f"{name}_total" for name in PREFIX), "external_hits"])
    table.insert(0, "name", _names(table.index))
    table.insert(1, "server", observed.dialect.engine.title)
    table["stem"] = observed.dialect.stem
    labels = table.index.to_frame()
    model = pd.Series("", index=table.index)
    for name in LABELS["model"]:
        if name in labels:
            model = model.where(model != "", labels[name])
    table.insert(2, "model", model)
    return table


def _hit_ratio(table: pd.DataFrame, suffix: str = "") -> pd.Series:
    hits = table[f"prefix_hits{suffix}"]
    queries = table[f"prefix_queries{suffix}"]
    queries = queries.where(queries.notna(), hits + table[f"prefix_misses{suffix}"])
    return (hits / queries).where(queries > 0)


def _cache_columns(observed: _Observed, columns: dict[str, pd.Series]) -> dict[str, pd.Series]:
    """Return the tokens that a cache saved, and those that another engine computed."""
    by_source = _answers(observed, "tokens_by_source", by=["source"])
    tiers = _answers(observed, "cached_by_source", by=["source"])
    sums = cache_tokens(
        columns["cached_tokens"],
        columns["external_hits"],
        by_source["increase"],
        tiers["increase"],
    )
    return {"cached_tokens": sums["cached"], "transferred_tokens": sums["transferred"]}


def _names(index: pd.MultiIndex) -> list[str]:
    """Return a short name of each engine: the labels that differ between them."""
    frame = index.to_frame(index=False)
    labels = _naming_labels(frame)
    others = [label for label in labels if label not in RANKS]
    alone = ~frame.duplicated(others, keep=False) if others else [len(frame) == 1] * len(frame)
    rows = frame[labels].to_dict("records")
    return [_short_name(row, single) for row, single in zip(rows, alone, strict=True)]


def _naming_labels(frame: pd.DataFrame) -> list[str]:
    """Return the labels that differ between engines; of equal ones the first that names them."""
    varying = [name for name in frame if frame[name].nunique() > 1]
    # A pod says more than its address; the model's name is a column of its own.
    if "pod" in varying and "instance" in varying:
        varying.remove("instance")
    varying = [name for name in varying if name not in LABELS["model"]] or varying
    return varying or [n for n in ("pod", "instance", "server", "job") if n in frame][:1]


def _short_name(row: dict[str, str], single: bool) -> str:
    """Return the names of one engine, its ranks last; `single`: no other engine shares them."""
    parts = [value for label, value in row.items() if label not in RANKS]
    for label in (label for label in RANKS if label in row):
        everything = "" if single else f"all {label}s"
        parts.append(f"{label} {row[label]}" if row[label] else everything)
    return " ".join(filter(None, parts)) or "engine"


_NO_BUCKETS = pd.DataFrame(columns=["key", "upper", "cumulative"])


def _latency(observed: _Observed, names: pd.Series) -> pd.DataFrame:
    """Return one row per engine and histogram, and one for all engines together."""
    title = observed.dialect.engine.title
    rows = []
    for question in HISTOGRAMS:
        if question not in observed.dialect.alternatives:
            continue
        sums = _answers(observed, question, "_sum")["increase"]
        buckets = dict(tuple(_bucket_increases(observed, question).groupby("key", sort=False)))
        per_row = []
        for key, name in names.items():
            if key not in sums.index:
                continue
            own = buckets.get(key, _NO_BUCKETS)
            per_row.append(own)
            reading = _reading(own, float(sums[key]))
            rows.append({"server": title, "engine": name, "what": question, **reading})
        if len(per_row) > 1:
            reading = _reading_of_all(per_row, float(sums.sum()))
            rows.append({"server": title, "engine": "all", "what": question, **reading})
    columns = ["server", "engine", "what", "n", "mean_s"]
    for q in QUANTILES:
        columns += [f"p{q * 100:g}_low_s", f"p{q * 100:g}_high_s"]
    return pd.DataFrame(rows, columns=[*columns, "why_not"])


def _bucket_increases(observed: _Observed, question: str) -> pd.DataFrame:
    """Return cumulative bucket increases: `key` (the engine's identity), `upper`, `cumulative`."""
    answer = _answers(observed, question, "_bucket", ["le"])
    if answer.empty:
        return _NO_BUCKETS
    table = answer["increase"].rename("cumulative").reset_index()
    table["key"] = _places(table, observed.identity)
    table["upper"] = table["le"].astype(float)
    return table[["key", "upper", "cumulative"]].sort_values(["key", "upper"])


def _reading(buckets: pd.DataFrame, sum_s: float) -> dict[str, float | str]:
    """Return the columns of `Fleet.latency` that a histogram determines."""
    if buckets.empty:
        return {"n": np.nan, "mean_s": np.nan, "why_not": "the store has no buckets of it"}
    cumulative = buckets["cumulative"].to_numpy(float)
    upper = buckets["upper"].to_numpy(float)
    histogram = pd.DataFrame(
        {
            "lower": np.append(0.0, upper[:-1]),
            "upper": upper,
            "count": np.diff(cumulative, prepend=0.0),
        }
    )
    reading = read_histogram(histogram, sum_s, QUANTILES)
    row: dict[str, float | str] = {"n": reading.n, "mean_s": reading.mean_s}
    for q, (low, high) in reading.quantiles.items():
        row[f"p{q * 100:g}_low_s"] = low
        row[f"p{q * 100:g}_high_s"] = high
    return row | {"why_not": reading.why_not}


def _reading_of_all(per_row: list[pd.DataFrame], sum_s: float) -> dict[str, float | str]:
    bounds = {tuple(own["upper"]) for own in per_row if len(own)}
    if len(bounds) > 1:
        why = "the engines have different bucket bounds, so their buckets cannot be added up"
        return {"n": np.nan, "mean_s": np.nan, "why_not": why}
    total = pd.concat(per_row).groupby("upper", as_index=False)["cumulative"].sum()
    return _reading(total, sum_s)


def _finished(observed: _Observed, names: pd.Series) -> pd.DataFrame:
    """Return the requests that ended, per engine and reason."""
    answer = _answers(observed, "requests", by=["finished_reason"])
    columns = ["engine", "finished_reason", "requests"]
    if answer.empty:
        return pd.DataFrame(columns=columns)
    table = answer["increase"].rename("requests").reset_index()
    table["engine"] = _places(table, observed.identity).map(names.to_dict())
    return table[columns]


def _unknown(observed: _Observed) -> list[tuple[str, str, str]]:
    """Return (server, question, why) for what these engines do not answer."""
    title = observed.dialect.engine.title
    rows = []
    for question in (*GAUGES, *COUNTERS, *HISTOGRAMS):
        if question not in observed.dialect.alternatives:
            rows.append((title, question, observed.dialect.reason(question)))
        elif question in ("running", "waiting") and _answers(observed, question)["mean"].hasnans:
            why = "its processes report different values, and none can be told to be stale"
            rows.append((title, question, why))
    return rows


def _work_without_requests(observed: _Observed, table: pd.DataFrame) -> list[Remark]:
    """Return engines that read prompt tokens of which no request metric knows: aborted work."""
    lengths = _answers(observed, "prompt_lengths", "_sum")
    if lengths.empty or observed.dialect.engine.key != "vllm":
        return []
    counts = _answers(observed, "prompt_lengths", "_count")
    running = _answers(observed, "running")
    remarks = []
    for key, row in table.iterrows():
        extra = row["prompt_tokens"] - lengths["increase"].get(key, np.nan)
        mean_length = lengths["total"].get(key, np.nan) / counts["total"].get(key, np.nan)
        under_way = running.loc[key, ["first", "last"]].max() if key in running.index else np.nan
        is_explained = not extra > 3 * mean_length * (0 if np.isnan(under_way) else under_way)
        if is_explained or extra < UNCOUNTED * row["prompt_tokens"]:
            continue
        caveat = ", or still under way: how many were running is not known"
        text = (
            f"{extra:,.0f} prompt tokens were read for requests that no request metric includes: "
            f"aborted by their clients{caveat if np.isnan(under_way) else ''}. They are work that "
            "nobody is billed for; how many requests they were is not known"
        )
        remarks.append(Remark("aborted", str(row["name"]), text))
    return remarks


def _cache_remarks(table: pd.DataFrame) -> list[Remark]:
    """Return engines whose 'cached' tokens another engine computed."""
    remarks = []
    for _, row in table.iterrows():
        moved = row["transferred_tokens"]
        if moved > 0.01 * row["prompt_tokens"]:
            text = (
                f"{moved:,.0f} of {row['prompt_tokens']:,.0f} prompt tokens came from another "
                "engine or store (KV transfer). The engine and its API count them as cached, but "
                "they were computed elsewhere: no saving"
            )
            remarks.append(Remark("transfer", str(row["name"]), text))
    return remarks


def _lifetime_defects(observed: _Observed) -> list[Remark]:
    """Return histograms that have counted since the engine started, with a sum of 0."""
    remarks = []
    for question in HISTOGRAMS:
        sums = _answers(observed, question, "_sum")
        counts = _answers(observed, question, "_count")
        if sums.empty or counts.empty:
            continue
        broken = (sums["total"] == 0) & (counts["total"].reindex(sums.index) > 0)
        if broken.any():
            n = counts["total"].reindex(sums.index)[broken].sum()
            text = (
                f"{observed.dialect.name_of(question).metric} has a sum of 0 over {n:,.0f} "
                "durations: a defect of the exporter (or below its resolution), not a latency"
            )
            remarks.append(Remark("defect", observed.dialect.engine.title, text))
    return remarks


def _several_sequences(observed: _Observed) -> list[Remark]:
    """Return whether requests asked for several answers (n > 1), which are counted one by one."""
    sums = _answers(observed, "sequences_per_request", "_sum")["increase"]
    counts = _answers(observed, "sequences_per_request", "_count")["increase"]
    if counts.empty or not sums.sum() > counts.sum():
        return []
    text = (
        f"{counts.sum():,.0f} finished sequences asked for {sums.sum():,.0f} answers (n > 1): "
        "requests and first tokens are counted per answer, so they are more than the clients' calls"
    )
    return [Remark("sequences", observed.dialect.engine.title, text)]


def _outliers(table: pd.DataFrame) -> list[Remark]:
    """Return the engines that are far from the median of the others, of at least three."""
    if len(table) < 3:
        return []
    remarks = []
    for i, (_, row) in enumerate(table.iterrows()):
        others = table.drop(index=table.index[i])
        facts = []
        for column, (what, difference, factor) in OUTLIER.items():
            value = row[column]
            median = others[column].median()
            if value - median >= difference and value >= factor * median:
                form = "{:.0%}" if column == "kv_mean" else "{:,.4g}"
                facts.append(
                    f"{what} {form.format(value)} (median of the others {form.format(median)})"
                )
        if facts:
            remarks.append(Remark("outlier", str(row["name"]), "; ".join(facts)))
    return remarks
