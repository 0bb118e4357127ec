"""Exercises in which the answer is a query: it is run against the stores of the notebook's run.

Its result is compared with that of a reference query, so that every query with the same meaning is
right. In PromQL, `$__range` stands for the run's length, as in Grafana.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.errors import NoData, QueryRejected, StoreError
from lab.exercises.judging import (
    RIGHT,
    TOLERANCE_RATIO,
    Feedback,
    no_data,
    not_yet,
    problem_of_number,
)

RANGE = "$__range"
MAX_TRACES = 10_000


class _Query:
    """The part that both languages share: run the reference and the answer, then compare."""

    language: str
    hint: str
    reference: Callable[[Any], str]

    def judge(self, answer: Any, seen: Any) -> Feedback:
        """Run a query for an Observation, and compare its result with the reference's."""
        if not isinstance(answer, str):
            kind = type(answer).__name__
            return not_yet(f"this is a {kind}; write the query as a text in quotes", self.hint)
        try:
            expected = self.run(self.reference(seen), seen)
            if not expected:
                return no_data(self.hint)
        except StoreError as e:
            return Feedback(None, f"This run cannot check a query: {e.happened}.")

        try:
            problem = self.problem(self.run(answer, seen), expected, seen)
        except QueryRejected as e:
            problem = f"this cannot be read as {self.language}. {e.happened}"
        except NoData as e:
            problem = f"this returns nothing. {e.happened}"
        except StoreError as e:
            return Feedback(None, f"The query could not be run: {e.happened}.")
        return not_yet(problem, self.hint) if problem else Feedback(True, RIGHT)

    def run(self, query: str, seen: Any) -> dict[Any, float]:
        """Return {series or trace: value}. Raises StoreError."""
        raise NotImplementedError

    def problem(self, given: dict[Any, float], expected: dict[Any, float], seen: Any) -> str:
        """Return what is wrong with a result, '' for the expected one."""
        raise NotImplementedError


@dataclass(frozen=True)
class PromQL(_Query):
    """A query whose value at the end of the run is compared."""

    reference: Callable[[Any], str]
    hint: str
    unit: str = ""
    tolerance_ratio: float = TOLERANCE_RATIO
    language = "PromQL"

    def run(self, query: str, seen: Any) -> dict[Any, float]:
        """Return {labels: value} at the first scrape that holds the whole run.

        Raises NoData where there is none, QueryRejected for a range of samples.
        """
        text = query.replace(RANGE, f"{round(_length_s(seen) * 1e3)}ms")
        answer = seen.prometheus.query(text, at=seen.scraped_until).require()
        if answer.kind == "matrix":
            raise QueryRejected("It is a range of samples: apply a function such as rate()")
        return {
            tuple(sorted(set(series["metric"].items()))): float(series["value"][1])
            for series in answer.metrics
        }

    def problem(self, given: dict[Any, float], expected: dict[Any, float], seen: Any) -> str:
        """Compare labels, then values."""
        given = _comparable(given)
        expected = _comparable(expected)
        if set(given) != set(expected):
            labels = sorted({name for series in given for name, _ in series})
            by = f" (by {', '.join(labels)})" if labels else ""
            return (
                f"this returns {len(given)} series{by}, and the answer has {len(expected)}: "
                "aggregate over the labels that do not matter"
            )
        length_s = _length_s(seen)
        factors = {
            length_s: "the growth over the run; divide by its length, as rate() does",
            1 / length_s: "a rate per second; the answer is the growth over the run",
            60.0: "per minute; the answer is per second",
        }
        for labels, value in expected.items():
            problem = problem_of_number(
                given[labels], value, self.unit, self.tolerance_ratio, factors
            )
            if problem:
                return problem
        return ""


@dataclass(frozen=True)
class TraceQL(_Query):
    """A query whose spans are counted per trace of the run."""

    reference: Callable[[Any], str]
    hint: str
    language = "TraceQL"

    def run(self, query: str, seen: Any) -> dict[Any, float]:
        """Return {trace id: number of matching spans} of the run's own traces.

        Raises NoData where no trace matches.
        """
        start, end = seen.run.window
        answer = seen.tempo.search(query, start, end, limit=MAX_TRACES).require()
        own = set(seen.run.records["trace_id"].astype(str))
        return {trace.trace_id: trace.matched for trace in answer if trace.trace_id in own}

    def problem(self, given: dict[Any, float], expected: dict[Any, float], seen: Any) -> str:
        """Compare the traces, then the number of spans in them."""
        more = len(set(given) - set(expected))
        missing = len(set(expected) - set(given))
        if more or missing:
            return (
                f"this finds {len(given)} traces; {more} of them do not belong to the answer, and "
                f"{missing} of the answer are missing"
            )
        spans = int(sum(given.values()))
        if spans != int(sum(expected.values())):
            kind = "too many" if spans > sum(expected.values()) else "too few"
            return f"these are the right traces, but {spans} spans in them match: {kind}"
        return ""


def _length_s(seen: Any) -> float:
    """Return the seconds from the run's start to the scrape that holds all of it."""
    return float(seen.scraped_until - seen.run.window[0])


def _comparable(result: dict[Any, float]) -> dict[Any, float]:
    """Return the series without the metric's name, and a single one without labels."""
    if len(result) == 1:
        return {(): next(iter(result.values()))}
    return {
        tuple(pair for pair in labels if pair[0] != "__name__"): value
        for labels, value in result.items()
    }
