"""Shares of outcomes with their intervals, and how well tools were used. Ground truth is judged elsewhere
(`lab.world.judge`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import pandas as pd
from scipy import stats

from lab.errors import FrameError

# Verdicts whose True is what one wants; the others of a judgement frame count what went wrong.
VERDICTS = ("right_tool", "arguments_exact", "answer_states")
FAULTS = ("needless_call", "missing_call", "not_offered_call", "malformed")
NO_TOOL = "(none)"


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """(share, low, high) of a binomial outcome: Wilson's score interval (Wilson 1927), which holds for few
    observations and for shares near 0 and 1 too. (NaN, 0, 1) of none: then nothing is known.

    centre = (p + z²/2n) / (1 + z²/n), half = z / (1 + z²/n) * sqrt(p(1-p)/n + z²/4n²).
    """
    if not 0 <= successes <= n:
        raise FrameError("successes must be between 0 and n", got=f"{successes} of {n}")
    if n == 0:
        return math.nan, 0.0, 1.0
    z = float(stats.norm.ppf(1 - (1 - confidence) / 2))
    p, scale = successes / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the formula gives the end itself; rounding must not push the share outside its own interval.
    return p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def share_table(
    frame: pd.DataFrame, outcomes: Sequence[str], *, by: Sequence[str] = ()
) -> pd.DataFrame:
    """The share of True in each of these columns, one row an outcome (and group), the outcome as index.

    Columns: those of `by`, `rate_ratio`, `low_ratio`, `high_ratio` (Wilson, 95 %), `successes`, `n`. Missing values are
    left out of n. Raises FrameError for a column that is not there.
    """
    if missing := [name for name in (*outcomes, *by) if name not in frame]:
        raise FrameError(
            f"the frame lacks {', '.join(missing)}", got=", ".join(map(str, frame.columns))
        )
    groups = frame.groupby(list(by), observed=True) if by else [((), frame)]
    rows = []
    for key, part in groups:
        for outcome in outcomes:
            known = part[outcome].dropna().astype(bool)
            share, low, high = wilson(int(known.sum()), len(known))
            rows.append([outcome, *key, share, low, high, int(known.sum()), len(known)])
    columns = ["outcome", *by, "rate_ratio", "low_ratio", "high_ratio", "successes", "n"]
    return pd.DataFrame(rows, columns=columns).set_index("outcome")


def tool_confusion(
    expected: Sequence[Sequence[str]], called: Sequence[Sequence[str]]
) -> pd.DataFrame:
    """Which tool was called where which was expected: counts, expected tools as rows, called ones as columns.

    Calls are compared position by position; what one side lacks is '(none)'. The row and column '(none)' are there in
    every case, so that needless and missing calls always show.
    """
    pairs = [
        (e, c)
        for wanted, made in zip(expected, called, strict=True)
        for e, c in _aligned(list(wanted), list(made))
    ]
    names = sorted({name for pair in pairs for name in pair} - {NO_TOOL})
    table = pd.DataFrame(
        0, index=pd.Index([*names, NO_TOOL], name="expected"), columns=[*names, NO_TOOL]
    )
    for e, c in pairs:
        table.loc[e, c] += 1
    table.columns.name = "called"
    return table


def _aligned(wanted: list[str], made: list[str]) -> list[tuple[str, str]]:
    pairs = list(zip_longest(wanted, made, fillvalue=NO_TOOL))
    return pairs or [(NO_TOOL, NO_TOOL)]


@dataclass(frozen=True)
class PairedDifference:
    """The same requests answered twice. `difference_ratio` is share(b) - share(a), `p_value` that of McNemar's test."""

    only_a: int
    only_b: int
    n: int
    difference_ratio: float
    p_value: float


def paired_difference(a: Sequence[bool], b: Sequence[bool]) -> PairedDifference:
    """Does b do better than a on the same requests? McNemar's exact test: under no difference, each request on which
    they disagree is a fair coin (McNemar 1947; exact form: binomial test on the discordant pairs). p is 1 where they
    never disagree."""
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if first.shape != second.shape:
        raise FrameError(
            "a paired test needs the same requests", got=f"{len(first)} and {len(second)} outcomes"
        )
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    n, discordant = len(first), only_a + only_b
    p_value = float(stats.binomtest(only_b, discordant).pvalue) if discordant else 1.0
    return PairedDifference(only_a, only_b, n, (only_b - only_a) / n if n else math.nan, p_value)
