"""Blocks of requests, which are resampled whole, since neighbouring requests are not independent.

The block length is chosen by Politis and White (2004, corrected 2009) for the mean of a series,
from the autocorrelation of the requests' residuals in order of time, and is at least the root of
their number. Conversations stay whole.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from statsmodels.tsa.stattools import acf

from lab.comparison.sample import UNKNOWN

MIN_BLOCKS = 6  # of a side; fewer say nothing about the spread between them


def block_length(series: np.ndarray) -> int:
    """Return the number of neighbours to resample together, at least the root of n.

    The root is the usual size of batch means (Flegal and Jones 2010), and holds where few requests
    show little of their autocorrelation. By Politis and White's rule the autocorrelation counts up
    to the lag m after which it stays insignificant, weighted by the flat-top window; the length is
    (2 g^2 / d)^(1/3) n^(1/3).
    """
    n = len(series)
    least = math.ceil(math.sqrt(n))
    if n < 10 or np.ptp(series) == 0:
        return least

    quiet = max(5, round(math.sqrt(math.log10(n))))
    lags = min(n - 1, math.ceil(math.sqrt(n)) + quiet)
    rho = acf(series, nlags=lags, fft=True)[1:]
    significant = np.abs(rho) > 2 * math.sqrt(math.log10(n) / n)
    m = next((k for k in range(lags) if not significant[k : k + quiet].any()), lags)
    if m == 0:
        return least

    k = np.arange(1, min(2 * m, len(rho)) + 1)
    weights = np.clip(2 * (1 - k / (2 * m)), 0.0, 1.0)
    weighted = weights * rho[: len(k)]
    g = 2 * float(np.sum(k * weighted))
    spectrum = 1 + 2 * float(np.sum(weighted))
    d = 4 / 3 * spectrum**2
    if d <= 0 or not math.isfinite(g / d):
        return least
    return max(least, math.ceil((2 * g**2 / d * n) ** (1 / 3)))


def blocks_of(requests: pd.DataFrame, length: int) -> np.ndarray:
    """Return each request's block, numbered over all runs in order of time.

    `requests` has `run`, `session` and `at`. Runs are divided into blocks of at least `length`
    requests; a conversation belongs to the block in which it began.
    """
    began = requests.groupby(["run", "session"])["at"].transform("min")
    rank = began.groupby(requests["run"]).rank(method="first").to_numpy() - 1
    first = pd.Series(rank).groupby([requests["run"], requests["session"]]).transform("min")
    size = requests.groupby("run")["at"].transform("size").to_numpy()
    count = np.maximum(1, size // length)
    within = (first.to_numpy() * count // size).astype(int)
    pairs = pd.MultiIndex.from_arrays([requests["run"], within])
    return pd.factorize(pairs, sort=True)[0]


def same_plan(requests: pd.DataFrame) -> bool:
    """Return whether both sides sent the same questions, in the same order of conversations.

    Then their runs can be resampled together, and what the plan does to both (bursts, long
    questions) does not count as uncertainty. The requests are in order of runs and conversations.
    """
    sides = [requests[requests["is_b"] == is_b] for is_b in (False, True)]
    sizes = [side.groupby("run").size().tolist() for side in sides]
    questions = [side["question"].to_numpy() for side in sides]
    if sizes[0] != sizes[1] or (requests["question"] == UNKNOWN).any():
        return False
    return bool((questions[0] == questions[1]).all())


def resampling_weights(strata: np.ndarray, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each replicate draws each block (replicates, blocks).

    As many blocks are drawn from each stratum as it has.
    """
    weights = np.zeros((replicates, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        shares = np.full(len(members), 1 / len(members))
        weights[:, members] = rng.multinomial(len(members), shares, size=replicates)
    return weights
