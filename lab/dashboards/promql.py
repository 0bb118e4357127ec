"""The few shapes of PromQL that panels share. `$` names are Grafana's variables."""

from __future__ import annotations

from lab.dashboards.model import Query

VLLM = 'job=~"$job",model_name=~"$model_name",instance=~"$instance"'
R = "[$__rate_interval]"
QUANTILES = (0.5, 0.95, 0.99)


def rate(metric: str, selector: str = VLLM, by: str = "") -> str:
    """Summed rate of a counter."""
    return f"sum{_by(by)}(rate({metric}{{{selector}}}{R}))"


def ratio(numerator: str, denominator: str) -> str:
    """A quotient that is absent, not NaN, where nothing happened."""
    return f"{numerator} / ({denominator} > 0)"


def mean(metric: str, selector: str = VLLM, by: str = "") -> str:
    """Mean of a histogram over the rate interval; exact, whatever the buckets."""
    return ratio(rate(f"{metric}_sum", selector, by), rate(f"{metric}_count", selector, by))


def quantile(q: float, metric: str, selector: str = VLLM, by: str = "") -> str:
    """Quantile of a histogram: interpolated inside one bucket."""
    groups = f"le,{by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({groups}) (rate({metric}_bucket{{{selector}}}{R})))"


def distribution(metric: str, selector: str = VLLM) -> tuple[Query, ...]:
    """p50, p95, p99 and mean."""
    quantiles = (Query(quantile(q, metric, selector), f"p{q * 100:g}") for q in QUANTILES)
    return (*quantiles, Query(mean(metric, selector), "mean"))


def heat(metric: str, selector: str = VLLM) -> tuple[Query, ...]:
    """Observations a second in each bucket."""
    return (Query(rate(f"{metric}_bucket", selector, "le"), "{{le}}"),)


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""
