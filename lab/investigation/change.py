"""How a signal differs between two times, and since when: effects with intervals, change points.

Points are a data frame with `time` (seconds since the epoch) and `value`. Requests are not
independent of one another, so values are averaged over blocks of time first, and the blocks are
compared (Welch's t-test). Shares are compared by Fisher's exact test.

Where a signal has many keys that are alike, such as tools, each has few values: then one key
borrows strength from all (`Pool`). Its variance is moderated by that of all keys (Smyth 2004, as in
limma), and its share by their common share (the posterior predictive of a beta-binomial model).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

Scale = Literal["ratio", "share", "level"]
Span = tuple[float, float]

MIN_BLOCKS = 3
SPREAD = {"ratio": 0.05, "level": 1e-6}  # least standard deviation of block means, so that constant
# values do not make a trifle significant
GRID = 100  # points in time at which a change is looked for
MAX_WEIGHT = 40  # of one signal's points in the joint search
PULSE_GAIN = 8.0  # of log likelihood, for which a second change (the end) is believed
POOL_WEIGHT = 4.0  # values for which the share of all keys counts in each of them
POOL_FREEDOM = 6.0  # degrees of freedom for which their common variance counts
POOLED = (2, 3)  # values before and after the change that are then enough
INTERVAL_LOSS = 3.0  # of log likelihood, up to which a change point is possible


@dataclass(frozen=True)
class Effect:
    """A difference: after to before as a ratio, or after less before (shares and levels).

    `p_value` is NaN where there are too few values, and `n_before`, `n_after` say how many.
    """

    before: float = math.nan
    after: float = math.nan
    size: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan
    n_before: int = 0
    n_after: int = 0


@dataclass(frozen=True)
class Pool:
    """What is known of all keys of a signal before a change: their share, or their variance."""

    share: float = math.nan
    variance: float = math.nan


Values = tuple[np.ndarray, np.ndarray]  # times and values


def within(points: pd.DataFrame, spans: Sequence[Span]) -> Values:
    """Return times and values in any of these spans (start included, end not)."""
    time = points["time"].to_numpy(float)
    mask = np.zeros(len(time), dtype=bool)
    for start, end in spans:
        mask |= (time >= start) & (time < end)
    return time[mask], points["value"].to_numpy(float)[mask]


def pool(keys: Sequence[pd.DataFrame], before: Span, scale: Scale, floor: float) -> Pool:
    """Return what the points of all keys of a signal have in common before a change."""
    values = [within(points, [before])[1] for points in keys]
    known = [part for part in values if len(part)]
    if not known:
        return Pool()
    if scale == "share":
        return Pool(share=float(np.concatenate(known).mean()))
    scaled = [_scaled(part, scale, floor) for part in known]
    freedom = sum(len(part) - 1 for part in scaled)
    if not freedom:
        return Pool()
    squares = sum(float(((part - part.mean()) ** 2).sum()) for part in scaled)
    return Pool(variance=max(squares / freedom, SPREAD[scale] ** 2))


def compare(
    points: pd.DataFrame,
    before: Sequence[Span],
    after: Sequence[Span],
    scale: Scale,
    floor: float,
    pooled: Pool | None = None,
) -> Effect:
    """Return how the points differ between two times.

    `floor` is added to values on the scale `ratio`: below it, differences do not matter. `pooled`
    is what other keys of the signal tell of this one.
    """
    a = within(points, before)
    b = within(points, after)
    if not len(a[0]) or not len(b[0]):
        return Effect(n_before=len(a[0]), n_after=len(b[0]))
    few = len(a[0]) < POOLED[0] or len(b[0]) < POOLED[1]
    pooled = None if few else pooled
    if scale == "share":
        return _compare_shares(a[1], b[1], pooled)
    return _compare_blocks(a, b, block_s(before, after), scale, floor, pooled)


def block_s(before: Sequence[Span], after: Sequence[Span]) -> float:
    """Return the length of the blocks: a tenth of the shorter time, at least 2 s."""
    return max(2.0, min(_length(before), _length(after)) / 10)


def _length(spans: Sequence[Span]) -> float:
    return sum(end - start for start, end in spans)


def _compare_blocks(
    a: Values, b: Values, block: float, scale: Scale, floor: float, pooled: Pool | None
) -> Effect:
    blocks = [_block_means(part, block, scale, floor) for part in (a, b)]
    sizes = [len(part) for part in blocks]
    before = float(a[1].mean())
    after = float(b[1].mean())
    means = [part.mean() for part in blocks]
    difference = float(means[1] - means[0])
    shared = pooled.variance if pooled is not None else math.nan
    if min(sizes) < MIN_BLOCKS and math.isnan(shared):
        size = float(_unscaled(np.array(difference), scale))
        return Effect(before, after, size, n_before=len(a[1]), n_after=len(b[1]))

    freedoms = np.array(sizes) - 1.0
    variances = np.array([part.var(ddof=1) if len(part) > 1 else 0.0 for part in blocks])
    if not math.isnan(shared):
        total = freedoms * variances + POOL_FREEDOM * shared
        freedoms = freedoms + POOL_FREEDOM
        variances = total / freedoms
    errors = np.maximum(variances, SPREAD[scale] ** 2) / np.array(sizes)
    error = math.sqrt(errors.sum())
    freedom = float(errors.sum() ** 2 / (errors**2 / freedoms).sum())
    reach = float(stats.t.ppf(0.975, freedom)) * error
    p_value = 2 * float(stats.t.sf(abs(difference) / error, freedom))
    values = _unscaled(difference + reach * np.array([0.0, -1.0, 1.0]), scale)
    size, low, high = map(float, values)
    return Effect(before, after, size, low, high, p_value, len(a[1]), len(b[1]))


def _block_means(points: Values, block: float, scale: Scale, floor: float) -> np.ndarray:
    time, values = points
    number = np.floor(time / block).astype(np.int64)
    place = np.unique(number, return_inverse=True)[1]
    sums = np.bincount(place, weights=_scaled(values, scale, floor))
    return sums / np.bincount(place)


def _scaled(values: np.ndarray, scale: Scale, floor: float) -> np.ndarray:
    return np.log(np.maximum(values, 0.0) + floor) if scale == "ratio" else values


def _unscaled(differences: np.ndarray, scale: Scale) -> np.ndarray:
    """Return differences of scaled values as a person reads them: ratios on that scale."""
    return np.exp(np.clip(differences, -50, 50)) if scale == "ratio" else differences


def _compare_shares(a: np.ndarray, b: np.ndarray, pooled: Pool | None) -> Effect:
    counts = [round(float(a.sum())), round(float(b.sum()))]
    sizes = [len(a), len(b)]
    before = counts[0] / sizes[0]
    after = counts[1] / sizes[1]
    if before == after:
        return Effect(before, after, 0.0, 0.0, 0.0, 1.0, *sizes)
    table = [[k, n - k] for k, n in zip(counts, sizes, strict=True)]
    p_value = float(stats.fisher_exact(table).pvalue)
    if pooled is not None:
        p_value = min(p_value, _predictive_p_value(counts, sizes, pooled.share))
    low, high = confint_proportions_2indep(
        counts[1], sizes[1], counts[0], sizes[0], method="newcomb", compare="diff"
    )
    return Effect(before, after, after - before, float(low), float(high), p_value, *sizes)


def _predictive_p_value(counts: Sequence[int], sizes: Sequence[int], share: float) -> float:
    """Return how unlikely the second count is after the first, if keys have about this share."""
    prior = POOL_WEIGHT * min(max(share, 0.05), 0.95)
    failed = prior + counts[0]
    passed = POOL_WEIGHT - prior + sizes[0] - counts[0]
    predicted = stats.betabinom(sizes[1], failed, passed)
    tails = float(predicted.sf(counts[1] - 1)), float(predicted.cdf(counts[1]))
    return min(1.0, 2 * min(tails))


@dataclass(frozen=True)
class Onset:
    """When a change began, with an interval, and when it ended (the window's end: it did not)."""

    at: float
    low: float
    high: float
    ended: float


def find_onset(
    series: Sequence[tuple[pd.DataFrame, Scale, float]], window: Span, known_from: float
) -> Onset | None:
    """Return when these signals changed within a window; None without enough points.

    `series` has (points, scale, floor) of each signal, with the points before the window too, from
    `known_from` on, where the change may have begun as well. The change is a step, or a step and
    its end: the mean of every signal differs between inside and outside. The times with the
    greatest likelihood (normal errors) of all signals together are returned, with the times whose
    likelihood is not much smaller as the interval.
    """
    start, end = known_from, window[1]
    grid = np.linspace(start, end, max(3, min(GRID, round(end - start)) + 1))
    total = np.zeros((len(grid), len(grid)))
    used = 0
    for points, scale, floor in series:
        likelihood = _likelihood(points, scale, floor, grid)
        if likelihood is not None:
            total += likelihood
            used += 1
    if not used:
        return None

    is_pair = np.triu(np.ones_like(total, dtype=bool), k=1)
    total[~is_pair] = -np.inf
    steps = total[:-1, -1]
    first, last = int(np.argmax(steps)), len(grid) - 1
    if total.max() > steps.max() + PULSE_GAIN:
        first, last = map(int, np.unravel_index(np.argmax(total), total.shape))
    profile = total[:, last]
    possible = np.flatnonzero(profile >= profile[first] - INTERVAL_LOSS)
    step = grid[1] - grid[0]
    low = float(grid[possible[0]] - step)
    return Onset(float(grid[first]), low, float(grid[possible[-1]] + step), float(grid[last]))


def _likelihood(
    points: pd.DataFrame, scale: Scale, floor: float, grid: np.ndarray
) -> np.ndarray | None:
    """Return the log likelihood (of a change over none) of each (begin, end) on the grid."""
    time, values = within(points, [(-math.inf, grid[-1])])
    n = len(time)
    if n < 2 * MIN_BLOCKS:
        return None
    order = np.argsort(time, kind="stable")
    time = time[order]
    values = _scaled(values[order], scale, floor)
    values = values - values.mean()
    whole = float((values**2).sum())
    if whole < 1e-12:
        return None
    place = np.searchsorted(time, grid)
    sums = np.concatenate(([0.0], np.cumsum(values)))[place]
    count = place[None, :] - place[:, None]
    inside = sums[None, :] - sums[:, None]
    usable = (count >= 1) & (count < n)
    safe = np.where(usable, count, 1)
    gain = np.where(usable, inside**2 / safe + inside**2 / np.maximum(n - safe, 1), 0.0)
    weight = min(n, MAX_WEIGHT) / 2
    return -weight * np.log(np.clip(1 - gain / whole, 0.02, 1.0))
