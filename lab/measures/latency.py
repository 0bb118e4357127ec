"""Where a request's time went: its stream, its critical path, and its growth with tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from lab.errors import FrameError

SEED = 20_261_126
MAX_POINTS = 2_000  # there are n²/2 pairs; beyond this a seeded sample of the points is taken


@dataclass(frozen=True)
class Slope:
    """y = intercept + per_x * x, fitted to `n` points with x from `x_low` to `x_high`.

    (`low`, `high`) is the 95 % interval of `per_x`. The line is not valid beyond its points.
    """

    per_x: float
    low: float
    high: float
    intercept: float
    n: int
    x_low: float
    x_high: float

    def at(self, x: float) -> float:
        """Return the line's y at x."""
        return self.intercept + self.per_x * x


def slope(
    x: Sequence[float] | np.ndarray | pd.Series,
    y: Sequence[float] | np.ndarray | pd.Series,
    *,
    confidence: float = 0.95,
) -> Slope:
    """Return the median slope of all pairs of points (Theil 1950; Sen 1968), with its interval.

    Up to 29 % of the points may be stalls without moving it much, where least squares follows a
    single one. The interval is by Kendall's tau. Pairs with a missing value are left out. Raises
    FrameError where fewer than three points or a single x is left.
    """
    points = np.stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])
    points = points[:, np.isfinite(points).all(axis=0)]
    n = points.shape[1]
    x_low = float(points[0].min()) if n else math.nan
    x_high = float(points[0].max()) if n else math.nan
    if n < 3 or x_low == x_high:
        raise FrameError(
            "no line can be drawn through these points",
            got=f"{n} points, x from {x_low:g} to {x_high:g}",
            fix="give points of different x",
        )

    if n > MAX_POINTS:
        points = np.random.default_rng(SEED).choice(points, MAX_POINTS, replace=False, axis=1)
    fit = stats.theilslopes(points[1], points[0], alpha=confidence)
    per_x, intercept, low, high = map(float, fit)
    return Slope(per_x, low, high, intercept, n, x_low, x_high)


def slopes_by_half(
    x: Sequence[float] | pd.Series, y: Sequence[float] | pd.Series
) -> tuple[Slope, Slope]:
    """Return the slope up to the median x, and that beyond it.

    Where the two intervals do not meet, one line through all points describes neither half. Prefill
    is such a case: each token attends to all before it, so a token of a long prompt costs more than
    one of a short prompt. Raises FrameError where a half has fewer than three points or a single x.
    """
    xs = np.asarray(x, dtype=float)
    ys = np.asarray(y, dtype=float)
    lower = xs <= np.nanmedian(xs)
    return slope(xs[lower], ys[lower]), slope(xs[~lower], ys[~lower])


def token_latencies(records: pd.DataFrame) -> pd.DataFrame:
    """Return TTFT, TPOT and E2E of each request as its client saw them.

    Columns: `request_id`, `ttft_s`, `tpot_s`, `e2e_s`. TPOT (time per output token) is a mean per
    request: (last token - first token) / (tokens - 1), NaN for fewer than two tokens and for
    tokens that all came in a single chunk. The inter-token latency (ITL) is not a number per
    request but one per gap: see `stream_gaps`.
    """
    gaps = (records["completion_tokens"] - 1).where(records["completion_tokens"] > 1)
    table = records[["request_id", "ttft_s", "e2e_s"]].copy()
    stream_s = records["last_token_at"] - records["first_token_at"]
    table.insert(2, "tpot_s", stream_s.where(stream_s > 0) / gaps)
    return table


def stream_gaps(records: pd.DataFrame) -> pd.DataFrame:
    """Return one row per pause between two chunks of a stream.

    Columns: `request_id`, `position` (1: after the first chunk), `gap_s`.

    `records` are the driver's (`chunk_offsets_s`: a JSON list of seconds). A chunk is what the
    server sent at once: one that holds tokens back (a parser that waits for a whole tool name)
    sends several in one chunk, after a longer pause. Requests with fewer than two chunks have no
    pause. Raises FrameError without that column.
    """
    gaps = [np.diff(offsets) for offsets in _chunk_offsets(records)]
    sizes = [len(each) for each in gaps]
    positions = [np.arange(1, size + 1) for size in sizes]
    return pd.DataFrame(
        {
            "request_id": np.repeat(records["request_id"].to_numpy(), sizes),
            "position": np.concatenate([np.empty(0, dtype="int64"), *positions]),
            "gap_s": np.concatenate([np.empty(0), *gaps]),
        }
    )


def longest_gaps(records: pd.DataFrame) -> pd.DataFrame:
    """Return the longest pause in each request's stream, one row per request.

    Columns: `request_id`, `chunks`, `longest_gap_s` (NaN for fewer than two chunks), and
    `share_ratio`: that pause's share of the time from first to last chunk.
    """
    by_request = stream_gaps(records).groupby("request_id")["gap_s"].agg(["max", "sum"])
    table = by_request.reindex(records["request_id"]).reset_index()
    table["chunks"] = [len(offsets) for offsets in _chunk_offsets(records)]
    table["share_ratio"] = table["max"] / table["sum"].where(table["sum"] > 0)
    table = table.rename(columns={"max": "longest_gap_s"})
    return table[["request_id", "chunks", "longest_gap_s", "share_ratio"]]


def critical_path(trees: pd.DataFrame) -> pd.DataFrame:
    """Return which spans hold the critical path of many traces, the longest first.

    `trees` holds the rows of `lab.frames.trace_tree` of any number of traces (`critical_s`: the
    time that a span itself spends on its trace's critical path). One row per service and span name:

    - `service`, `name`;
    - `critical_s`, summed, and `share_ratio` of the sum over all spans;
    - `traces`: in how many it is on the path at all;
    - `duration_s`: sum of the spans' whole durations. What is long but not critical could be
      removed without a user noticing.

    `attrs["root_s"]` is the sum of the roots' durations, which `critical_s` adds up to where
    children lie inside their parents. Raises FrameError for rows that are not trees.
    """
    if missing := {"trace_id", "service", "name", "critical_s", "duration_s", "depth"} - set(trees):
        raise FrameError(
            f"these are no trees: {', '.join(sorted(missing))} missing",
            fix="make them with trace_tree",
        )

    keys = ["service", "name"]
    on_path = trees["trace_id"].where(trees["critical_s"] > 0)
    named = trees.assign(traces=on_path).astype({key: str for key in keys})
    table = named.groupby(keys, as_index=False).agg(
        critical_s=("critical_s", "sum"),
        traces=("traces", "nunique"),
        duration_s=("duration_s", "sum"),
    )
    table.insert(3, "share_ratio", table["critical_s"] / table["critical_s"].sum())
    table = table.sort_values("critical_s", ascending=False, ignore_index=True)
    table.attrs["root_s"] = float(trees.loc[trees["depth"] == 0, "duration_s"].sum())
    return table


def blocking_prefills(
    turns: pd.DataFrame, *, min_wait_s: float = 0.5, tolerance_s: float = 0.1
) -> pd.DataFrame:
    """Return the model calls whose prefill held up others (head-of-line blocking).

    `turns` is a turn frame of one engine. A call was held up where it waited at least `min_wait_s`,
    was scheduled within `tolerance_s` after a long prefill's end, and spent most of its wait beside
    that prefill. Queues that end one after another are no such case: there the engine lacked room.

    One row per culprit, the worst first: `trace_id`, `prompt_tokens`, `prefill_s`,
    `first_token_at`, `victims` (calls held up), `waited_s` (their waits, in total). Calls without
    the engine's times are left out.
    """
    timed = turns.dropna(subset=["queue_s", "prefill_s", "scheduled_at", "first_token_at"])
    culprits = timed[timed["prefill_s"] >= min_wait_s / 2]
    waiting = timed[timed["queue_s"] >= min_wait_s]
    columns = ["trace_id", "prompt_tokens", "prefill_s", "scheduled_at", "first_token_at"]
    pairs = pd.merge_asof(
        waiting[["queue_s", "scheduled_at"]]
        .rename(columns={"scheduled_at": "at"})
        .sort_values("at"),
        culprits[columns].assign(at=culprits["first_token_at"]).sort_values("at"),
        on="at",
        tolerance=tolerance_s,
    ).dropna(subset="first_token_at")

    arrived = pairs["at"] - pairs["queue_s"]
    beside_s = pairs["first_token_at"] - np.maximum(arrived, pairs["scheduled_at"])
    pairs = pairs[beside_s >= pairs["queue_s"] / 2]
    table = pairs.groupby(["trace_id", "prompt_tokens", "prefill_s", "first_token_at"])["queue_s"]
    table = table.agg(victims="size", waited_s="sum").reset_index()
    table["prompt_tokens"] = table["prompt_tokens"].astype("int64")
    return table.sort_values("waited_s", ascending=False, ignore_index=True)


def _chunk_offsets(records: pd.DataFrame) -> list[np.ndarray]:
    if "chunk_offsets_s" not in records:
        raise FrameError(
            "these records have no chunk_offsets_s",
            fix="take them from Run.records, not a request frame",
        )
    offsets = []
    for cell in records["chunk_offsets_s"]:
        seconds = json.loads(cell) if isinstance(cell, str) else cell
        offsets.append(np.asarray(seconds, dtype=float))
    return offsets
