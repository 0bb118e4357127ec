"""How often `lab.compare` is right: false alarms, power as promised, and the guilty phase.

The requests are those of real runs (`live.py`), resampled by blocks of neighbours into runs of any
length. Nothing is planted for false alarms. For power, one phase of one side becomes slower by the
tool's own margin, after the tool said from a pilot how many requests would be enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.diagnosis.live import DATA
from lab.comparison import BETTER, WORSE, Comparison, Sample, compare, sample_of
from lab.comparison.comparing import OF_E2E

BLOCK = 10  # requests that stay together when runs are resampled
SLOWER = (0.05, 0.10, 0.20)
SLOWED = ("queue_s", "prefill_s", "decode_s", "tool_s", "stack_s")
PILOT = 150  # requests of each side
PILOTS = 5  # at most, until one says how many more are needed
MAX_N = 12_000  # of each side; where the tool promises more, power is not tried
REPLICATES = 600
SEED = 77  # of no run in development
BEFORE_FIRST_TOKEN = ("queue_s", "prefill_s", "stack_s")


class Pool:
    """Requests of recorded runs, from which runs are drawn by blocks."""

    def __init__(self, runs: list[pd.DataFrame]) -> None:
        self.blocks = [
            block for run in runs for block in _blocks(sample_of(run).requests) if len(block) > 3
        ]

    def draw(self, n: int, rng: np.random.Generator) -> pd.DataFrame:
        """Return the numbers (`Sample.requests`) of a run of about n requests."""
        parts = []
        end = 0.0
        size = 0
        while size < n:
            block = self.blocks[rng.integers(len(self.blocks))].copy()
            gap = (block["at"].max() - block["at"].min()) / len(block)
            block["at"] += end + gap - block["at"].min()
            block["session"] += 1_000 * len(parts)
            end = float(block["at"].max())
            size += len(block)
            parts.append(block)
        drawn = pd.concat(parts, ignore_index=True)
        return drawn.assign(run=0, question=-1).iloc[:n]


def _blocks(requests: pd.DataFrame) -> Iterator[pd.DataFrame]:
    began = requests.groupby("session")["at"].transform("min")
    ordered = requests.iloc[np.lexsort((requests["at"], began))]
    for first in range(0, len(ordered), BLOCK):
        yield ordered.iloc[first : first + BLOCK]


def runs_of(stage: str, folder: Path = DATA) -> list[pd.DataFrame]:
    """Return the request frames of a stage's runs, in order of time."""
    part = "equal" if stage == "equal" else "agents"
    table = pd.read_parquet(folder / f"{part}-requests.parquet")
    table = table[table["stage"].str.startswith(stage)]
    runs = [run for _, run in table.groupby(["seed", "stage"])]
    return sorted(runs, key=lambda run: run["scheduled_at"].min())


def slowed(
    requests: pd.DataFrame, phase: str, seconds: float, rng: np.random.Generator
) -> pd.DataFrame:
    """Return the requests with `seconds` more in a phase, on average.

    In proportion to the phase's own time, or at random where it hardly has any.
    """
    before = requests[phase].fillna(0.0)
    if before.mean() > seconds:
        more = before * seconds / before.mean()
    else:
        more = pd.Series(rng.exponential(seconds, len(requests)), index=requests.index)
    changed = requests.assign(**{phase: requests[phase] + more, "e2e_s": requests["e2e_s"] + more})
    if phase in BEFORE_FIRST_TOKEN:
        changed["ttft_s"] = requests["ttft_s"] + more
    return changed


def false_alarms(pools: dict[str, Pool], pairs: int, seed: int) -> pd.DataFrame:
    """Return one row per pair of equal runs: `alarms`, the measures that were judged different."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(pairs):
        name = list(pools)[number % len(pools)]
        n = int(rng.integers(60, 400))
        pool = pools[name]
        result = _compare(pool.draw(n, rng), pool.draw(n, rng), 0.10)
        rows.append({"traffic": name, "n": n, "alarms": ", ".join(_alarms(result))})
    return pd.DataFrame(rows)


def _alarms(result: Comparison) -> list[str]:
    return result.measures(WORSE) + result.measures(BETTER)


def _compare(a: pd.DataFrame, b: pd.DataFrame, margin: float) -> Comparison:
    return compare(Sample("a", a), Sample("b", b), margin=margin, replicates=REPLICATES)


def power(pool: Pool, phase: str, margin: float, repeats: int, seed: int) -> dict:
    """Return how often a slow-down as large as the margin is seen with the promised n.

    Every repetition has a pilot of its own; `n` is the median of what they promised. Where more
    than MAX_N are promised, it is not tried.
    """
    rng = np.random.default_rng([seed, SLOWED.index(phase), round(margin * 100)])
    row = {"phase": phase, "margin": margin, "seen": 0, "named": 0, "right": 0, "tried": 0}
    promised = []
    for _ in range(repeats):
        n = _promised(pool, phase, margin, rng)
        promised.append(n)
        if n > MAX_N:
            continue
        a = pool.draw(n, rng)
        b = pool.draw(n, rng)
        seconds = margin * max(a[phase].mean(), OF_E2E * a["e2e_s"].mean())
        result = _compare(a, slowed(b, phase, seconds, rng), margin)
        row["tried"] += 1
        row["seen"] += int(result.table.loc[phase, "verdict"] == WORSE)
        if result.phase is not None:
            row["named"] += 1
            row["right"] += int(result.phase.name == phase)
    return row | {"n": int(np.median(promised))}


def _promised(pool: Pool, phase: str, margin: float, rng: np.random.Generator) -> int:
    """Return how many requests per side a pilot promises to be enough."""
    n_more = math.nan
    for _ in range(PILOTS):
        pilot = _compare(pool.draw(PILOT, rng), pool.draw(PILOT, rng), margin)
        n_more = float(pilot.table["n_more"].get(phase, math.nan))
        if not math.isnan(n_more):
            break
    return PILOT + (0 if math.isnan(n_more) else int(n_more))


def live_pairs(folder: Path = DATA) -> pd.DataFrame:
    """Return the verdicts on real runs of the same system: single pairs, and lists (ABAB).

    The second run of a plan finds its questions in the prefix cache, which is a difference. So only
    first runs are compared with first runs, and second with second. The lists of "equal" runs have
    no run in common.
    """
    rows = []
    for stage in ("agent a", "agent b", "chat a", "chat b", "equal"):
        runs = runs_of(stage, folder)
        singles = list(zip(runs[:-1], runs[1:], strict=True))
        lists = [
            (runs[first : first + size : 2], runs[first + 1 : first + size : 2])
            for size in (4, 6, 8)
            for first in range(len(runs) - size + 1)
        ]
        if stage == "equal":
            singles = singles[::2]
            lists = lists[: len(runs) - 3 : 4]
        for kind, pairs in (("single", singles), ("ABAB", lists)):
            for a, b in pairs:
                result = compare(a, b, margin=0.10, replicates=REPLICATES)
                rows.append({"traffic": stage, "kind": kind, "alarms": ", ".join(_alarms(result))})
    return pd.DataFrame(rows)


def live_slow_tools(folder: Path = DATA) -> Comparison:
    """Return the comparison of the runs whose tools were slower with those between them."""
    return compare(runs_of("tools usual", folder), runs_of("tools slow", folder), margin=0.10)


def rows(small: bool, folder: Path = DATA) -> list[dict]:
    """Return the rows for `lab bench`."""
    pools = {stage: Pool(runs_of(stage, folder)) for stage in ("agent", "chat")}
    pairs = 40 if small else 200
    equal = false_alarms(pools, pairs, SEED)
    live = live_pairs(folder)
    for table in (equal[equal["alarms"] != ""], live[live["alarms"] != ""]):
        print(table.to_string(index=False), flush=True)

    powers = []
    for phase in SLOWED:
        for margin in SLOWER[1:] if small else SLOWER:
            powers.append(power(pools["agent"], phase, margin, 4 if small else 20, SEED))
            print(powers[-1], flush=True)
    tried = pd.DataFrame(powers)
    totals = tried[["seen", "named", "right", "tried"]].sum()
    slow = live_slow_tools(folder)
    named = slow.phase.name if slow.phase else "none"
    seen = float(totals["seen"] / totals["tried"])
    right = float(totals["right"] / max(1, totals["named"]))
    false = float((equal["alarms"] != "").mean())
    alone = live[live["kind"] == "single"]["alarms"] != ""
    alternating = live[live["kind"] == "ABAB"]["alarms"] != ""
    values = (
        ("false_alarm_ratio", false, "lower", 0.05, f"{pairs} pairs, resampled by blocks"),
        (
            "false_alarm_live_ratio",
            float(alternating.mean()),
            "lower",
            0.05,
            f"{len(alternating)} lists of real runs that alternate; of {len(alone)} single pairs, "
            f"between which the machine's load changed, {alone.mean():.0%}",
        ),
        ("power_ratio", seen, "higher", 0.8, f"{totals['tried']} runs of the promised n"),
        ("guilty_phase_ratio", right, "higher", 0.95, f"of {totals['named']} that were named"),
        ("slow_tools_named", float(named == "tool_s"), "higher", 1.0, f"live; named: {named}"),
    )
    return [
        {"subject": "lab", "metric": m, "value": v, "better": b, "bound": bound, "note": note}
        for m, v, b, bound, note in values
    ]
