"""How much longer with one token more: a straight line that a few stalls cannot bend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lab.errors import FrameError

SEED = 20_261_126
MAX_POINTS = 2_000  # there are n²/2 pairs; beyond this a seeded sample of the points is taken


@dataclass(frozen=True)
class Slope:
    """y = intercept + per_x * x; (`low`, `high`) is the 95 % interval of `per_x`."""

    per_x: float
    low: float
    high: float
    intercept: float
    n: int

    @property
    def is_zero(self) -> bool:
        """Whether no growth at all is inside the interval."""
        return self.low <= 0 <= self.high

    def at(self, x: float) -> float:
        return self.intercept + self.per_x * x


def slope(x: Sequence[float], y: Sequence[float], *, confidence: float = 0.95) -> Slope:
    """The median of the slopes of all pairs of points, with its interval (Theil 1950; Sen 1968, by Kendall's tau).

    Up to 29 % of the points may be stalls without moving it much, where least squares follows a single one. Pairs with
    a missing value are left out. Raises FrameError where fewer than three points or only one x is left.
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    there = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[there], ys[there]
    if len(xs) < 3 or np.ptp(xs) == 0:
        got = f"{len(xs)} points, x from {xs.min() if len(xs) else math.nan:g} to {xs.max() if len(xs) else math.nan:g}"
        raise FrameError(
            "no line can be drawn through these points", got=got, fix="give points of different x"
        )
    n = len(xs)
    if n > MAX_POINTS:
        chosen = np.random.default_rng(SEED).choice(n, MAX_POINTS, replace=False)
        xs, ys = xs[chosen], ys[chosen]
    found = stats.theilslopes(ys, xs, alpha=confidence)
    return Slope(
        float(found.slope),
        float(found.low_slope),
        float(found.high_slope),
        float(found.intercept),
        n,
    )
