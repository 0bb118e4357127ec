"""Compare two systems by the requests that each served: verdicts with intervals and power."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.proportion import confint_proportions_2indep

from lab.comparison.fitting import PHASE_NAMES, SHARES, Fit, Pooled, fit
from lab.comparison.sample import Sample, Source, sample_of
from lab.prices import ApiPrice, api_prices
from lab.settings import REPO

EQUAL = "equal"
WORSE = "worse"
BETTER = "better"
UNCLEAR = "cannot tell"

MIN_REQUESTS = 20  # of a side
MIN_OVERLAP = 0.25  # of the two sides' shares of kinds; below, it is another workload
POWER = 0.9  # of the promised number of requests, for a difference as large as the margin
CAUTION = 0.95  # one-sided confidence of the variance from which that number is promised
OF_E2E = 0.1  # margins are of a measure's own mean, and of at least this share of E2E
NAMED = 0.95  # share of resamplings in which a phase must be the largest to be named
SEED = 20_261_128

HIGHER_IS_BETTER = ("cached_ratio", "right")
COLUMNS = (
    *("measure", "a", "b", "difference", "difference_low", "difference_high"),
    *("mix", "mix_low", "mix_high", "system", "low", "high", "margin"),
    *("p_value", "verdict", "n_more", "n_a", "n_b"),
)


@dataclass(frozen=True)
class Phase:
    """The phase that is responsible for a change of E2E.

    `seconds` per request with its interval, and its `share_ratio` of E2E's change (NaN where that
    is not clear). `certainty` is the share of resamplings in which it changed most of all the
    phases whose verdict is clear.
    """

    name: str
    seconds: float
    low: float
    high: float
    share_ratio: float
    certainty: float


@dataclass(frozen=True, repr=False)
class Comparison:
    """What `compare` returns; printed, it is a table.

    `table` has one row per measure (index `measure`):

    - `a`, `b`: means; `difference` (b - a, all of it), with `difference_low`, `difference_high`;
    - `mix`, with `mix_low` and `mix_high`, and `system` with `low` and `high`: their sum is
      `difference`;
    - `margin`: differences of the system within it count as equal; `p_value`: corrected for all
      measures at once;
    - `verdict` (EQUAL, WORSE, BETTER, UNCLEAR) on `system`; `n_more`: how many more requests each
      side needs, so that a difference of the margin would be seen with the probability POWER (NaN
      where the verdict is clear, or no number would help); `n_a`, `n_b`.

    `mix` has the mix by group of covariates, in the measure's unit. `notes` say what could not be
    compared, and what limits the rest.
    """

    a: Sample
    b: Sample
    table: pd.DataFrame
    mix: pd.DataFrame
    phase: Phase | None
    notes: tuple[str, ...]
    block_length: int
    blocks: tuple[int, int]
    interleaved: bool
    margin: float
    confidence: float
    price: str = ""
    candidates: tuple[str, ...] = ()

    def measures(self, verdict: str) -> list[str]:
        """Return the measures with this verdict."""
        return self.table.index[self.table["verdict"] == verdict].tolist()

    @property
    def verdict(self) -> str:
        """Return the verdict on the whole.

        WORSE if any measure is, then BETTER, then UNCLEAR if E2E or failures are unclear, otherwise
        EQUAL.
        """
        for verdict in (WORSE, BETTER):
            if self.measures(verdict):
                return verdict
        essential = self.table["verdict"].reindex(["e2e_s", "failed"])
        return EQUAL if (essential == EQUAL).all() else UNCLEAR

    def __str__(self) -> str:
        from lab.comparison.report import as_text

        return as_text(self)

    __repr__ = __str__


def compare(
    a: Source | Sequence[Source],
    b: Source | Sequence[Source],
    *,
    margin: float = 0.05,
    share_margin: float = 0.02,
    confidence: float = 0.98,
    price: ApiPrice | None = None,
    replicates: int = 2000,
    seed: int = SEED,
) -> Comparison:
    """Compare b with the baseline a: what changed, by how much, and how sure that is.

    Each side is an Observation, a request frame, a Sample (a baseline that was saved), or a list of
    runs of one system. Where both lists have the same number of runs and alternate in time (ABAB or
    ABBA), neighbours are compared, so that drift of the machine counts for neither side.

    The method, for the mean of each measure:

    - mix and system are divided by a Kitagawa-Oaxaca-Blinder decomposition (`fitting`);
    - intervals are of a bootstrap of blocks (`fitting`), with Student's t for the number of blocks,
      and hold for all measures at once (single-step max-t; Westfall and Young 1993). Of shares they
      are Newcombe's, with the blocks' design effect;
    - equal means that the interval lies within the margin (two one-sided tests; Schuirmann 1987).
      `margin` is relative to a's mean, of phases at least to OF_E2E of E2E; `share_margin` is
      absolute, for shares of requests.

    Offered load (requests due within one mean E2E before) stands for concurrency: requests in
    flight would be a result of the system, not of its work. Raises FrameError where a side has no
    request, or is not one of those.
    """
    side_a = sample_of(a)
    side_b = sample_of(b)
    price = price or next(iter(api_prices(REPO / "data").values()))
    data = Pooled.of(side_a, side_b, price)
    fitted = fit(data, replicates, seed)
    notes = _limits(data)
    table = _judge(fitted, margin, share_margin, confidence)
    notes += _cautions(fitted, table)
    if min(data.sizes) < MIN_REQUESTS or data.overlap < MIN_OVERLAP:
        table["verdict"] = UNCLEAR
    if data.overlap < MIN_OVERLAP:
        table["n_more"] = math.nan
    phase, candidates = _responsible(table, fitted)
    estimates = {
        name: {group: values[0] for group, values in parts.items()}
        for name, parts in fitted.mix.items()
    }
    return Comparison(
        a=side_a,
        b=side_b,
        table=table,
        mix=pd.DataFrame.from_dict(estimates, orient="index"),
        phase=phase,
        candidates=candidates,
        notes=tuple(notes),
        block_length=fitted.length,
        blocks=fitted.blocks,
        interleaved=data.pairs > 1,
        margin=margin,
        confidence=confidence,
        price=price.name,
    )


def _limits(data: Pooled) -> list[str]:
    """Return what the data cannot show, before any number is known."""
    notes = []
    n_a, n_b = data.sizes
    requests = data.requests
    if min(n_a, n_b) < MIN_REQUESTS:
        notes.append(
            f"too few requests to judge: {n_a} in a, {n_b} in b; each needs {MIN_REQUESTS}"
        )
    if data.overlap < MIN_OVERLAP:
        notes.append(
            f"another workload: the kinds of requests overlap by {data.overlap:.0%}, so that "
            "system and mix cannot be separated; drive both with the same kinds"
        )
    for name, is_b in (("a", False), ("b", True)):
        side = requests[requests["is_b"] == is_b]
        answered = side["failed"] == 0
        traced = float(side.loc[answered, "whole"].mean()) if answered.any() else 0.0
        if traced == 0:
            notes.append(f"{name} has no complete trace: its phases are not known")
        elif traced < 0.9:
            notes.append(f"{name}: the phases are those of {traced:.0%} of its answered requests")
    if data.pairs == 1:
        notes.append(
            "a and b did not alternate: if the machine drifted between them, that looks like a "
            "change of the system; give lists of runs that alternate (ABAB)"
        )
    return notes


def _cautions(fitted: Fit, table: pd.DataFrame) -> list[str]:
    """Return what may mislead in the numbers."""
    notes = []
    if fitted.too_short:
        notes.append(
            "neighbouring requests depend on each other over a longer time than these runs can "
            "show: the intervals are too narrow; drive longer runs"
        )
    if fitted.between.get("e2e_s", 0.0) > 0.5:
        notes.append(
            "the difference varies more between pairs of runs than within them: more pairs would "
            "help, longer runs would not"
        )
    if fitted.together and table["verdict"].get("cached_ratio") in (WORSE, BETTER):
        notes.append(
            "both sides sent the same questions, and the side that ran later may have had them in "
            "the prefix cache: restart the engine before each run, or send the plan once before"
        )
    return notes


def _judge(fitted: Fit, margin: float, share_margin: float, confidence: float) -> pd.DataFrame:
    """Return the table of verdicts; one level per measure keeps the family's confidence."""
    names = list(fitted.system)
    largest = _largest_deviations(fitted, names)
    level = 1 - confidence
    if len(largest):
        level = 2 * float(stats.norm.sf(np.quantile(largest, confidence)))
    e2e = abs(fitted.means["e2e_s"][0]) if "e2e_s" in fitted.means else 0.0
    rows = []
    for name in names:
        least = OF_E2E * e2e if name in PHASE_NAMES else 0.0
        limit = margin * max(abs(fitted.means[name][0]), least)
        limit = share_margin if name in SHARES else limit
        rows.append(_row(fitted, name, limit, level, largest))
    return pd.DataFrame(rows, columns=list(COLUMNS)).set_index("measure")


def _largest_deviations(fitted: Fit, names: list[str]) -> np.ndarray:
    """Return the largest deviation over all measures of each resampling, in standard errors."""
    deviations = []
    for name in names:
        values = fitted.system[name]
        spread = float(values[1:].std())
        if spread > 0:
            deviations.append(np.abs(values[1:] - values[0]) / spread)
    return np.max(deviations, axis=0) if deviations else np.empty(0)


def _row(
    fitted: Fit, name: str, limit: float, level: float, largest: np.ndarray
) -> dict[str, object]:
    """Return one measure's row of the table."""
    a, b = fitted.means[name]
    n_a, n_b = fitted.sizes[name]
    total = fitted.total[name]
    system = float(fitted.system[name][0])
    mix = sum(fitted.mix[name].values(), np.zeros_like(total))
    error, df = fitted.error[name]
    reach = error * float(stats.t.isf(level / 2, df))
    low = system - reach
    high = system + reach
    if name in SHARES:
        low, high = _share_interval(fitted, name, level)
    z = float(stats.norm.isf(stats.t.sf(abs(system) / error, df))) if error > 0 else 0.0
    verdict = _verdict(low, high, limit, higher_is_better=name in HIGHER_IS_BETTER)
    n_more = math.nan
    if verdict == UNCLEAR:
        error = (high - low) / 2 / float(stats.t.isf(level / 2, df))
        n_more = _needed(fitted, name, error, limit, level) - min(n_a, n_b)
    return {
        "measure": name,
        "a": a,
        "b": b,
        "difference": float(total[0]),
        **_interval("difference", total, fitted.scale),
        "mix": float(mix[0]),
        **_interval("mix", mix, fitted.scale),
        "system": system,
        "low": low,
        "high": high,
        "margin": limit,
        "p_value": float(np.mean(largest >= z)) if len(largest) else math.nan,
        "verdict": verdict,
        "n_more": n_more if math.isnan(n_more) else max(1.0, n_more),
        "n_a": n_a,
        "n_b": n_b,
    }


def _verdict(low: float, high: float, limit: float, *, higher_is_better: bool) -> str:
    if -limit < low and high < limit:
        return EQUAL
    if low <= 0 <= high:
        return UNCLEAR
    return BETTER if (low > 0) == higher_is_better else WORSE


def _interval(name: str, values: np.ndarray, scale: float) -> dict[str, float]:
    """Return the 95 % interval of a part, by its resamplings' spread."""
    reach = float(stats.norm.isf(0.025)) * scale * float(values[1:].std())
    return {f"{name}_low": float(values[0]) - reach, f"{name}_high": float(values[0]) + reach}


def _share_interval(fitted: Fit, name: str, level: float) -> tuple[float, float]:
    """Return the interval of a share's difference that is not mix (Newcombe 1998).

    Blocks make a share less certain than so many independent requests would: the numbers are
    divided by the design effect.
    """
    a, b = fitted.means[name]
    n_a, n_b = fitted.sizes[name]
    independent = a * (1 - a) / n_a + b * (1 - b) / n_b
    effect = max(1.0, fitted.error[name][0] ** 2 / independent) if independent > 0 else 1.0
    size_a = n_a / effect
    size_b = n_b / effect
    low, high = confint_proportions_2indep(
        b * size_b, size_b, a * size_a, size_a, method="newcomb", compare="diff", alpha=level
    )
    mix = float(fitted.total[name][0] - fitted.system[name][0])
    return float(low) - mix, float(high) - mix


def _needed(fitted: Fit, name: str, error: float, limit: float, level: float) -> float:
    """Return the requests per side that show a difference of `limit` with the probability POWER.

    By the power of the t test on the means of blocks. Since few blocks often show too little of the
    spread, the upper 95 % limit of their variance is taken (Browne 1995). NaN where no number of
    requests is enough.
    """
    n_a, n_b = fitted.sizes[name]
    length = (n_a + n_b) / sum(fitted.blocks)
    df = sum(fitted.blocks) - 2
    cautious = math.sqrt(df / float(stats.chi2.ppf(1 - CAUTION, df)))
    of_block = cautious * error * math.sqrt(n_a * n_b / (n_a + n_b) / length)
    if not (limit > 0 and of_block > 0):
        return math.nan
    effect = min(limit / of_block, 3.0)
    blocks = TTestIndPower().solve_power(effect, alpha=level, power=POWER)
    return math.ceil(float(np.max(blocks)) * length)


def _responsible(table: pd.DataFrame, fitted: Fit) -> tuple[Phase | None, tuple[str, ...]]:
    """Return the phase that changed most, where that is certain, and all that changed with E2E."""
    phases = table[table.index.isin(PHASE_NAMES)]
    e2e_verdict = table["verdict"].get("e2e_s", UNCLEAR)
    direction = e2e_verdict if e2e_verdict in (WORSE, BETTER) else WORSE
    if direction not in phases["verdict"].to_numpy() and e2e_verdict == UNCLEAR:
        direction = BETTER
    changed = phases[phases["verdict"] == direction]
    candidates = changed["system"].abs().sort_values(ascending=False).index.tolist()
    if not candidates:
        return None, ()

    values = np.abs([fitted.system[name][1:] for name in candidates])
    certainty = float(np.mean(values.argmax(axis=0) == 0))
    if certainty < NAMED:
        return None, tuple(candidates)
    row = changed.loc[candidates[0]]
    share = row["system"] / table.loc["e2e_s", "system"] if e2e_verdict == direction else math.nan
    seconds = (float(row["system"]), float(row["low"]), float(row["high"]))
    return Phase(candidates[0], *seconds, float(share), certainty), tuple(candidates)
