"""Judge an answer: right, or what kind of mistake it is, never an exception.

Where the answer is a query, it is run against the stores of the notebook's run, and its result is
compared with that of a reference query, so that every query with the same meaning is right. In
PromQL, `$__range` stands for the run's length, as in Grafana.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lab.errors import LabError, NoData, QueryRejected, StoreError

RIGHT = "Right."
TOLERANCE_RATIO = 0.02
GUESS_RATIO = 0.25  # a prediction within this share of what was measured is a good one
SHARE = "share"  # between 0 and 1, where many would write percent
PERCENTAGE = "is a percentage; write it as a share (ten percent is 0.1)"


@dataclass(frozen=True)
class Feedback:
    """The message for an attendee.

    `right` is None where there is nothing to judge: no answer, no data, a prediction that missed.
    """

    right: bool | None
    message: str

    def __repr__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Exercise:
    """A question about the run's data.

    `expected(*data)` is the right answer for the data of the notebook's run. `unit` is SHARE, or a
    unit for the messages. Numbers may differ by `tolerance_ratio`.
    """

    expected: Callable[..., Any]
    hint: str
    unit: str = ""
    tolerance_ratio: float = TOLERANCE_RATIO

    def judge(self, answer: Any, *data: Any) -> Feedback:
        """Compare an answer with the expected one."""
        expected = plain(self.expected(*data))
        if is_missing(expected):
            return no_data(self.hint)
        problem = problem_of(plain(answer), expected, self.unit, self.tolerance_ratio)
        return not_yet(problem, self.hint) if problem else Feedback(True, RIGHT)


@dataclass(frozen=True)
class Prediction(Exercise):
    """A guess before the measurement. It shows what was measured; a miss is not a wrong answer."""

    def judge(self, answer: Any, *data: Any) -> Feedback:
        """Show the guess beside what was measured."""
        answer = plain(answer)
        expected = plain(self.expected(*data))
        if is_missing(expected):
            return no_data(self.hint)
        if problem := _unusable(answer, expected, self.unit):
            return not_yet(problem, self.hint)

        unit = f" {self.unit}" if self.unit and self.unit != SHARE else ""
        if isinstance(expected, str):
            close = not _problem_of_text(answer, expected)
            distance = "you were right" if close else "not what you expected; why?"
        else:
            close = math.isclose(answer, expected, rel_tol=GUESS_RATIO, abs_tol=1e-9)
            distance = f"{answer / expected - 1:+.0%}" if expected else f"{answer - expected:+g}"
            answer = f"{answer:.3g}"
            expected = f"{expected:.3g}"
        return Feedback(
            close or None, f"Predicted {answer}, measured {expected}{unit}: {distance}."
        )


@dataclass(frozen=True)
class Action:
    """Something to break. `problem(answer)` is what is missing, '' when it is done.

    `shows(answer)` is what the attendee should have seen then.
    """

    problem: Callable[[Any], str]
    shows: Callable[[Any], str]
    hint: str

    def judge(self, answer: Any) -> Feedback:
        """Check that it was broken, and say what that shows."""
        problem = self.problem(answer)
        if problem:
            return not_yet(problem, self.hint)
        return Feedback(True, f"{RIGHT} {self.shows(answer)}")


@dataclass(frozen=True)
class Graded:
    """An answer with several parts: `grade(answer, *data)` returns its points of 100, and why."""

    grade: Callable[..., tuple[int, str]]
    hint: str

    def judge(self, answer: Any, *data: Any) -> Feedback:
        """Grade the answer; half of the points are enough."""
        try:
            points, message = self.grade(answer, *data)
        except LabError as e:
            return not_yet(str(e), self.hint)
        if points < 50:
            return not_yet(message, self.hint)
        return Feedback(True, f"{RIGHT} {message}")


def plain(value: Any) -> Any:
    """Return numpy's scalars, and arrays and Series with one value, as Python's own values."""
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value


def is_missing(expected: Any) -> bool:
    """Return whether the run gives no expected value: None or NaN."""
    return expected is None or expected != expected


def no_data(hint: str) -> Feedback:
    """Return the feedback where the run cannot answer the question."""
    return Feedback(None, f"This run has no data for this exercise. Hint: {hint}.")


def not_yet(problem: str, hint: str) -> Feedback:
    """Return the feedback on a wrong answer."""
    return Feedback(False, f"Not yet: {problem}. Hint: {hint}.")


def problem_of(answer: Any, expected: Any, unit: str, tolerance_ratio: float) -> str:
    """Return what is wrong with an answer, '' for a right one."""
    problem = _unusable(answer, expected)
    if problem:
        return problem
    if isinstance(expected, str):
        return _problem_of_text(answer, expected)
    return problem_of_number(float(answer), float(expected), unit, tolerance_ratio)


def _unusable(answer: Any, expected: Any, unit: str = "") -> str:
    """Return why an answer cannot be compared with the expected one, '' if it can."""
    kind = type(answer).__name__
    if isinstance(expected, str):
        if not isinstance(answer, str):
            return f"this is a {kind}; the answer is a single name, as a text in quotes"
        return ""
    if isinstance(answer, str):
        return "this is text; write a number, without quotes"
    if isinstance(answer, bool) or not isinstance(answer, (int, float)):
        return f"this is a {kind}; the answer is a single number"
    if unit == SHARE and not 0 <= answer <= 1:
        return f"{answer:g} {PERCENTAGE}"
    return ""


def _problem_of_text(answer: str, expected: str) -> str:
    given = answer.strip().casefold()
    right = expected.strip().casefold()
    if given == right:
        return ""
    if given and (right.startswith(given) or given.startswith(right)):
        return f"{answer!r} is nearly it; write the whole name, exactly as in the table"
    return f"{answer!r} is not what this run shows"


def problem_of_number(
    answer: float,
    expected: float,
    unit: str,
    tolerance_ratio: float,
    factors: Mapping[float, str] | None = None,
) -> str:
    """Return what is wrong with a number, '' if it is within the tolerance.

    `factors` are {how many times too high: what that means}, beside percentages and thousands.
    """

    def close(value: float) -> bool:
        return math.isclose(value, expected, rel_tol=max(tolerance_ratio, 1e-12), abs_tol=1e-9)

    if close(answer):
        return ""
    if unit == SHARE and close(answer / 100):
        return f"{answer:g} {PERCENTAGE}"
    unit_hint = f": the answer is in {unit}" if unit else ""
    thousand = f"a thousand times off{unit_hint}"
    for factor, meaning in {1000: thousand, 1 / 1000: thousand, **(factors or {})}.items():
        if expected and close(answer / factor):
            return f"{answer:g} is {meaning}"
    return (
        f"{answer:g} is not what this run shows (every run is measured anew, so calculate it from "
        "the variables above)"
    )


RANGE = "$__range"
MAX_TRACES = 10_000


@dataclass(frozen=True)
class _Query:
    """The part that both languages share: run the reference and the answer, then compare."""

    reference: Callable[[Any], str]
    hint: str
    language: ClassVar[str]

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
        problems = (
            problem_of_number(given[labels], value, self.unit, self.tolerance_ratio, factors)
            for labels, value in expected.items()
        )
        return next(filter(None, problems), "")


@dataclass(frozen=True)
class TraceQL(_Query):
    """A query whose spans are counted per trace of the run."""

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
