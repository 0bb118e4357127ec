"""Two versions on the same requests: the difference, its interval and test, and how many pairs it takes to see one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from lab.errors import FrameError
from lab.measures.quality import paired_difference, share_table, wilson

MAX_PAIRS = 5000  # who needs more than that will not wait for it
_RIPPLE = 0.06  # of the power, from one number of pairs to the next: the test is of whole numbers
_TAIL = 8.0  # standard deviations of the number of discordant pairs that are summed over


def pair_up(
    a: pd.DataFrame, b: pd.DataFrame, *, on: Sequence[str] = ("scenario_id", "turn_index")
) -> pd.DataFrame:
    """The requests that both frames have, one row each, columns as (`a` or `b`, column), indexed by `on`.

    Raises FrameError where a request is there twice, or none is in both.
    """
    sides = [frame.set_index(list(on)) for frame in (a, b)]
    if any(side.index.has_duplicates for side in sides):
        raise FrameError(
            f"requests are not told apart by {', '.join(on)}", fix="compare one run with one run"
        )
    paired = pd.concat(sides, axis=1, join="inner", keys=["a", "b"])
    if paired.empty:
        raise FrameError(
            "no request is in both runs", fix="drive both with the same seed and number of requests"
        )
    return paired


def compare_paired(pairs: pd.DataFrame, outcomes: Sequence[str]) -> pd.DataFrame:
    """Compare each outcome of `pair_up` between a and b; one row per outcome.

    Everything but `judged_a` and `judged_b` is of the `n` pairs in which both sides were judged, never of all requests:

    - `a_ratio`, `b_ratio`, and `difference_ratio` (b - a) with `low_ratio` and `high_ratio`, Newcombe's 95 % interval
      for paired shares (1998, "Improved confidence intervals for the difference between binomial proportions based on
      paired data", method 10);
    - `only_a`, `only_b`: pairs in which only one side has the outcome;
    - `n`: pairs; `judged_a`, `judged_b`: requests that were judged in a and in b. An outcome that not every request has
      (a recovery needs a tool that failed) may be judged in many requests of either and in few pairs;
    - `p_value` (McNemar, exact; NaN without a pair), and `p_holm`, corrected for looking at all these outcomes at once.
    """
    rows = []
    for outcome in outcomes:
        both = pairs[[("a", outcome), ("b", outcome)]]
        known = both.dropna().astype(bool)
        a = known.iloc[:, 0].to_numpy()
        b = known.iloc[:, 1].to_numpy()
        difference = paired_difference(a, b)
        n = difference.n
        low, high = paired_interval(int((a & b).sum()), difference.only_a, difference.only_b, n)
        judged_a, judged_b = both.notna().sum()
        rows.append(
            {
                "outcome": outcome,
                "a_ratio": a.mean() if n else math.nan,
                "b_ratio": b.mean() if n else math.nan,
                "difference_ratio": difference.difference_ratio,
                "low_ratio": low,
                "high_ratio": high,
                "only_a": difference.only_a,
                "only_b": difference.only_b,
                "n": n,
                "judged_a": judged_a,
                "judged_b": judged_b,
                "p_value": difference.p_value if n else math.nan,
            }
        )
    table = pd.DataFrame(rows).set_index("outcome")
    table["p_holm"] = holm(table["p_value"])
    return table


def paired_shares(
    pairs: pd.DataFrame, outcomes: Sequence[str], *, names: tuple[str, str] = ("a", "b")
) -> pd.DataFrame:
    """Return each outcome's share in a and in b, both of the same pairs: those in which both sides were judged.

    A `share_table` with one more column, `version`, which has these names. To be drawn beside the p-values of
    `compare_paired`, which are of the same pairs; shares of all requests may differ where few pairs were judged.
    """
    tables = []
    for outcome in outcomes:
        known = pairs[[("a", outcome), ("b", outcome)]].dropna()
        for side, name in zip(("a", "b"), names, strict=True):
            judged = pd.DataFrame({outcome: known[side, outcome], "version": name})
            tables.append(share_table(judged, [outcome], by=["version"]))
    return pd.concat(tables)


def paired_interval(both: int, only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """95 % interval of share(b) - share(a) from the four counts of a paired table; (-1, 1) of none.

    Newcombe's method 10: the two Wilson intervals, squared and added, less what the pairs have in common (phi).
    """
    if n == 0:
        return -1.0, 1.0
    neither = n - both - only_a - only_b
    p_b, low_b, high_b = wilson(both + only_b, n)
    p_a, low_a, high_a = wilson(both + only_a, n)
    phi = _phi(both, only_a, only_b, neither)
    below = (p_b - low_b) ** 2 - 2 * phi * (p_b - low_b) * (high_a - p_a) + (high_a - p_a) ** 2
    above = (high_b - p_b) ** 2 - 2 * phi * (high_b - p_b) * (p_a - low_a) + (p_a - low_a) ** 2
    d = p_b - p_a
    return max(-1.0, d - math.sqrt(max(0.0, below))), min(1.0, d + math.sqrt(max(0.0, above)))


def _phi(both: int, only_a: int, only_b: int, neither: int) -> float:
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    product, n = both * neither - only_a * only_b, both + only_a + only_b + neither
    corrected = (
        max(product - n / 2, 0) if product > 0 else product
    )  # Newcombe's correction for continuity
    return corrected / math.sqrt(margins)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values corrected for all of them being looked at: the chance of one false alarm among them stays below the
    level (Holm 1979). NaN stays NaN and does not count."""
    p = np.asarray(p_values, dtype=float)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected = np.full(len(p), math.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected


def power_curve(
    only_a_ratio: float, only_b_ratio: float, pairs: Sequence[int], *, significance: float = 0.05
) -> np.ndarray:
    """Return the power of McNemar's exact test for each of these numbers of pairs.

    The power is the probability that the test finds a difference if the shares of discordant pairs are these. Exact:
    summed over how many pairs disagree (Duffy 1984).
    """
    discordant = only_a_ratio + only_b_ratio
    if not (only_a_ratio >= 0 and only_b_ratio >= 0 and discordant <= 1):  # NaN, too, is none
        raise FrameError(
            "shares of discordant pairs are needed", got=f"{only_a_ratio} and {only_b_ratio}"
        )
    if discordant == 0:
        return np.zeros(len(pairs))
    most = max(pairs)
    seen = _seen_among(np.arange(most + 1), only_b_ratio / discordant, significance)
    power = []
    for n in pairs:
        spread = _TAIL * math.sqrt(n * discordant * (1 - discordant)) + _TAIL
        m = np.arange(
            max(0, int(n * discordant - spread)), min(n, int(n * discordant + spread)) + 1
        )
        power.append(float((stats.binom.pmf(m, n, discordant) * seen[m]).sum()))
    return np.array(power)


def _seen_among(m: np.ndarray, share_b: float, significance: float) -> np.ndarray:
    """The chance that the binomial test of m discordant pairs is significant, where a share of them is b's."""
    few = stats.binom.ppf(significance / 2, m, 0.5)
    few = np.where(
        stats.binom.cdf(few, m, 0.5) > significance / 2, few - 1, few
    )  # the most that is still significant
    return stats.binom.cdf(few, m, share_b) + stats.binom.sf(m - few - 1, m, share_b)


def pairs_to_see(
    only_a_ratio: float, only_b_ratio: float, *, significance: float = 0.05, power: float = 0.8
) -> int | None:
    """The fewest pairs from which on the difference is seen with this probability; None if more than `MAX_PAIRS`.

    The exact test's power goes up and down a little from one number to the next: from this one on it stays above.
    """
    low, high = _around(only_a_ratio, only_b_ratio, significance, power)
    pairs = np.arange(low, high + 1)
    reached = power_curve(only_a_ratio, only_b_ratio, pairs, significance=significance) >= power
    below = np.flatnonzero(~reached)
    first = int(pairs[below[-1]]) + 1 if len(below) else low
    return first if first <= MAX_PAIRS else None


def _around(
    only_a_ratio: float, only_b_ratio: float, significance: float, power: float
) -> tuple[int, int]:
    """Two numbers of pairs between which the power crosses `power`: it goes up and down by less than `_RIPPLE`."""
    steps = np.unique(np.geomspace(1, MAX_PAIRS, 60).round().astype(int))
    reached = power_curve(only_a_ratio, only_b_ratio, steps, significance=significance)
    surely_below, surely_above = reached < power - _RIPPLE, reached > min(power + _RIPPLE, 1 - 1e-9)
    low = int(steps[np.flatnonzero(surely_below)[-1]]) if surely_below.any() else 1
    above = steps[surely_above & (steps > low)]
    return low, int(above[0]) if len(above) else MAX_PAIRS


def pairs_needed(compared: pd.DataFrame, *, power: float = 0.8) -> pd.DataFrame:
    """How many pairs each difference of `compare_paired` takes, were it what was measured; the fewest first.

    Columns: `pairs` (missing: more than `MAX_PAIRS`), `only_a_ratio`, `only_b_ratio` (the shares of discordant pairs),
    and the `difference_ratio`, `low_ratio`, `high_ratio` and `n` that say how far it can be trusted. What no pair
    could be judged in is left out.
    """
    known = compared[compared["n"] > 0]
    table = known[["difference_ratio", "low_ratio", "high_ratio", "n"]].copy()
    table.insert(0, "only_b_ratio", known["only_b"] / known["n"])
    table.insert(0, "only_a_ratio", known["only_a"] / known["n"])
    pairs = [
        pairs_to_see(a, b, power=power)
        for a, b in zip(table["only_a_ratio"], table["only_b_ratio"], strict=True)
    ]
    table.insert(0, "pairs", pd.array(pairs, dtype="Int64"))
    return table.sort_values("pairs", na_position="last", kind="stable")
