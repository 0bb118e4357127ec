"""Faults of metrics: of one /metrics page, of two of them, or of a Prometheus' series now."""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import msgspec
import pandas as pd
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from lab import fleet
from lab.doctor.findings import Finding
from lab.engines import PARTS, Dialect, guess_prefix, questions, recognise
from lab.engines import engines as all_engines
from lab.errors import FrameError, NoData
from lab.measures import read_histogram
from lab.stores import MetricAnswer, Provenance, Series

MIN_OBSERVATIONS = 10  # in a histogram, before its quantiles are worth a word
UNRESOLVED = "unresolved-buckets"
MAX_SHARE = 0.95  # of the observations in the first bucket; the rest may be in the last
TOLERANCE = 0.05  # between two totals of the same thing
WINDOW_S = 60.0  # between the two pages that are compared
OTEL_BOUNDS = [0.0, 5.0, 10.0, 25.0, 50.0]  # the SDK's default, meant for milliseconds
LATENCIES = ("ttft", "itl", "tpot", "e2e", "prefill", "decode", "inference", "queue")
# Of `lab.fleet`'s remarks.
CHECKS = {
    "router": "router-copies",
    "copies": "repeated-by-ranks",
    "twice": "scraped-twice",
    "aborted": "totals-differ",
    "transfer": "transfer-as-cached",
    "sequences": "several-answers",
    "outlier": "uneven-engines",
}
# Part of a warning of a store, or about its answers. Any other warning is of an answer in part.
WARNINGS = {
    "same targets": "repeated-by-ranks",
    "not numbers": "not-finite",
    "PromQL info": "doubted-query",
    "PromQL warning": "doubted-query",
}
# (question, part), relation, (question, part): totals of one engine that must agree.
TOTALS = (
    (("prefix_hits", ""), "<=", ("prefix_queries", "")),
    (("cached_tokens", ""), "<=", ("prompt_tokens", "")),
    (("tokens_by_source", ""), "==", ("prompt_tokens", "")),
    (("prompt_lengths", "_sum"), "<=", ("prompt_tokens", "")),
    (("requests", ""), "==", ("e2e", "_count")),
    (("e2e", "_count"), "==", ("inference", "_count")),
)
_WRITTEN = re.compile(r"^\s*([\w:]+)", re.MULTILINE)
_OF_WHOLE_GPU = re.compile(r"(?i)POWER_USAGE|TOTAL_ENERGY")
OTHER_GPUS = {  # whose exporters answer other questions than DCGM's
    "AMD": r"(amd_)?gpu_(gfx_(activity|busy_instantaneous)|package_power|junction_temperature)$",
    "Intel": r"xpum_\w+$",
}
_NAMES = re.compile(r'__name__=~"([^"]*)"')


class Sample(NamedTuple):
    """One series of a page: its name, its labels without the name, and its value."""

    name: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Page:
    """The series of one exposition, with those of an earlier one in `before` if there is one.

    It answers `lab.fleet` as a Prometheus does that scraped the page: without an earlier one,
    counters begin at 0. `types` has each metric's type as the page declares it.
    """

    url: str
    samples_now: list[Sample] = field(repr=False)
    before: list[Sample] = field(repr=False, default_factory=list)
    types: Mapping[str, str] = field(repr=False, default_factory=dict)
    warnings: list[str] = field(default_factory=list)  # of the store

    @property
    def names(self) -> list[str]:
        """Return the names of all series."""
        return sorted({sample.name for sample in self.samples_now})

    def label_values(self, label: str, *, match: str = "") -> list[str]:
        """Return the names, for `lab.fleet`, which wants no other label."""
        return self.names

    def samples(self, selector: str, start: float, end: float) -> MetricAnswer:
        """Return two samples per series that a selector of `lab.fleet` matches."""
        match = _NAMES.search(selector)
        wanted = set(match[1].split("|")) if match else set()
        series = []
        for sample in self.samples_now:
            if sample.name in wanted:
                begun = 0.0 if self.before else self._begun(sample)
                first = self._earlier.get(_key(sample), begun)
                values = [[start, _text(first)], [end, _text(sample.value)]]
                labels = {"instance": self.url, **sample.labels, "__name__": sample.name}
                series.append(Series(labels, (msgspec.Raw(json.dumps(values).encode()),)))
        return MetricAnswer("matrix", tuple(series), Provenance("page", self.url, "", start, end))

    def _begun(self, sample: Sample) -> float:
        """Return 0 for a counter, and the value itself for a gauge."""
        base = re.sub(r"_(total|bucket|sum|count)$", "", sample.name)
        kind = self.types.get(sample.name, self.types.get(base, ""))
        is_counter = kind in ("counter", "histogram", "summary") or (
            not kind and base != sample.name
        )
        return 0.0 if is_counter else sample.value

    def increases(self) -> list[Sample]:
        """Return the samples as growth since the earlier page; as they are without one."""
        if not self.before:
            return self.samples_now
        return [
            sample._replace(value=sample.value - self._earlier.get(_key(sample), 0.0))
            for sample in self.samples_now
        ]

    @cached_property
    def _earlier(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {_key(sample): sample.value for sample in self.before}


def _key(sample: Sample) -> tuple[str, frozenset[tuple[str, str]]]:
    return sample.name, frozenset(sample.labels.items())


def _text(value: float) -> str:
    return "NaN" if math.isnan(value) else repr(value).replace("inf", "Inf")


def read_page(text: str, url: str, before: str = "") -> Page:
    """Return a page of Prometheus' text or OpenMetrics. Raises FrameError for anything else."""
    now, types = _parse(text, url)
    earlier = _parse(before, url)[0] if before else []
    return Page(url, now, earlier, types)


def _parse(text: str, url: str) -> tuple[list[Sample], dict[str, str]]:
    parse = parse_openmetrics if text.rstrip().endswith("# EOF") else parse_text
    written = set(_WRITTEN.findall(text))
    samples = []
    types = {}
    try:
        for family in parse(text):
            types[family.name] = family.type
            for s in family.samples:
                # The parser gives every counter a _total.
                name = s.name if s.name in written else s.name.removesuffix("_total")
                samples.append(Sample(name, dict(s.labels), float(s.value)))
    except (ValueError, KeyError, IndexError) as e:
        raise FrameError(
            "this is not a page of metrics",
            got=f"{url}: {e}",
            fix="give a /metrics page in Prometheus' text format or OpenMetrics",
        ) from e
    return samples, types


def check_page(page: Page, *, engines: bool = True) -> list[Finding]:
    """Return the faults of a page's metrics; without `engines` those of single metrics only."""
    findings = [Finding(_check_of(text), page.url, "", text) for text in page.warnings]
    if not page.samples_now:
        return findings or [Finding("silent-target", page.url, "", "the page has no sample")]

    dialects = recognise(page.names)
    findings += [*_histograms(page, dialects), *_not_finite(page, dialects), *_gpu(page)]
    for dialect in dialects:
        findings += [*_totals(page, dialect), *_share_values(page, dialect)]
        findings += check_names(page.url, dialect, page.names) if engines else []
    if engines and not dialects:
        findings += _renamed(page)
    elif engines:
        now = time.time()
        known = {each.check for each in findings} & {"not-finite"}
        remarks = check_fleet(page, page.url, now - WINDOW_S, now)
        findings += [each for each in remarks if each.check not in known]
    return findings


def check_fleet(
    store: fleet.Store, target: str, start: float, end: float, prefix: str = ""
) -> list[Finding]:
    """Return what `lab.fleet` remarks on a store's engines, as findings."""
    try:
        shown = fleet.look_at(store, start, end, prefix=prefix)
    except NoData as e:
        return [Finding("no-engine-metrics", target, "", f"{e.happened}: {e.got}", e.fix)]
    findings = []
    for remark in shown.remarks:
        check = _check_of(remark.text) if remark.kind == "store" else CHECKS.get(remark.kind)
        if check:
            where = "" if remark.where == target else remark.where
            findings.append(Finding(check, target, where, remark.text))
    unknown = shown.unknown[shown.unknown["why"].str.contains("contradict|told to be stale")]
    return findings + [
        Finding("not-known", target, str(row.question), str(row.why))
        for row in unknown.itertuples()
    ]


def _check_of(warning: str) -> str:
    """Return the check for a warning of a store, or about its answers."""
    fits = (check for part, check in WARNINGS.items() if part in warning)
    return next(fits, "partial-answer")


def check_names(target: str, dialect: Dialect, names: Iterable[str]) -> list[Finding]:
    """Return names with a prefix, two names at once, and counters that lack their _total."""
    findings = []
    if dialect.prefix or (dialect.engine.key == "vllm" and dialect.stem.endswith("_")):
        evidence = f"{dialect.engine.title}'s metrics begin with {dialect.stem!r}"
        findings.append(Finding("prefixed-names", target, "", evidence))

    known = set(names)
    kinds = questions()
    for question, alternatives in dialect.alternatives.items():
        bases = {name.metric.removesuffix("_total") for name in alternatives}
        if len(bases) > 1 and dialect.engine.others:
            text = " and ".join(sorted(bases))
            findings.append(Finding("both-names", target, question, text))
        newest = dialect.engine.names[question][0]
        first = alternatives[0].metric
        bare = first.removeprefix(dialect.stem)
        lacks = kinds[question] == "counter" and newest == f"{bare}_total"
        if lacks and f"{first}_total" not in known:
            findings.append(Finding("total-missing", target, question, first))
    return findings


def _renamed(page: Page) -> Iterator[Finding]:
    """Yield an engine whose metrics have another beginning than its mark, or none."""
    prefix, hits = guess_prefix(page.names)
    if prefix:
        key, _, beginning = prefix.partition("=")
        evidence = f"{hits} of {all_engines()[key].title}'s metrics begin with {beginning!r}"
        yield Finding("prefixed-names", page.url, "", evidence, f"LAB_METRIC_PREFIX={prefix}")


# Histograms.


@dataclass(frozen=True)
class Histogram:
    """Upper bounds in ascending order, the cumulative counts, and the sum of all values."""

    bounds: list[float]
    counts: list[float]
    total: float


def _histograms(page: Page, dialects: Sequence[Dialect]) -> list[Finding]:
    """Return histograms that contradict themselves, or cannot resolve their quantiles."""
    latency = {
        name.metric: question
        for dialect in dialects
        for question in LATENCIES
        for name in dialect.alternatives.get(question, ())
    }
    faults: dict[tuple[str, str], list[str]] = defaultdict(list)
    for base, histogram in _read_histograms(page.increases()):
        for check, evidence in _histogram_faults(histogram, base, base in latency):
            faults[check, base].append(evidence)

    # A queue that is empty is in the first bucket; alone it is the normal state.
    unresolved = {latency.get(base, base) for check, base in faults if check == UNRESOLVED}
    ignored = UNRESOLVED if unresolved == {"queue"} else ""
    findings = []
    for (check, base), texts in faults.items():
        more = f" (and {len(texts) - 1} more series)" if len(texts) > 1 else ""
        if check != ignored:
            findings.append(Finding(check, page.url, base, texts[0] + more))
    return findings


def _read_histograms(samples: Iterable[Sample]) -> Iterator[tuple[str, Histogram]]:
    """Yield the base name and the content of each series of histograms."""
    buckets: dict[tuple[str, frozenset[tuple[str, str]]], list[tuple[float, float]]] = {}
    sums: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for sample in samples:
        base, _, part = sample.name.rpartition("_")
        labels = dict(sample.labels)
        le = labels.pop("le", None)
        key = base, frozenset(labels.items())
        if part == "bucket" and le is not None:
            buckets.setdefault(key, []).append((float(le), sample.value))
        elif part == "sum":
            sums[key] = sample.value
    for key, each in buckets.items():
        bounds, counts = zip(*sorted(each), strict=True)
        yield key[0], Histogram(list(bounds), list(counts), sums.get(key, math.nan))


def _histogram_faults(
    histogram: Histogram, base: str, is_latency: bool
) -> Iterator[tuple[str, str]]:
    """Yield the (check, evidence) of the first fault of a histogram."""
    bounds = histogram.bounds
    counts = histogram.counts
    if any(wider < narrower for narrower, wider in pairwise(counts)):
        pairs = zip(bounds[:6], counts[:6], strict=True)
        text = ", ".join(f"le={bound:g}: {count:g}" for bound, count in pairs)
        yield "broken-histogram", f"a wider bucket counts less: {text}"
    elif counts[-1] >= MIN_OBSERVATIONS and math.isinf(bounds[-1]):
        is_otel = bounds[:5] == OTEL_BOUNDS and "second" in base
        if is_latency and (contradiction := _contradiction(histogram)):
            yield "broken-histogram", contradiction
        elif is_latency or is_otel:
            yield from _unresolved(histogram, int(is_otel))


def _contradiction(histogram: Histogram) -> str:
    """Return why the sum cannot be of values in these buckets, '' if it can."""
    table = pd.DataFrame(
        {
            "lower": [0.0, *histogram.bounds[:-1]],
            "upper": histogram.bounds,
            "count": [b - a for a, b in pairwise([0.0, *histogram.counts])],
        }
    )
    reading = read_histogram(table, histogram.total)
    is_readable = math.isnan(histogram.total) or not math.isnan(reading.mean_s)
    return "" if is_readable else reading.why_not


def _unresolved(histogram: Histogram, first: int) -> Iterator[tuple[str, str]]:
    """Yield that nearly all values are in the lowest bucket (up to `first`), or many above all."""
    n = histogram.counts[-1]
    below = histogram.counts[first]
    above = n - histogram.counts[-2] if len(histogram.counts) > 1 else n
    mean = f"; the mean is {histogram.total / n:.4g} s" if math.isfinite(histogram.total) else ""
    if below >= MAX_SHARE * n:
        bound = histogram.bounds[first]
        yield UNRESOLVED, f"{below / n:.0%} of {n:g} are below {bound:g} s{mean}"
    elif above > (1 - MAX_SHARE) * n:
        bound = histogram.bounds[-2]
        yield UNRESOLVED, f"{above / n:.0%} of {n:g} are above {bound:g} s{mean}"


# Numbers.


def _not_finite(page: Page, dialects: Sequence[Dialect]) -> Iterator[Finding]:
    """Yield values that are not numbers, of engines or of an answer without names."""
    answers = {
        name.metric + part
        for dialect in dialects
        for names in dialect.alternatives.values()
        for name in names
        for part in ("", *PARTS)
    }
    mine = [s for s in page.samples_now if not s.name or s.name in answers]
    bad = [sample for sample in mine if not math.isfinite(sample.value)]
    if bad:
        values = ", ".join(sorted({_text(sample.value) for sample in bad}))
        yield Finding("not-finite", page.url, bad[0].name, f"{len(bad)} samples are {values}")


def _totals(page: Page, dialect: Dialect) -> Iterator[Finding]:
    """Yield totals of the same thing that differ, by the sums over the page."""
    sums: dict[str, float] = defaultdict(float)
    for sample in page.increases():
        sums[sample.name] += sample.value
    for (question, part), relation, (other, other_part) in TOTALS:
        if not {question, other} <= dialect.alternatives.keys():
            continue
        name = dialect.names[question].metric + part
        other_name = dialect.names[other].metric + other_part
        if not {name, other_name} <= sums.keys():
            continue
        a = sums[name]
        b = sums[other_name]
        apart = a - b if relation == "<=" else abs(a - b)
        if apart > max(TOLERANCE * max(a, b), MIN_OBSERVATIONS):
            evidence = f"{name} is {a:,.0f}, {other_name} is {b:,.0f}"
            yield Finding("totals-differ", page.url, question, evidence)


def _share_values(page: Page, dialect: Dialect) -> Iterator[Finding]:
    shares = [question for question, kind in questions().items() if kind == "share"]
    names = [name for share in shares for name in dialect.alternatives.get(share, ())]
    for name in names:
        values = [s.value for s in page.samples_now if s.name == name.metric]
        if not name.matchers and values and max(values) > 1.0 + 1e-9:
            evidence = f"its value is {max(values):g}, and a share is at most 1"
            yield Finding("share-scale", page.url, name.metric, evidence)


def _gpu(page: Page) -> Iterator[Finding]:
    """Yield MIG instances, values of a whole GPU that several series repeat, and other makers."""
    facts = _instance_facts([s for s in page.samples_now if s.name.upper().startswith("DCGM_FI_")])
    if facts:
        yield Finding("gpu-instances", page.url, "", "; ".join(facts))
    for maker, pattern in OTHER_GPUS.items():
        if other := [name for name in page.names if re.match(pattern, name)]:
            yield Finding("gpu-not-read", page.url, maker, f"{len(other)} metrics, as {other[0]}")


def _instance_facts(gpu: list[Sample]) -> list[str]:
    instances = {s.labels.get("GPU_I_ID", "") for s in gpu} - {""}
    repeated = Counter((s.name, _device(s)) for s in gpu if _OF_WHOLE_GPU.search(s.name))
    facts = [
        f"{name} {count} times for GPU {device}"
        for (name, device), count in repeated.items()
        if count > 1
    ]
    if instances and "DCGM_FI_DEV_GPU_UTIL" not in {sample.name.upper() for sample in gpu}:
        facts.insert(0, f"{len(instances)} MIG instances, and no DCGM_FI_DEV_GPU_UTIL")
    return facts


def _device(sample: Sample) -> str:
    labels = sample.labels
    device = labels.get("UUID") or labels.get("gpu", "")
    return f"{labels.get('Hostname') or labels.get('hostname', '')} {device}".strip()
