"""What is known of a metric's name: its engine, its kind, and whether it exists today."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lab.engines import PARTS, Dialect, Engine, questions, recognise, split_name

SHARE = re.compile(
    r"(?i)_(perc|percent|ratio|usage_percent)$|^DCGM_FI_(DEV_(GPU|MEM_COPY|ENC|DEC)_UTIL|PROF_\w+_ACTIVE)$"
)
PERCENT = re.compile(r"(?i)_UTIL$|_percent$")  # 0 to 100
GAUGE = re.compile(
    r"(?i)^DCGM_FI_DEV_(?!TOTAL_ENERGY|PCIE_REPLAY|NVLINK_BANDWIDTH)|^DCGM_FI_PROF_\w+_ACTIVE$"
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

    def dialects(self) -> list[Dialect]:
        """Return the engines whose metrics are among the names."""
        return recognise(self.names)


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


def metric_of(name: str, known: Known | None = None) -> Metric:
    """Return what is known of a name, by a store's names where there are any."""
    engine, stem, bare = split_name(name)
    if engine is None:
        return _foreign(name)
    question, kind, part, age = _identify(engine, bare)
    metric = Metric(name, engine, question, kind, part)
    if known is not None and known.dialects():
        return _in_store(metric, stem, bare, known)

    direct = f"{engine.mark}:"
    if engine.key == "vllm" and stem in (f"{engine.mark}_", f"ray_{direct}"):
        why = f"vLLM's names begin with {direct}, and Ray's with ray_{engine.mark}_"
        hint = f"write {direct}{bare}, or the name that your store has"
        return _with(metric, "dead-name", why, hint)
    return _current(metric, engine, bare, age)


def _with(metric: Metric, fault: str, why: str, hint: str = "") -> Metric:
    return Metric(
        metric.name, metric.engine, metric.question, metric.kind, metric.part, fault, why, hint
    )


def _foreign(name: str) -> Metric:
    base = next((name.removesuffix(part) for part in PARTS if name.endswith(part)), name)
    if name.endswith("_total"):
        return Metric(name, kind="counter")
    if SHARE.search(name):
        return Metric(name, kind="share")
    if GAUGE.search(name):
        return Metric(name, kind="gauge")
    if name.endswith("_created"):
        return Metric(name, part="_created")
    return Metric(
        name, kind="histogram" if name.endswith("_bucket") else "", part=name[len(base) :]
    )


def _identify(engine: Engine, bare: str) -> tuple[str, str, str, int]:
    """Return (question, kind, part, place among the question's names: 0 is the newest)."""
    kinds = questions()
    for part in ("", *PARTS, "_created"):
        base = bare.removesuffix(part) if part else bare
        if part and base == bare:
            continue
        for question, names in engine.names.items():
            for place, candidate in enumerate(names):
                own = candidate.partition("{")[0]
                if base == own or (part == "_created" and base == own.removesuffix("_total")):
                    return question, kinds[question], part, place
    if bare.endswith("_total"):
        return "", "counter", "", 0
    part = next((part for part in (*PARTS, "_created") if bare.endswith(part)), "")
    return "", "histogram" if part in PARTS else "", part, 0


def _current(metric: Metric, engine: Engine, bare: str, age: int) -> Metric:
    """Return the metric, with a fault if the newest version of its engine has no such name."""
    base = bare.removesuffix(metric.part) if metric.part else bare
    removed = engine.removed.get(base, engine.removed.get(bare))
    if removed is not None:
        hint = f"use {engine.mark}:{removed}" if removed else "remove the query"
        return _with(metric, "dead-name", f"{engine.title} has removed {metric.name}", hint)

    if metric.question and age and engine.others:
        newest = engine.names[metric.question][0]
        why = f"{engine.title} has renamed it to {newest}"
        return _with(metric, "dead-name", why, f"use {engine.mark}:{newest}{metric.part}")
    if metric.question:
        return metric
    names = _all_names(engine)
    if f"{base}_total" in names:
        why = f"{engine.title} exports {base}_total"
        return _with(metric, "total-missing", why, f"use {metric.name}_total")
    if base in names or f"{base}_total" in names or not engine.others:
        return _similar(metric, base, names) if not engine.others else metric
    if base.startswith(engine.families):
        return metric
    similar = difflib.get_close_matches(base, names, 1, 0.6)
    hint = f"perhaps {engine.mark}:{similar[0]}" if similar else ""
    return _with(metric, "dead-name", f"no version of {engine.title} exports {metric.name}", hint)


def _similar(metric: Metric, base: str, names: list[str]) -> Metric:
    """Return a fault for a name that is nearly one, of an engine whose names are not all known."""
    similar = difflib.get_close_matches(base, names, 1, 0.9)
    if not similar or base in names or base.startswith(similar[0]):
        return metric
    return _with(
        metric, "dead-name", f"{metric.name} is not a known metric", f"perhaps {similar[0]}"
    )


def _all_names(engine: Engine) -> list[str]:
    names = [name.partition("{")[0] for each in engine.names.values() for name in each]
    return [*names, *engine.others, *engine.router]


def _in_store(metric: Metric, stem: str, bare: str, known: Known) -> Metric:
    """Return the metric, with a fault if a store does not have it although it has its engine."""
    if metric.name in known.names or metric.part == "_created":
        return metric
    mine = [each for each in known.dialects() if each.engine == metric.engine]
    if not mine:
        return metric
    if f"{metric.name}_total" in known.names:
        return _with(
            metric,
            "total-missing",
            f"the store has {metric.name}_total",
            f"use {metric.name}_total",
        )
    if stem not in {each.stem for each in mine} and metric.question:
        answers = [each.names[metric.question] for each in mine if metric.question in each.names]
        if answers:
            name = answers[0].metric + metric.part
            return _with(metric, "dead-name", f"the store calls it {name}", f"use {name}")
    alternatives = [
        each.names[metric.question].metric for each in mine if metric.question in each.names
    ]
    hint = f"use {alternatives[0]}{metric.part}" if alternatives else ""
    return _with(metric, "dead-name", f"the store has no {metric.name}", hint)
