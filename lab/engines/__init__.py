"""Model servers' metrics: which engine exported a set of names, and what it calls each answer.

The names are data (`names.toml`). `recognise` looks at the metric names of a store and returns one
Dialect per engine and prefix; a Dialect answers `name_of(question)`, or says why the engine cannot.

The lab's own names (`lab.schema.Metric`, those of the newest vLLM) are questions too:
`actual_name("vllm:prompt_tokens_total", names)` is the name under which this store has them.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from lab.errors import NoData, SettingsError
from lab.schema import PREFIXES

__all__ = [
    "LABELS",
    "Dialect",
    "Engine",
    "Name",
    "actual_name",
    "either_name",
    "engines",
    "guess_prefix",
    "own_names",
    "questions",
    "recognise",
    "renamed",
    "split_name",
]

MIN_GUESSED = 4
PARTS = ("_bucket", "_sum", "_count")
_OWN_METRIC = re.compile(r"(?<![\w:])vllm:\w+")
_FILE = Path(__file__).parent / "names.toml"


@dataclass(frozen=True)
class Name:
    """A metric of a store, with the label matchers (PromQL text) that select the series.

    `native`: it is a native histogram, whose parts have no series of their own.
    """

    metric: str
    matchers: str = ""
    native: bool = False

    def selector(self, *matchers: str, part: str = "") -> str:
        """Return a PromQL selector of this metric; `part` is '_bucket', '_sum' or '_count'."""
        texts = [text for text in (self.matchers, *matchers) if text]
        part = "" if self.native else part
        return f"{self.metric}{part}{{{','.join(texts)}}}" if texts else f"{self.metric}{part}"

    def __str__(self) -> str:
        return self.selector()


@dataclass(frozen=True)
class Engine:
    """What `names.toml` has on one engine."""

    key: str
    title: str
    source: str
    mark: str
    names: Mapping[str, tuple[str, ...]]
    why_not: Mapping[str, str]
    router: tuple[str, ...] = ()
    versions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    removed: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Dialect:
    """An engine's metrics as one store has them.

    `stem` is the beginning of all names (`kserve_vllm:`). `names` has the questions with an answer;
    `alternatives` all their names in this store, of which a single engine exports one, or several
    with equal values. `bare` has all names after the stem.
    """

    engine: Engine
    stem: str
    alternatives: Mapping[str, tuple[Name, ...]]
    bare: frozenset[str] = field(repr=False, default=frozenset())

    @property
    def names(self) -> dict[str, Name]:
        """Return this store's name of the answer to each question that has one."""
        return {question: names[0] for question, names in self.alternatives.items()}

    @property
    def prefix(self) -> str:
        """Return what a deployment or a collector put before the engine's own name."""
        return self.stem.partition(self.engine.mark)[0] if self.engine.mark in self.stem else ""

    @property
    def version(self) -> str:
        """Return which of the engine's versions has such names; empty where it does not matter."""
        for version, needed in self.engine.versions.items():
            if all(name in self.bare for name in needed):
                return version
        return ""

    def name_of(self, question: str) -> Name:
        """Return this store's name of the answer. Raises NoData, with the reason, without one."""
        if question in self.alternatives:
            return self.alternatives[question][0]
        raise NoData(
            f"{self.engine.title} does not report {question!r} here",
            got=self.reason(question),
            fix="set LAB_METRIC_PREFIX if its metrics were renamed; `lab attach` lists them",
        )

    def reason(self, question: str) -> str:
        """Return why there is no answer to a question."""
        if question in self.engine.why_not:
            return self.engine.why_not[question]
        expected = self.engine.names.get(question)
        if expected:
            return f"no metric {self.stem}{expected[0]} in this store"
        return f"{self.engine.title} exports no such metric"

    def __str__(self) -> str:
        version = f" {self.version}" if self.version else ""
        prefix = f", prefixed {self.prefix!r}" if self.prefix else ""
        return f"{self.engine.title}{version}{prefix}"


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text())


@cache
def engines() -> dict[str, Engine]:
    """Return all engines that are known, by key."""
    entries = {key: e for key, e in _table().items() if key not in ("questions", "labels")}
    return {key: msgspec.convert(e | {"key": key}, Engine) for key, e in entries.items()}


def split_name(name: str) -> tuple[Engine | None, str, str]:
    """Return the engine to which a metric's name points, its stem, and the name after the stem."""
    for key, pattern in _patterns().items():
        if match := pattern.fullmatch(name):
            return engines()[key], match["stem"], match["bare"]
    return None, "", name


def questions() -> dict[str, str]:
    """Return every question with its kind: gauge, share, counter or histogram."""
    return dict(_table()["questions"])


LABELS: dict[str, tuple[str, ...]] = {
    role: tuple(names) for role, names in _table()["labels"].items()
}


def recognise(names: Iterable[str], prefix: str = "") -> list[Dialect]:
    """Return the engines whose metrics are among these names, the one with most answers first.

    An engine's name may have any prefix, and `_` for `:`. `prefix` (LAB_METRIC_PREFIX) is for names
    that were changed beyond that: `acme_llm_`, or `sglang=acme_llm_` if another engine's metrics
    fit as well. Raises SettingsError for a prefix of an unknown engine.
    """
    known = list(names)
    stems = _chosen_stems(prefix, known) if prefix else _stems(known)
    dialects = []
    for (key, stem), bare in stems.items():
        dialect = _dialect(engines()[key], stem, frozenset(bare))
        if dialect.alternatives:
            dialects.append(dialect)
    dialects.sort(key=lambda dialect: (-len(dialect.alternatives), dialect.stem))
    # A prefix alone was tried with every engine's names: one of them fits best.
    return dialects[:1] if prefix and "=" not in prefix else dialects


def actual_name(metric: str, names: Sequence[str], prefix: str = "") -> Name | None:
    """Return what a store calls one of the lab's own metrics (`vllm:...`, or a part of one).

    None where the metric is not one of the questions, or no engine in the store answers it.
    """
    if metric in names and not prefix:
        return Name(metric)
    own = _own_names()
    part = "" if metric in own else next((part for part in PARTS if metric.endswith(part)), "")
    question = own.get(metric.removesuffix(part))
    if question is None:
        return None
    for dialect in recognise(names, prefix):
        if question in dialect.alternatives:
            name = dialect.name_of(question)
            part = "" if name.native else part
            return Name(name.metric + part, name.matchers, name.native)
    return None


def renamed(promql: str, names: Sequence[str], prefix: str = "") -> str:
    """Return an expression with a store's names in place of the lab's own (`vllm:...`).

    Raises NoData, with the reason, where the store does not have one of the metrics.
    """

    def replaced(match: re.Match[str]) -> str:
        metric = match[0]
        if name := actual_name(metric, names, prefix):
            return name.metric
        for dialect in recognise(names, prefix):
            other = metric.replace(f"{dialect.engine.mark}:", dialect.stem, 1)
            if other in names:
                return other
        raise NoData(
            f"this store does not have {metric}",
            got=f"{len(names):,} other metrics",
            fix="scrape the engine that has it, or set LAB_METRIC_PREFIX if it was renamed",
        )

    return _OWN_METRIC.sub(replaced, promql)


def either_name(promql: str) -> str:
    """Return an expression that finds Llama Stack's metrics, or those of OGX, its newer name."""
    older, newer = PREFIXES[:2]
    return f"{promql} or {promql.replace(older, newer)}" if older in promql else promql


def own_names(names: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Return the lab's own name of each metric that has another one in a store."""
    names = list(names)
    own = {question: metric for metric, question in _own_names().items()}
    result = {}
    for dialect in recognise(names, prefix):
        for question, alternatives in dialect.alternatives.items():
            for name in alternatives:
                if question in own and name.metric in names and not name.matchers:
                    result[name.metric] = own[question]
    return {name: metric for name, metric in result.items() if name != metric}


@cache
def _own_names() -> dict[str, str]:
    """Return question by the lab's own name, which is the newest vLLM's."""
    vllm = engines()["vllm"]
    return {f"{vllm.mark}:{names[0]}": question for question, names in vllm.names.items()}


def _stems(names: Iterable[str]) -> dict[tuple[str, str], set[str]]:
    """Return the names after each beginning that ends in an engine's mark."""
    stems: dict[tuple[str, str], set[str]] = {}
    for name in names:
        for key, pattern in _patterns().items():
            if match := pattern.fullmatch(name):
                stems.setdefault((key, match["stem"]), set()).add(match["bare"])
    return stems


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    """Return a pattern per engine; a colon in a prefix would be a recording rule's.

    `vllm_router_` begins the names of vLLM's router (the Rust one), which are no engine's.
    """
    return {
        key: re.compile(rf"(?P<stem>(?:\w*_)?{engine.mark}[:_])(?P<bare>(?!router_)\w+)")
        for key, engine in engines().items()
    }


def guess_prefix(names: Iterable[str]) -> tuple[str, int]:
    """Return the LAB_METRIC_PREFIX that would make most names known, and how many.

    NIM, for example, exports vLLM's metrics without a prefix: `vllm=`. Fewer than MIN_GUESSED names
    are a coincidence: ('', 0).
    """
    names = list(names)
    best = ("", 0)
    for engine in engines().values():
        bare = {each[0].partition("{")[0].removesuffix("_total") for each in engine.names.values()}
        pattern = re.compile(rf"(|\w*[_:])({'|'.join(sorted(bare))})(_total|_count)?")
        matches = [match for match in map(pattern.fullmatch, names) if match]
        beginnings = Counter(match[1] for match in matches)
        prefix, hits = next(iter(beginnings.most_common(1)), ("", 0))
        if hits >= MIN_GUESSED and hits > best[1]:
            best = (f"{engine.key}={prefix}", hits)
    return best


def _chosen_stems(prefix: str, names: Iterable[str]) -> dict[tuple[str, str], set[str]]:
    key, equals, stem = prefix.partition("=")
    if not equals:
        key, stem = "", prefix
    if key and key not in engines():
        raise SettingsError(
            f"there is no engine {key!r}",
            got=f"LAB_METRIC_PREFIX={prefix}",
            fix=f"write ENGINE=PREFIX with one of {', '.join(engines())}",
        )
    bare = {name.removeprefix(stem) for name in names if name.startswith(stem)}
    return {(each, stem): bare for each in ([key] if key else engines())}


def _dialect(engine: Engine, stem: str, bare: frozenset[str]) -> Dialect:
    kinds = questions()
    alternatives = {}
    for question, candidates in engine.names.items():
        present = []
        for candidate in candidates:
            name, _, matchers = candidate.rstrip("}").partition("{")
            forms = _forms(name, kinds[question], bare)
            present += [Name(stem + form, matchers) for form in forms]
            if kinds[question] == "histogram" and name in bare and not forms:
                present.append(Name(stem + name, matchers, native=True))
        if present:
            alternatives[question] = tuple(present)
    return Dialect(engine, stem, alternatives, bare)


def _forms(name: str, kind: str, bare: frozenset[str]) -> list[str]:
    """Return the forms in which a metric is among these names; a counter may lack its `_total`."""
    if kind == "histogram":
        return [name] if {f"{name}_count", f"{name}_bucket"} & bare else []
    base = name.removesuffix("_total")
    forms = (name, f"{base}_total", base) if kind == "counter" else (name,)
    return [form for form in dict.fromkeys(forms) if form in bare]
