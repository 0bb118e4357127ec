"""Shares of outcomes with their intervals, and two versions compared on the same requests.

Ground truth is judged elsewhere (`lab.world.judge`). Signals are what telemetry alone shows without
it: of each request, how two versions differ in them, and how well each picks out wrong requests.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from lab.errors import FrameError, require_columns

NO_TOOL = "(none)"
MAX_PAIRS = 5000  # a comparison that needs more is not going to be run


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return (share, low, high) of a binomial outcome, with Wilson's score interval (Wilson 1927).

    It holds for few observations and for shares near 0 and 1 too. (NaN, 0, 1) where n is 0.
    """
    if not 0 <= successes <= n:
        raise FrameError("successes must be between 0 and n", got=f"{successes} of {n}")
    if n == 0:
        return math.nan, 0.0, 1.0
    interval = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    share = successes / n
    # Rounding must not push a share of 0 or 1 outside its own interval.
    return share, min(share, float(interval.low)), max(share, float(interval.high))


def share_table(
    frame: pd.DataFrame, outcomes: Sequence[str], *, by: Sequence[str] = ()
) -> pd.DataFrame:
    """Return the share of True in each of these columns, one row per outcome (and group).

    The index is the outcome. Columns: those of `by`, `rate_ratio`, `low_ratio`, `high_ratio`
    (Wilson, 95 %), `successes`, `n`. Missing values are left out of n. Raises FrameError for a
    column that is missing.
    """
    got = ", ".join(map(str, frame.columns))
    require_columns(frame, (*outcomes, *by), "the frame lacks {}", got=got)

    groups = frame.groupby(list(by), observed=True) if by else [((), frame)]
    rows = []
    for key, part in groups:
        for outcome in outcomes:
            known = part[outcome].dropna().astype(bool)
            successes = int(known.sum())
            rows.append([outcome, *key, *wilson(successes, len(known)), successes, len(known)])
    columns = ["outcome", *by, "rate_ratio", "low_ratio", "high_ratio", "successes", "n"]
    return pd.DataFrame(rows, columns=columns).set_index("outcome")


def tool_confusion(
    expected: Sequence[Sequence[str]], called: Sequence[Sequence[str]]
) -> pd.DataFrame:
    """Count which tool was called where which was expected: expected as rows, called as columns.

    Calls are compared position by position; what one side lacks is '(none)'. The row and column
    '(none)' are always there, so that needless and missing calls show.
    """
    pairs: list[tuple[str, str]] = []
    for should, did in zip(expected, called, strict=True):
        aligned = zip_longest(should, did, fillvalue=NO_TOOL)
        pairs += list(aligned) or [(NO_TOOL, NO_TOOL)]

    frame = pd.DataFrame(pairs, columns=["expected", "called"])
    names = [*sorted(set(frame.to_numpy().flat) - {NO_TOOL}), NO_TOOL]
    counts = pd.crosstab(frame["expected"], frame["called"])
    return counts.reindex(index=names, columns=names, fill_value=0)


def pair_up(
    a: pd.DataFrame, b: pd.DataFrame, *, on: Sequence[str] = ("scenario_id", "turn_index")
) -> pd.DataFrame:
    """Return the requests that both frames have, one row each, indexed by `on`.

    Columns are (`a` or `b`, column). Raises FrameError where a request occurs twice, or none is in
    both.
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

    Everything but `judged_a` and `judged_b` is of the `n` pairs in which both sides were judged,
    never of all requests:

    - `a_ratio`, `b_ratio`, and `difference_ratio` (b - a) with its 95 % interval `low_ratio`,
      `high_ratio` (`paired_interval`);
    - `only_a`, `only_b`: pairs in which only one side has the outcome;
    - `n`: pairs; `judged_a`, `judged_b`: requests that were judged in a and in b. An outcome that
      not every request has (a recovery needs a tool that failed) may be judged in many requests of
      either and in few pairs;
    - `p_value` (McNemar, exact; NaN without a pair), and `p_holm`, corrected for looking at all
      these outcomes at once.
    """
    rows = []
    for outcome in outcomes:
        both = pairs[[("a", outcome), ("b", outcome)]]
        known = both.dropna().astype(bool)
        a = known.iloc[:, 0].to_numpy()
        b = known.iloc[:, 1].to_numpy()
        n = len(known)
        only_a = int((a & ~b).sum())
        only_b = int((b & ~a).sum())
        p_value = float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue)
        low, high = paired_interval(int((a & b).sum()), only_a, only_b, n)
        judged_a, judged_b = both.notna().sum()
        rows.append(
            {
                "outcome": outcome,
                "a_ratio": a.mean() if n else math.nan,
                "b_ratio": b.mean() if n else math.nan,
                "difference_ratio": (only_b - only_a) / n if n else math.nan,
                "low_ratio": low,
                "high_ratio": high,
                "only_a": only_a,
                "only_b": only_b,
                "n": n,
                "judged_a": judged_a,
                "judged_b": judged_b,
                "p_value": p_value if n else math.nan,
            }
        )
    table = pd.DataFrame(rows).set_index("outcome")
    table["p_holm"] = holm(table["p_value"])
    return table


def paired_shares(
    pairs: pd.DataFrame, outcomes: Sequence[str], *, names: tuple[str, str] = ("a", "b")
) -> pd.DataFrame:
    """Return each outcome's share in a and in b, both of the pairs in which both were judged.

    A `share_table` with one more column, `version`, which has these names. To be drawn beside the
    p-values of `compare_paired`, which are of the same pairs; shares of all requests may differ
    where few pairs were judged.
    """
    tables = []
    for outcome in outcomes:
        known = pairs[[("a", outcome), ("b", outcome)]].dropna()
        for side, name in zip(("a", "b"), names, strict=True):
            judged = pd.DataFrame({outcome: known[side, outcome], "version": name})
            tables.append(share_table(judged, [outcome], by=["version"]))
    return pd.concat(tables)


def paired_interval(both: int, only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of share(b) - share(a) from the four counts of a paired table.

    Newcombe's method 10 (1998, "Improved confidence intervals for the difference between binomial
    proportions based on paired data"): the two Wilson intervals, squared and added, less what the
    pairs have in common (phi). (-1, 1) where n is 0.
    """
    if n == 0:
        return -1.0, 1.0
    p_a, low_a, high_a = wilson(both + only_a, n)
    p_b, low_b, high_b = wilson(both + only_b, n)
    phi = _phi(both, only_a, only_b, n)
    difference = p_b - p_a
    return (
        max(-1.0, difference - _reach(p_b - low_b, high_a - p_a, phi)),
        min(1.0, difference + _reach(high_b - p_b, p_a - low_a, phi)),
    )


def _reach(b: float, a: float, phi: float) -> float:
    return math.sqrt(max(0.0, b**2 - 2 * phi * b * a + a**2))


def _phi(both: int, only_a: int, only_b: int, n: int) -> float:
    neither = n - both - only_a - only_b
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    product: float = both * neither - only_a * only_b
    if product > 0:
        product = max(product - n / 2, 0)  # Newcombe's correction for continuity
    return product / math.sqrt(margins)


def holm(p_values: Sequence[float] | pd.Series) -> np.ndarray:
    """Return p-values corrected for looking at all of them (Holm 1979).

    The probability of one false alarm among them stays below the level. NaN stays NaN and does not
    count. Not by statsmodels' multipletests, which collects garbage in every call (v0.14).
    """
    p = np.asarray(p_values, dtype=float)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected = np.full(len(p), math.nan)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected


def power_curve(
    only_a_ratio: float,
    only_b_ratio: float,
    pairs: Sequence[int] | np.ndarray,
    *,
    significance: float = 0.05,
) -> np.ndarray:
    """Return the power of McNemar's exact test for each of these numbers of pairs.

    The power is the probability that the test finds a difference if the shares of discordant pairs
    are these. Exact: summed over how many pairs disagree (Duffy 1984). Raises FrameError for shares
    that are not.
    """
    discordant = only_a_ratio + only_b_ratio
    if not (only_a_ratio >= 0 and only_b_ratio >= 0 and discordant <= 1):  # also refuses NaN
        raise FrameError(
            "shares of discordant pairs are needed", got=f"{only_a_ratio} and {only_b_ratio}"
        )
    if discordant == 0:
        return np.zeros(len(pairs))

    m = np.arange(max(pairs) + 1)
    significant = _significant_among(m, only_b_ratio / discordant, significance)
    weights = (m == 0).astype(float)  # how probably so many pairs disagree, of n
    power = np.zeros(len(m))
    for n in m[1:]:
        weights[1:] = (1 - discordant) * weights[1:] + discordant * weights[:-1]
        weights[0] *= 1 - discordant
        power[n] = weights @ significant
    return power[np.asarray(pairs)]


def _significant_among(m: np.ndarray, share_b: float, significance: float) -> np.ndarray:
    """Return how probably the binomial test of m discordant pairs is significant, at b's share."""
    few = stats.binom.ppf(significance / 2, m, 0.5)
    # The largest count that is still significant.
    few = np.where(stats.binom.cdf(few, m, 0.5) > significance / 2, few - 1, few)
    return stats.binom.cdf(few, m, share_b) + stats.binom.sf(m - few - 1, m, share_b)


def pairs_to_see(
    only_a_ratio: float, only_b_ratio: float, *, significance: float = 0.05, power: float = 0.8
) -> int | None:
    """Return the fewest pairs from which on the difference is found with this probability.

    None if more than `MAX_PAIRS`. The power of the exact test goes up and down a little from one
    number to the next: from the returned one on it stays above.
    """
    pairs = np.arange(1, MAX_PAIRS + 1)
    reached = power_curve(only_a_ratio, only_b_ratio, pairs, significance=significance) >= power
    first = int(pairs[~reached].max(initial=0)) + 1
    return first if first <= MAX_PAIRS else None


def pairs_needed(compared: pd.DataFrame, *, power: float = 0.8) -> pd.DataFrame:
    """Return how many pairs each difference of `compare_paired` needs, the fewest first.

    The measured shares are taken for the truth. Columns: `pairs` (missing: more than `MAX_PAIRS`),
    `only_a_ratio`, `only_b_ratio` (the shares of discordant pairs), and the `difference_ratio`,
    `low_ratio`, `high_ratio` and `n` that say how far it can be trusted. Outcomes without a judged
    pair are left out.
    """
    known = compared[compared["n"] > 0]
    table = known[["difference_ratio", "low_ratio", "high_ratio", "n"]].copy()
    table.insert(0, "only_b_ratio", known["only_b"] / known["n"])
    table.insert(0, "only_a_ratio", known["only_a"] / known["n"])
    shares = zip(table["only_a_ratio"], table["only_b_ratio"], strict=True)
    pairs = [pairs_to_see(a, b, power=power) for a, b in shares]
    table.insert(0, "pairs", pd.array(pairs, dtype="Int64"))
    return table.sort_values("pairs", na_position="last", kind="stable")


SIGNALS = {
    "failed_request": "the request itself failed",
    "failed_call": "a tool call returned an error",
    "refused_call": "a call came back with nothing: it was never run",
    "malformed_call": "a tool call could not be read, or stands in the answer as text",
    "no_answer": "answered with nothing",
    "ungrounded": "a value in the answer that neither the user nor a tool has stated",
    "repetition": "the answer repeats itself",
    "cut_off": "the answer was cut off at its limit of tokens",
}
NUMBERS = {
    "calls": "tool calls per request",
    "answer_words": "words of the answer",
    "completion_tokens": "generated tokens per request",
    "turns": "model calls per request",
}
_NEEDED = (
    "status",
    "answer",
    "prompt",
    "tool_calls",
    "finish_reason",
    "session_id",
    "turn_index",
    "completion_tokens",
    "turns",
)
_WORD = re.compile(r"[\w][\w.,:/-]*")
_REPEATED = re.compile(r"(\S{2,20}?)\1{3,}|(?:\b(\w+)\b\W+)(?:\2\b\W*){3,}")


def signals(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the SIGNALS (boolean) and NUMBERS of each row of a request frame, on its index.

    Ground truth is not used. An answer may use what was stated earlier in its session. Raises
    FrameError for a frame that lacks what they need.
    """
    require_columns(
        frame,
        _NEEDED,
        "the frame lacks {}",
        fix="take it from lab.observe(run, settings).requests",
    )

    sessions: dict[str, list[str]] = {}  # what was stated in each so far
    rows = {}
    for row in frame.sort_values(["session_id", "turn_index"], kind="stable").itertuples():
        calls = json.loads(row.tool_calls) if isinstance(row.tool_calls, str) else row.tool_calls
        answer = "" if pd.isna(row.answer) else str(row.answer)
        stated = sessions.setdefault(row.session_id, [])
        stated += [str(row.prompt), *(_text(call.get("output")) for call in calls)]
        rows[row.Index] = _of_request(row, list(calls), answer, stated)
        stated.append(answer)

    table = pd.DataFrame(list(rows.values()), index=list(rows), columns=[*SIGNALS, *NUMBERS])
    return table.reindex(frame.index).astype(dict.fromkeys(SIGNALS, bool))


def _of_request(
    row: Any, calls: list[dict[str, Any]], answer: str, stated: list[str]
) -> dict[str, bool | int]:
    unreadable = [call for call in calls if not isinstance(call.get("arguments"), dict)]
    never_run = [call for call in calls if not call.get("error") and call.get("output") is None]
    return {
        "failed_request": row.status != "ok",
        "failed_call": any(call.get("error") for call in calls),
        "refused_call": bool(never_run),
        "malformed_call": bool(unreadable) or "<tool_call>" in answer,
        "no_answer": row.status == "ok" and not answer.strip(),
        "ungrounded": bool(ungrounded_values(answer, stated)),
        "repetition": bool(_REPEATED.search(answer)),
        "cut_off": row.finish_reason in ("incomplete", "length"),
        "calls": len(calls),
        "answer_words": len(answer.split()),
        "completion_tokens": max(0, row.completion_tokens),
        "turns": row.turns,
    }


def ungrounded_values(answer: str, sources: Iterable[str]) -> set[str]:
    """Return the values of an answer (its words with a digit) that occur in none of the sources.

    Numbers are compared as numbers. Not recognised: a wrong value that some source did state, and
    values without digits.
    """
    return _values(answer).difference(*map(_values, sources))


def _values(text: str) -> set[str]:
    words = _WORD.findall(text)
    return {_plain(word.rstrip(".,:/-")) for word in words if re.search(r"\d", word)}


def _plain(word: str) -> str:
    try:
        return f"{float(word):.10g}"
    except ValueError:
        return word.lower()


def _text(output: Any) -> str:
    if output is None:
        return ""
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


def compare_signals(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Compare the signals of two versions that answered different requests, one row per signal.

    Columns: `a`, `b` (share or mean), `test`, `p_value`, `p_holm`, `what`. In production a request
    goes to one version only, so the tests are unpaired: Fisher's exact test for shares, Mann and
    Whitney's for numbers. p is 1 where both sides are constant and equal.
    """
    rows = []
    for name, what in (SIGNALS | NUMBERS).items():
        x = a[name].to_numpy(float)
        y = b[name].to_numpy(float)
        test = "Fisher" if name in SIGNALS else "Mann-Whitney"
        if name in SIGNALS:
            counts = [[side.sum(), len(side) - side.sum()] for side in (x, y)]
            p = stats.fisher_exact(counts)[1]
        elif np.ptp(np.concatenate([x, y])) == 0:
            p = 1.0
        else:
            p = stats.mannwhitneyu(x, y).pvalue
        rows.append([name, x.mean(), y.mean(), test, float(p), what])

    columns = ["signal", "a", "b", "test", "p_value", "what"]
    table = pd.DataFrame(rows, columns=columns).set_index("signal")
    table.insert(4, "p_holm", holm(table["p_value"]))
    return table


def alert_quality(
    flags: pd.DataFrame, wrong: Sequence[bool], names: Sequence[str] = tuple(SIGNALS)
) -> pd.DataFrame:
    """Return how well each signal picks out the requests that were wrong, one row per signal.

    - `flagged`: requests that it flags; signals that flag none are left out;
    - `precision_ratio`: the share of flagged requests that were wrong;
    - `recall_ratio`: the share of wrong requests that were flagged;
    - `precision_low_ratio` and so on: their Wilson 95 % intervals.

    The last row, `any`, is all signals together.
    """
    truth = np.asarray(wrong, dtype=bool)
    raised = flags[list(names)].astype(bool)
    raised["any"] = raised.any(axis=1)
    columns = ["signal", "flagged"]
    for measure in ("precision", "recall"):
        columns += [f"{measure}_ratio", f"{measure}_low_ratio", f"{measure}_high_ratio"]

    rows = []
    for name, flag in raised.items():
        flagged = int(flag.sum())
        hits = int((flag & truth).sum())
        if flagged or name == "any":
            rows.append([name, flagged, *wilson(hits, flagged), *wilson(hits, int(truth.sum()))])
    return pd.DataFrame(rows, columns=columns).set_index("signal")
