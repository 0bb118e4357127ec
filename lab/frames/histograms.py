"""Classic Prometheus histograms as tables of buckets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.frames.counters import increase_exact
from lab.frames.samples import AnswerLike


def histogram_frame(
    answer: AnswerLike, start: float | datetime, end: float | datetime, *, by: Sequence[str] = ()
) -> pd.DataFrame:
    """The observations between two instants, one row a bucket, summed over all labels but those in `by`.

    `answer` holds raw samples of `<histogram>_bucket` (`Prometheus.samples`). Columns: those of `by`, then `lower` and
    `upper` (the bucket holds values in (lower, upper]; the first lower bound is 0, the last upper one inf), `count`
    (observations in this bucket alone) and `cumulative`. In order of `by` and `upper`.

    Raises FrameError where there is no `le` label, a label of `by` is missing, or buckets contradict each other.
    """
    buckets = increase_exact(answer, start, end)
    if buckets.empty:
        return pd.DataFrame(
            {**{b: [] for b in by}, "lower": [], "upper": [], "count": [], "cumulative": []}
        )
    missing = [name for name in ("le", *by) if name not in buckets]
    if missing:
        raise FrameError(
            f"these samples have no label {', '.join(missing)}",
            got=f"labels {', '.join(c for c in buckets.columns if c not in ('increase', 'resets', 'from_zero'))}",
            fix="ask for the samples of a histogram's `_bucket` series",
        )
    buckets["upper"] = buckets["le"].astype(str).astype(float)
    keys = [*by, "upper"]
    table = (
        buckets.groupby(keys, observed=True, sort=True)["increase"]
        .sum()
        .rename("cumulative")
        .reset_index()
    )
    groups = table.groupby(list(by) or np.zeros(len(table)), observed=True, sort=False)
    table["lower"] = groups["upper"].shift(fill_value=0.0)
    table["count"] = table["cumulative"] - groups["cumulative"].shift(fill_value=0.0)
    if (table["count"] < 0).any():
        raise FrameError(
            "the buckets of a histogram contradict each other: a wider one counts less",
            got=table[table["count"] < 0].head(3).to_string(index=False),
            fix="sum only over series with the same bucket bounds (`by` the label that tells versions apart)",
        )
    if not np.isinf(groups["upper"].max()).all():
        raise FrameError(
            "a histogram has no +Inf bucket", got=f"bounds {sorted(table.upper.unique())}"
        )
    return table[[*by, "lower", "upper", "count", "cumulative"]]
