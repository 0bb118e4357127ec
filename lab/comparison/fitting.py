"""Estimates and resamplings of every measure of two sides: how much is mix, how much the system.

Mix and system are divided by Kitagawa, Oaxaca and Blinder: a two-fold decomposition with the
coefficients of a pooled regression that has an indicator of the side (Fortin 2008; Jann 2008), as
statsmodels' `OaxacaBlinder(...).two_fold(type="pooled")`, which the tests compare it with. Here it
is evaluated for many measures and many resamplings at once, and the part of the mix is divided
among its groups of covariates.

Blocks of requests are resampled whole, since neighbouring requests are not independent. Their
length is chosen by Politis and White (2004, corrected 2009) for the mean of a series, from the
autocorrelation of the requests' residuals in order of time, and is at least the root of their
number. Conversations stay whole.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.tsa.stattools import acf

from lab.comparison.sample import OTHER, PHASES, UNKNOWN, Sample
from lab.prices import ApiPrice

MEMBERS = {  # group of covariates -> its columns; the group "kinds" has one per kind
    "calls": ["turns", "tool_runs"],
    "lengths": ["prompt_tokens", "completion_tokens"],
    "cache": ["cached_tokens"],
    "concurrency": ["load"],
}
ALL = ("kinds", *MEMBERS)
PHASE_NAMES = (*PHASES, OTHER)
SHARES = ("failed", "right")
MEASURES = {  # measure -> the groups of covariates that count as its mix
    "e2e_s": ALL,
    "ttft_s": ALL,
    "tpot_s": ALL,
    **dict.fromkeys(PHASE_NAMES, ALL),
    "prompt_tokens": ("kinds",),
    "completion_tokens": ("kinds",),
    "cached_ratio": ("kinds",),
    "cost_usd": ("kinds",),
    "failed": ("kinds",),
    "right": ("kinds",),
}
DRIFT = "drift"  # the group of the pairs of neighbouring runs
MIN_OF_PAIR = 4  # blocks of each run, where runs are compared in pairs


@dataclass(frozen=True)
class Pooled:
    """Both sides in one table: a sample's columns, `is_b`, `pair`, `load` and derived measures.

    The rows are in order of sides, runs, conversations and time.
    """

    requests: pd.DataFrame
    pairs: int  # of neighbouring runs; 1 where the sides do not alternate
    overlap: float  # of the two sides' shares of kinds, 0 to 1

    @classmethod
    def of(cls, a: Sample, b: Sample, price: ApiPrice) -> Pooled:
        """Return the pooled requests of a and b."""
        first_b = int(a.requests["run"].max()) + 1
        of_b = b.requests.assign(is_b=True, run=b.requests["run"] + first_b)
        requests = pd.concat([a.requests.assign(is_b=False), of_b], ignore_index=True)
        began = requests.groupby(["run", "session"])["at"].transform("min")
        order = np.lexsort((requests["at"], requests["session"], began, requests["run"]))
        requests = requests.iloc[order].reset_index(drop=True)
        tokens = requests["prompt_tokens"]
        requests["cached_ratio"] = requests["cached_tokens"] / tokens.where(tokens > 0)
        requests["cost_usd"] = price.cost_usd(
            tokens, requests["completion_tokens"], requests["cached_tokens"]
        )
        requests["load"] = _offered_load(requests)
        requests["pair"], pairs = _pairs(requests)

        kinds = pd.crosstab(requests["kind"], requests["is_b"], normalize="columns")
        overlap = float(kinds.min(axis=1).sum())
        return cls(requests, pairs, overlap)

    @property
    def sizes(self) -> tuple[int, int]:
        """Return the numbers of requests of a and b."""
        n_b = int(self.requests["is_b"].sum())
        return len(self.requests) - n_b, n_b


def _offered_load(requests: pd.DataFrame) -> np.ndarray:
    """Return how many other requests of its run were due within one mean E2E before each."""
    within_s = float(requests["e2e_s"].fillna(0.0).mean())
    load = np.zeros(len(requests))
    for rows in requests.groupby("run").indices.values():
        due = requests["at"].to_numpy()[rows]
        ordered = np.sort(due)
        load[rows] = np.searchsorted(ordered, due) - np.searchsorted(ordered, due - within_s)
    return load


def _pairs(requests: pd.DataFrame) -> tuple[np.ndarray, int]:
    """Return each request's pair of neighbouring runs, and the number of pairs."""
    runs = requests.groupby("run").agg(at=("at", "min"), is_b=("is_b", "first")).sort_values("at")
    sides = runs["is_b"].to_numpy()
    alternate = len(sides) >= 4 and len(sides) % 2 == 0
    if not alternate or (sides[0::2] == sides[1::2]).any():
        return np.zeros(len(requests), dtype=int), 1
    pair = pd.Series(np.arange(len(sides)) // 2, index=runs.index)
    return requests["run"].map(pair).to_numpy(), len(sides) // 2


@dataclass
class Fit:
    """Measures of two sides. Arrays over resamplings have the estimate in row 0.

    `means` are (a, b), `sizes` the numbers of requests of which a measure is known, `error` the
    standard error of `system` with its degrees of freedom (of several variances by Satterthwaite).
    """

    length: int
    blocks: tuple[int, int] = (0, 0)
    too_short: bool = False  # the blocks should be longer than the runs allow
    together: bool = False  # both sides sent the same questions, so that blocks are drawn in pairs
    means: dict[str, tuple[float, float]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    total: dict[str, np.ndarray] = field(default_factory=dict)
    system: dict[str, np.ndarray] = field(default_factory=dict)
    mix: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    error: dict[str, tuple[float, float]] = field(default_factory=dict)
    between: dict[str, float] = field(default_factory=dict)  # part of the variance between pairs
    scale: float = 1.0  # of standard errors, for the number of blocks


def fit(data: Pooled, replicates: int, seed: int) -> Fit:
    """Return the fit of all measures that both sides have."""
    requests = data.requests
    alike = _alike(requests)
    together = same_plan(requests)
    lengths = [_length(data, key, names, together) for key, names in alike.items()]
    wanted_length = max(lengths, default=1)
    most = max(1, min(data.sizes) // MIN_BLOCKS)
    length = min(wanted_length, most)
    block = blocks_of(requests, length)
    blocks = pd.DataFrame({"is_b": requests["is_b"], "run": requests["run"]}).groupby(block).first()
    paired = data.pairs > 1 and blocks["run"].value_counts().min() >= MIN_OF_PAIR
    strata = (blocks["run"] if paired else blocks["is_b"]).to_numpy(int)
    is_b = blocks["is_b"].to_numpy()
    rng = np.random.default_rng(seed)
    if together:
        strata = strata[~is_b]
        drawn = resampling_weights(strata, replicates, rng)
        weights = np.zeros((replicates, len(blocks)))
        weights[:, ~is_b] = drawn
        weights[:, is_b] = drawn
    else:
        weights = resampling_weights(strata, replicates, rng)

    sizes = (int((~is_b).sum()), int(is_b.sum()))
    result = Fit(length, sizes, too_short=wanted_length > most, together=together)
    df = max(1.0, float(len(strata) - len(np.unique(strata))))
    result.scale = math.sqrt(len(strata) / df)
    for key, names in alike.items():
        _add(result, data, key, names, block, weights, df)
    return result


Key = tuple[tuple[str, ...], bytes]  # groups of covariates, and which requests have the measures


def _alike(requests: pd.DataFrame) -> dict[Key, list[str]]:
    """Return the measures that both sides have and that vary, by what they can be fitted with."""
    alike: dict[Key, list[str]] = defaultdict(list)
    for name, groups in MEASURES.items():
        known = requests[name].notna().to_numpy()
        counts = requests["is_b"][known].value_counts()
        varies = requests.loc[known, name].nunique() > 1
        if len(counts) == 2 and counts.min() >= MIN_BLOCKS and (varies or name in SHARES):
            alike[groups, known.tobytes()].append(name)
    return alike


def _design(data: Pooled, key: Key) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the rows in which the measures are known, their covariates and the groups of these."""
    groups, known = key
    rows = np.flatnonzero(np.frombuffer(known, dtype=bool))
    requests = data.requests.iloc[rows]
    x, names = covariates(requests, groups)
    if data.pairs > 1:
        dummies = pd.get_dummies(requests["pair"], dtype=float).iloc[:, 1:].to_numpy()
        x = np.column_stack([x, dummies])
        names = [*names, *[DRIFT] * dummies.shape[1]]
    return rows, x, names


def _length(data: Pooled, key: Key, names: list[str], together: bool) -> int:
    """Return the longest block length that a measure in seconds needs.

    It is that of either side or, where both sent the same questions, of their differences.
    """
    rows, x, _ = _design(data, key)
    seconds = [name for name in names if name.endswith("_s")]
    is_b = data.requests["is_b"].to_numpy()
    design = np.column_stack([np.ones(len(rows)), is_b[rows], x])
    y = data.requests[seconds].to_numpy(float)[rows]
    residuals = np.zeros((len(is_b), len(seconds)))
    residuals[rows] = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    sides = [residuals[~is_b], residuals[is_b]]
    series = [sides[1] - sides[0]] if together else sides
    return max((block_length(column) for side in series for column in side.T), default=1)


def _add(
    result: Fit,
    data: Pooled,
    key: Key,
    names: list[str],
    block: np.ndarray,
    weights: np.ndarray,
    df: float,
) -> None:
    """Add the measures with one set of covariates to the result."""
    rows, x, groups = _design(data, key)
    requests = data.requests.iloc[rows]
    is_b = requests["is_b"].to_numpy()
    y = requests[names].to_numpy(float)
    parts = decompose(x, groups, is_b, y, block[rows], weights)
    pairs = requests["pair"].to_numpy()
    adjusted = y - x @ parts.coefficients
    scale = result.scale * math.sqrt(len(rows) / max(1, len(rows) - x.shape[1] - 2))
    for column, name in enumerate(names):
        result.means[name] = float(parts.a[0, column]), float(parts.b[0, column])
        result.sizes[name] = int((~is_b).sum()), int(is_b.sum())
        result.total[name] = parts.total[:, column]
        result.system[name] = parts.system[:, column]
        result.mix[name] = {group: values[:, column] for group, values in parts.mix.items()}
        error = scale * float(parts.system[1:, column].std())
        result.error[name] = error, df
        if data.pairs > 1:
            between = _between_pairs(adjusted[:, column], is_b, pairs, block[rows], weights)
            between /= data.pairs
            result.between[name] = between / max(error**2 + between, 1e-300)
            if between > 0:
                variance = error**2 + between
                pooled_df = variance**2 / (error**4 / df + between**2 / (data.pairs - 1))
                result.error[name] = math.sqrt(variance), pooled_df


def _between_pairs(
    y: np.ndarray, is_b: np.ndarray, pair: np.ndarray, block: np.ndarray, weights: np.ndarray
) -> float:
    """Return the variance of the difference between pairs of runs (Paule and Mandel 1982)."""
    effects = []
    variances = []
    for each in np.unique(pair):
        means = []
        for side in (is_b, ~is_b):
            rows = (pair == each) & side
            sums = np.bincount(block[rows], weights=y[rows], minlength=weights.shape[1])
            counts = np.bincount(block[rows], minlength=weights.shape[1])
            draws = np.vstack([np.ones(len(sums)), weights])
            means.append(draws @ sums / np.maximum(draws @ counts, 1e-9))
        difference = means[0] - means[1]
        effects.append(float(difference[0]))
        variances.append(float(difference[1:].var()))
    if min(variances) <= 0:
        return 0.0
    combined = combine_effects(np.array(effects), np.array(variances), method_re="iterated")
    return max(0.0, float(combined.tau2))


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


MIN_OF_KIND = 10  # requests; rarer kinds are one kind
_RIDGE = 1e-9


@dataclass(frozen=True)
class Parts:
    """Differences b - a: row 0 is the estimate, the others are resamplings.

    `a`, `b`, `total` and `system` are (rows, measures); `mix` has one such array per group.
    """

    a: np.ndarray
    b: np.ndarray
    total: np.ndarray
    system: np.ndarray
    mix: dict[str, np.ndarray]
    coefficients: np.ndarray  # (covariates, measures) of the estimate


def covariates(requests: pd.DataFrame, groups: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
    """Return the standardised covariates of requests, and the group of each column.

    `requests` has `kind`, `turns`, `tool_runs`, the tokens and `load`. Columns that do not vary
    are left out.
    """
    parts = []
    names: list[str] = []
    for group in groups:
        part = _kinds(requests["kind"]) if group == "kinds" else requests[MEMBERS[group]]
        parts.append(part.to_numpy(float))
        names += [group] * part.shape[1]

    values = np.column_stack(parts)
    spread = values.std(axis=0)
    kept = spread > 1e-12
    scaled = (values[:, kept] - values[:, kept].mean(axis=0)) / spread[kept]
    return scaled, [name for name, keep in zip(names, kept, strict=True) if keep]


def _kinds(kind: pd.Series) -> pd.DataFrame:
    """Return an indicator of every common kind but the first."""
    common = kind.map(kind.value_counts()) >= MIN_OF_KIND
    return pd.get_dummies(kind.where(common, "(rare)"), dtype=float).iloc[:, 1:]


def decompose(
    x: np.ndarray,
    groups: list[str],
    is_b: np.ndarray,
    y: np.ndarray,
    block: np.ndarray,
    weights: np.ndarray,
) -> Parts:
    """Return the parts of the difference of each column of y.

    `x` (requests, covariates) with the group of each column, `is_b` and `block` of each request in
    order of blocks, `weights` (replicates, blocks).
    """
    n, width = x.shape
    design = np.column_stack([np.ones(n), is_b.astype(float), x])
    blocks = weights.shape[1]
    moments = np.zeros((blocks, width + 2, width + 2))
    products = np.zeros((blocks, width + 2, y.shape[1]))
    bounds = np.searchsorted(block, np.arange(blocks + 1))
    for number in range(blocks):
        rows = slice(bounds[number], bounds[number + 1])
        moments[number] = design[rows].T @ design[rows]
        products[number] = design[rows].T @ y[rows]

    draws = np.vstack([np.ones(blocks), weights])
    xx = np.tensordot(draws, moments, axes=1)
    xy = np.tensordot(draws, products, axes=1)
    ridge = _RIDGE * np.trace(xx, axis1=1, axis2=2)[:, None, None] * np.eye(width + 2)
    beta = np.linalg.solve(xx + ridge, xy)

    # The first two rows of the moments hold the sums over all requests, and over those of b.
    n_b = xx[:, 1, 1]
    n_a = xx[:, 0, 0] - n_b
    b_mean = xy[:, 1] / n_b[:, None]
    a_mean = (xy[:, 0] - xy[:, 1]) / n_a[:, None]
    shift = xx[:, 1] / n_b[:, None] - (xx[:, 0] - xx[:, 1]) / n_a[:, None]
    contributions = shift[:, :, None] * beta
    total = b_mean - a_mean
    mix = {
        group: contributions[:, 2:][:, [name == group for name in groups]].sum(axis=1)
        for group in dict.fromkeys(groups)
    }
    system = total - sum(mix.values(), np.zeros_like(total))
    return Parts(a_mean, b_mean, total, system, mix, beta[0, 2:])
