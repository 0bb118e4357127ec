"""The few figures with which the report of `lab run` begins, each with its interval.

A notebook shows one with `lab.headline(...)`; the report reads it from the cell's output.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

MIME = "application/vnd.llm-lab.headline+json"
LAGGED = "the driver lagged"
LAGGED_MEANS = f"{LAGGED}, so the latencies contain its own delay"
# {key: (name, unit)}, in the order of the report.
HEADLINES = {
    "ttft_p95": ("p95 of the time to the first token", "s"),
    "e2e_p95": ("p95 of the end-to-end time", "s"),
    "at_slo": ("load that one replica takes within the SLO", "requests per second"),
    "usd_per_thousand": ("price of 1,000 requests at this load", "USD"),
    "right": ("right answers", "%"),
}


@dataclass(frozen=True)
class Headline:
    """One figure: `value` in `low` to `high`, of `n` observations. NaN is shown as not known."""

    key: str
    value: float
    low: float
    high: float
    n: int
    note: str = ""
    warning: str = ""

    @property
    def name(self) -> str:
        """Return what was measured."""
        return HEADLINES[self.key][0]

    @property
    def text(self) -> str:
        """Return the value with its interval and unit."""
        unit = HEADLINES[self.key][1]
        if math.isnan(self.value):
            return "not known"
        if self.value == self.low < self.high:  # known to be between two steps of a sweep
            below = "" if math.isinf(self.high) else f", less than {_number(self.high)}"
            return f"at least {_number(self.low)}{below} {unit}"
        return f"{_number(self.value)} {unit} [{_number(self.low)}, {_number(self.high)}]"

    def __repr__(self) -> str:
        after = "".join(f"; {part}" for part in (self.note, self.warning) if part)
        return f"{self.name}: {self.text}, n = {self.n:,}{after}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        numbers = {k: v for k, v in asdict(self).items() if not _unusual(v)}  # JSON has no NaN
        return {"text/plain": repr(self), MIME: numbers}


def headline(key: str, estimate: Any, n: int, *, note: str = "", run: Any = None) -> Headline:
    """Return a figure for the report, a key of HEADLINES.

    `estimate` has value, low and high: three numbers, or an object with these attributes. A `run`
    whose driver lagged adds a warning, which goes with the figure into the report.
    """
    if hasattr(estimate, "low"):
        estimate = (estimate.value, estimate.low, estimate.high)
    value, low, high = map(float, estimate)
    lagged = run is not None and run.lag.lagged
    return Headline(key, value, low, high, int(n), note, LAGGED_MEANS if lagged else "")


def read(numbers: dict[str, Any]) -> Headline:
    """Return a figure as a notebook saved it."""
    nothing = {"value": math.nan, "low": math.nan, "high": math.inf}
    return Headline(**(nothing | numbers))


def _unusual(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
