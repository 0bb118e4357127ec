"""The PromQL shapes that panels share. Names that begin with `$` are Grafana's variables."""

from __future__ import annotations

from lab.dashboards.model import Query

VLLM = 'job=~"$job",model_name=~"$model_name",instance=~"$instance",engine=~"$engine"'
R = "[$__rate_interval]"
TOKENS_PER_S = "count:tok/s"  # Grafana's unit of a rate of tokens
QUANTILES = (0.5, 0.95, 0.99)


def total(gauge: str, selector: str = VLLM, by: str = "") -> str:
    """Return the sum of a gauge."""
    return f"sum{_by(by)}({gauge}{{{selector}}})"


def rate(metric: str, selector: str = VLLM, by: str = "", window: str = R) -> str:
    """Return the summed per-second rate of a counter."""
    return f"sum{_by(by)}(rate({metric}{{{selector}}}{window}))"


def increase(metric: str, selector: str = VLLM, by: str = "") -> str:
    """Return the summed growth of a counter over the dashboard's time range."""
    return f"sum{_by(by)}(increase({metric}{{{selector}}}[$__range]))"


def ratio(numerator: str, denominator: str) -> str:
    """Return a quotient that is absent, rather than NaN, where the denominator is 0."""
    return f"{numerator} / ({denominator} > 0)"


def share_of(bad: str, everything: str) -> str:
    """Return the share of `bad` in `everything`: 0 if nothing was bad, absent without traffic."""
    return ratio(f"({bad} or vector(0))", everything)


def mean(metric: str, selector: str = VLLM, by: str = "") -> str:
    """Return the mean of a histogram over the rate interval; exact for any buckets."""
    return ratio(rate(f"{metric}_sum", selector, by), rate(f"{metric}_count", selector, by))


def quantile(q: float, metric: str, selector: str = VLLM, by: str = "", window: str = R) -> str:
    """Return a quantile of a histogram, interpolated linearly inside one bucket."""
    groups = f"le,{by}" if by else "le"
    buckets = f"sum by ({groups}) (rate({metric}_bucket{{{selector}}}{window}))"
    return f"histogram_quantile({q}, {buckets})"


def distribution(metric: str, selector: str = VLLM) -> tuple[Query, ...]:
    """Return the queries for p50, p95, p99 and the mean of a histogram."""
    quantiles = [Query(quantile(q, metric, selector), f"p{q * 100:g}") for q in QUANTILES]
    return (*quantiles, Query(mean(metric, selector), "mean"))


def heat(metric: str, selector: str = VLLM) -> tuple[Query, ...]:
    """Return the query of a heatmap: observations per second in each bucket."""
    return (Query(rate(f"{metric}_bucket", selector, "le"), "{{le}}"),)


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""
