"""How much longer with one more token: a straight line that a few stalls cannot bend."""

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
    """y = intercept + per_x * x, fitted to `n` points with x from `x_low` to `x_high`.

    (`low`, `high`) is the 95 % interval of `per_x`. The line says nothing beyond the range of its points.
    """

    per_x: float
    low: float
    high: float
    intercept: float
    n: int
    x_low: float
    x_high: float

    @property
    def is_zero(self) -> bool:
        """Whether the interval includes no growth at all."""
        return self.low <= 0 <= self.high

    def at(self, x: float) -> float:
        """Return the line's y at x."""
        return self.intercept + self.per_x * x


def slope(x: Sequence[float], y: Sequence[float], *, confidence: float = 0.95) -> Slope:
    """Return the median slope of all pairs of points, with its interval (Theil 1950; Sen 1968, by Kendall's tau).

    Up to 29 % of the points may be stalls without moving it much, where least squares follows a single one. Pairs with
    a missing value are left out. Raises FrameError where fewer than three points or a single x is left.
    """
    xs = np.asarray(x, dtype=float)
    ys = np.asarray(y, dtype=float)
    complete = np.isfinite(xs) & np.isfinite(ys)
    xs = xs[complete]
    ys = ys[complete]

    n = len(xs)
    x_low = float(xs.min()) if n else math.nan
    x_high = float(xs.max()) if n else math.nan
    if n < 3 or x_low == x_high:
        raise FrameError(
            "no line can be drawn through these points",
            got=f"{n} points, x from {x_low:g} to {x_high:g}",
            fix="give points of different x",
        )

    if n > MAX_POINTS:
        chosen = np.random.default_rng(SEED).choice(n, MAX_POINTS, replace=False)
        xs = xs[chosen]
        ys = ys[chosen]
    fit = stats.theilslopes(ys, xs, alpha=confidence)
    per_x, intercept, low, high = map(float, fit)
    return Slope(per_x, low, high, intercept, n, x_low, x_high)


def slopes_by_half(x: Sequence[float], y: Sequence[float]) -> tuple[Slope, Slope]:
    """Return the slope up to the median x, and that beyond it.

    Where the two intervals do not meet, one line through all points describes neither half. Prefill is such a case:
    each token attends to all before it, so a token of a long prompt costs more than one of a short prompt. Raises
    FrameError where a half has fewer than three points or a single x.
    """
    xs = np.asarray(x, dtype=float)
    ys = np.asarray(y, dtype=float)
    lower = xs <= np.nanmedian(xs)
    return slope(xs[lower], ys[lower]), slope(xs[~lower], ys[~lower])
