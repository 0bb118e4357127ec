"""What is known of a metric's name: its engine, its kind, and whether it exists today."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

from lab.engines import PARTS, Dialect, Engine, engines, questions, recognise, split_name

SHARE = re.compile(
    r"(?i)_(perc|percent|ratio|usage_percent)$|^DCGM_FI_(DEV_(GPU|MEM_COPY|ENC|DEC)_UTIL|PROF_\w+_ACTIVE)$"
)
PERCENT = re.compile(r"(?i)_UTIL$|_percent$")  # 0 to 100
# Counters of dcgm-exporter: etc/*.csv of 4.5.
GAUGE = re.compile(
    r"(?i)^DCGM_FI_DEV_(?!TOTAL_ENERGY|PCIE_REPLAY|NVLINK_|ECC_|RETIRED_|\w+_(VIOLATION|ROWS|THROUGHPUT)$)"
    r"|^DCGM_FI_PROF_\w+_ACTIVE$"
)
# What there is in total, at this moment: Ray's node_mem_total, Envoy's cluster_membership_total.
AMOUNT = re.compile(
    r"(?i)(mem|memory|disk|swap|vram|nodes|pods|replicas|endpoints|membership|gpus?|cpus?|cores|"
    r"slots|workers|hosts)_total$"
)


@dataclass(frozen=True)
class Metric:
    """A metric's name, taken apart.

    `kind` is gauge, share, counter, histogram, or '' if not known; `part` is '_bucket', '_sum',
    '_count', '_created' or ''. `fault` is 'dead-name' or 'total-missing' with the reason in `why`.
    """

    name: str
    engine: Engine | None = None
    question: str = ""
    kind: str = ""
    part: str = ""
    fault: str = ""
    why: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Known:
    """The metrics that a page or a Prometheus has, against which queries are checked.

    Without any (`names` is empty) queries are checked against the engines' own names. `labels` are
    the labels of each metric, `bounds` the values of `le` of each `_bucket`.
    """

    names: frozenset[str] = frozenset()
    labels: Mapping[str, frozenset[str]] = field(default_factory=dict)
    bounds: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @cached_property
    def dialects(self) -> list[Dialect]:
        """Return the engines whose metrics are among the names."""
        return recognise(self.names)

    def dialects_of(self, engine: Engine | None) -> list[Dialect]:
        """Return those of one engine."""
        return [each for each in self.dialects if each.engine == engine]


def known_of(series: Iterable[tuple[str, Mapping[str, str]]]) -> Known:
    """Return what these series (name, labels) have."""
    labels: dict[str, set[str]] = {}
    bounds: dict[str, set[str]] = {}
    for name, own in series:
        labels.setdefault(name, set()).update(own)
        if "le" in own:
            bounds.setdefault(name, set()).add(own["le"])
    return Known(
        frozenset(labels),
        {name: frozenset(each) for name, each in labels.items()},
        {name: frozenset(each) for name, each in bounds.items()},
    )


def metric_of(name: str, known: Known) -> Metric:
    """Return what is known of a name, by a store's names where there are any."""
    engine, stem, bare = split_name(name)
    if engine is None:
        return _foreign(name)
    if bare in _parts_of(engine.key):
        question, part, age = _parts_of(engine.key)[bare]
        kind = questions()[question]
    else:
        question, age = "", 0
        part = next((part for part in (*PARTS, "_created") if bare.endswith(part)), "")
        is_counter = bare.endswith("_total") and not AMOUNT.search(bare)
        kind = "histogram" if part in PARTS else "counter" if is_counter else ""
    metric = Metric(name, engine, question, kind, part)
    if known.dialects:
        return _in_store(metric, stem, known)

    mark = engine.mark
    if engine.key == "vllm" and stem in (f"{mark}_", f"ray_{mark}:"):
        why = f"vLLM's names begin with {mark}:, and Ray's with ray_{mark}_"
        hint = f"write {mark}:{bare}, or the name that your store has"
        return replace(metric, fault="dead-name", why=why, hint=hint)
    return _current(metric, engine, bare, age)


def _foreign(name: str) -> Metric:
    """Return what the form of a name tells of a metric that no known engine exports."""
    part = next((part for part in (*PARTS, "_created") if name.endswith(part)), "")
    forms = {
        "counter": name.endswith("_total") and not AMOUNT.search(name),
        "share": SHARE.search(name),
        "gauge": GAUGE.search(name),
    }
    for kind, fits in forms.items():
        if fits:
            return Metric(name, kind=kind)
    return Metric(name, kind="histogram" if part == "_bucket" else "", part=part)


@cache
def _parts_of(key: str) -> dict[str, tuple[str, str, int]]:
    """Return {name: (question, part, place)} of an engine's series; place 0 is the newest name."""
    result: dict[str, tuple[str, str, int]] = {}
    for part in ("", *PARTS, "_created"):
        for question, names in engines()[key].names.items():
            for age, name in enumerate(names):
                base = name.partition("{")[0]
                result.setdefault(base + part, (question, part, age))
                if part == "_created":
                    result.setdefault(base.removesuffix("_total") + part, (question, part, age))
    return result


def _current(metric: Metric, engine: Engine, bare: str, age: int) -> Metric:
    """Return the metric, with a fault if the newest version of its engine has no such name."""
    base = bare.removesuffix(metric.part)
    removed = engine.removed.get(base, engine.removed.get(bare))
    if removed is not None:
        why = f"{engine.title} has removed {metric.name}"
        hint = f"use {engine.mark}:{removed}" if removed else "remove the query"
    elif metric.question and age and engine.others:
        newest = engine.names[metric.question][0]
        why = f"{engine.title} has renamed it to {newest}"
        hint = f"use {engine.mark}:{newest}{metric.part}"
    elif metric.question:
        return metric
    else:
        return _unlisted(metric, engine, base)
    return replace(metric, fault="dead-name", why=why, hint=hint)


def _unlisted(metric: Metric, engine: Engine, base: str) -> Metric:
    """Return a metric that answers no question, with a fault if its engine does not export it."""
    names = _exported(engine)
    if f"{base}_total" in names:
        why = f"{engine.title} exports {base}_total"
        return replace(metric, fault="total-missing", why=why, hint=f"use {metric.name}_total")
    if base in names or (engine.others and base.startswith(engine.families)):
        return metric

    # Where not all names of an engine are known, only one that is nearly another is a fault.
    similar = difflib.get_close_matches(base, names, 1, 0.6 if engine.others else 0.9)
    if engine.others:
        why = f"no version of {engine.title} exports {metric.name}"
        hint = f"perhaps {engine.mark}:{similar[0]}" if similar else ""
    elif not similar or base.startswith(similar[0]):
        return metric
    else:
        why = f"{metric.name} is not a known metric"
        hint = f"perhaps {similar[0]}"
    return replace(metric, fault="dead-name", why=why, hint=hint)


def _exported(engine: Engine) -> list[str]:
    answers = [name.partition("{")[0] for each in engine.names.values() for name in each]
    stems = [name.removesuffix("_sum") for name in answers]
    return [*answers, *stems, *engine.others, *engine.router]


def _in_store(metric: Metric, stem: str, known: Known) -> Metric:
    """Return the metric, with a fault if a store does not have it although it has its engine."""
    dialects = known.dialects_of(metric.engine)
    if metric.name in known.names or metric.part == "_created" or not dialects:
        return metric
    total = f"{metric.name}_total"
    if total in known.names:
        why = f"the store has {total}"
        return replace(metric, fault="total-missing", why=why, hint=f"use {total}")
    answers = [each.names.get(metric.question) for each in dialects]
    names = [answer.metric + metric.part for answer in answers if answer]
    why = f"the store has no {metric.name}"
    if names and stem not in {each.stem for each in dialects}:
        why = f"the store calls it {names[0]}"
    return replace(metric, fault="dead-name", why=why, hint=f"use {names[0]}" if names else "")
