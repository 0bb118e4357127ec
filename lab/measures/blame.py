"""Who delayed whom: the seconds that model calls lost to others on the same engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse, stats
from scipy.optimize import nnls

from lab.errors import FrameError, require_columns

WAITING = "waiting"  # before the engine scheduled the call
PREFILL = "prefill"  # in its own prefill, beside another one
DECODE = "decode"  # its tokens came late, beside another call's prefill
BATCH = "batch"  # its tokens came late, since the batch held other calls' tokens
PASSED = "passed on"  # lost to a call that was there only because the culprit had delayed it
MIN_CALLS = 10
MIN_PASSED_S = 1e-4
RELEVANT = 3.0  # times what others' requests cause; in a long window any difference is certain
REPLICATES = 200
SEED = 20_261_128
_NEEDED = ("trace_id", "called_at", "scheduled_at", "first_token_at", "ended_at")


@dataclass(frozen=True)
class Pace:
    """How fast a call's tokens come: fitted to all calls of an engine.

    Tokens = `alone_per_s` * (free seconds - `shared` * seconds of others' decoding at the same
    time) + `beside_per_s` * seconds in which another call was in prefill. A step that holds a
    prefill takes longer, and gives each call one token all the same.
    """

    alone_per_s: float
    shared: float
    beside_per_s: float


@dataclass(frozen=True)
class Blame:
    """Seconds lost, by victim and culprit.

    - `losses`: one row per pair of calls and kind of loss: `victim`, `culprit` (values of the
      column `by`), `victim_trace`, `culprit_trace`, `kind` (WAITING, PREFILL, DECODE, BATCH,
      PASSED), `lost_s`. Pairs of one group are left out;
    - `culprits`: one row per culprit, the worst first: `calls`, `victims` (requests of others that
      lost by it), `lost_s` with its 95 % interval `low_s`, `high_s`; `usual_s`, the most that so
      many requests would cause if they were like all the others; and `blamed`: the interval lies
      above it;
    - `victims`: one row per victim: `lost_s` to others, `unexplained_s` (beyond what the pace and
      the losses explain: preemption, other processes, the network);
    - `pace`: by engine.
    """

    by: str
    losses: pd.DataFrame
    culprits: pd.DataFrame
    victims: pd.DataFrame
    pace: dict[Hashable, Pace]

    @property
    def blamed(self) -> list[str]:
        """Return the culprits beyond doubt, the worst first; empty where there is none."""
        return self.culprits.loc[self.culprits["blamed"], "culprit"].tolist()


def blame(turns: pd.DataFrame, *, by: str = "request_id", engine: str = "model") -> Blame:
    """Return what calls lost to each other, from their spans alone.

    `turns` is a turn frame (`lab.frames.turn_frame`); calls are compared within an engine (a
    column). `by` names who can be blamed: request_id, tenant, user_id, session_id, kind, ...

    A call that waits to be scheduled loses the time in which others were in prefill (shared between
    these), one in prefill the others' share of the tokens. Lost decoding follows from the pace of
    tokens beside others' prefills and in large batches, fitted to all calls (`Pace`).

    A call that was delayed itself delays others for longer: that part of its blame is passed on to
    the calls that delayed it. `usual_s` is the mean of the others' requests, plus their spread at
    95 % for all culprits at once, and at least Tukey's outer fence (1977) for one of them and
    RELEVANT times the mean: a run without a culprit has many small losses.

    Raises FrameError where fewer than MIN_CALLS calls have the engine's times, or a column is
    missing.
    """
    needed = sorted({*_NEEDED, by, engine, "completion_tokens", "prompt_tokens"})
    require_columns(turns, needed, "the turns lack {}", fix="make them with turn_frame")
    timed = turns.dropna(subset=list(_NEEDED)).sort_values("called_at", ignore_index=True)
    if len(timed) < MIN_CALLS:
        raise FrameError(
            "too few model calls to see who delayed whom",
            got=f"{len(timed)} calls with the engine's times, of {len(turns)}",
            fix=f"give at least {MIN_CALLS}; vLLM reports the times with --otlp-traces-endpoint",
        )

    engines = timed.groupby(engine, sort=False, observed=True)
    parts = [_Engine(name, calls.reset_index(drop=True), by) for name, calls in engines]
    losses = pd.concat([part.losses for part in parts], ignore_index=True)
    culprits = _culprits(timed, by, losses, sum(part.totals for part in parts))
    victims = pd.concat([part.victims for part in parts]).groupby("victim", as_index=False).sum()
    others = losses["victim"] != losses["culprit"]
    victims = victims.sort_values("lost_s", ascending=False, ignore_index=True)
    return Blame(
        by,
        losses[others].sort_values("lost_s", ascending=False, ignore_index=True),
        culprits,
        victims,
        {part.name: part.pace for part in parts},
    )


class _Engine:
    """The calls of one engine, in order of time: their losses to each other."""

    def __init__(self, name: Hashable, calls: pd.DataFrame, by: str) -> None:
        self.name = name
        self._calls = calls
        self._by = by
        groups = calls[by].astype("category").cat
        self._names = groups.categories
        self._codes = groups.codes.to_numpy()
        self._find_pairs()
        self._find_overlaps()
        self.pace = self._fit(np.ones(len(calls)))
        seconds = self._seconds(self.pace)
        self.victims = self._victims(seconds)
        direct, passed = self._pass_on(seconds)
        self.losses = self._table(direct, passed)
        self.totals = self._resample()

    def _find_pairs(self) -> None:
        """Find the pairs (victim, culprit) of calls that were on the engine at the same time."""
        calls = self._calls
        called = calls["called_at"].to_numpy()
        ended = calls["ended_at"].to_numpy()
        longest = float((ended - called).max())
        first = np.searchsorted(called, called - longest)
        counts = np.searchsorted(called, ended) - first
        victim = np.repeat(np.arange(len(calls)), counts)
        within = np.arange(len(victim)) - np.repeat(np.cumsum(counts) - counts, counts)
        culprit = first[victim] + within
        trace = pd.factorize(calls["trace_id"])[0]
        kept = (ended[culprit] > called[victim]) & (trace[victim] != trace[culprit])
        self._victim = victim[kept]
        self._culprit = culprit[kept]
        self._of_others = self._codes[self._victim] != self._codes[self._culprit]

    def _find_overlaps(self) -> None:
        """Find how long each victim's phases ran beside others' prefill and decoding, and whose."""
        calls = self._calls
        called, scheduled, first, ended = (calls[name].to_numpy() for name in _NEEDED[1:])
        fresh = np.maximum(1, calls["prompt_tokens"] - calls["cached_tokens"]).to_numpy(float)
        per_s = fresh / np.maximum(first - scheduled, 1e-9)
        busy = _busy_until(scheduled, first)
        work = per_s[self._culprit]  # tokens per second that a culprit's prefill computed

        wait_s = np.maximum(0.0, scheduled - called)
        beside_s = busy(np.maximum(called, scheduled)) - busy(called)
        self._waiting_s = self._divided(
            beside_s, work * self._overlap(called, scheduled, scheduled, first)
        )
        # What is left of a wait, beyond what every call waits, is the running batch's.
        left_s = wait_s - beside_s
        left_s = np.maximum(0.0, left_s - np.median(left_s))
        self._waiting_s += self._divided(left_s, self._overlap(called, scheduled, first, ended))

        others = work * self._overlap(scheduled, first, scheduled, first)
        total = self._per_victim(others)
        self._prefill_s = self._divided((first - scheduled) * total / (total + fresh), others)

        self._decode_s = ended - first
        self._stalled_s = busy(ended) - busy(first)
        self._stalled_by = self._divided(
            np.ones(len(calls)), work * self._overlap(first, ended, scheduled, first)
        )
        self._together_s = self._overlap(first, ended, first, ended)
        self._tokens = calls["completion_tokens"].to_numpy(float) - 1

    def _divided(self, seconds: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return each victim's seconds divided among its culprits in proportion to `shares`."""
        total = self._per_victim(shares)
        return (seconds / np.maximum(total, 1e-12))[self._victim] * shares

    def _overlap(
        self, start: np.ndarray, end: np.ndarray, other_start: np.ndarray, other_end: np.ndarray
    ) -> np.ndarray:
        """Return the seconds that a victim's and a culprit's interval have in common, per pair."""
        latest = np.maximum(start[self._victim], other_start[self._culprit])
        earliest = np.minimum(end[self._victim], other_end[self._culprit])
        return np.maximum(0.0, earliest - latest)

    def _per_victim(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self._victim, weights=values, minlength=len(self._calls))

    def _fit(self, weights: np.ndarray) -> Pace:
        """Fit the pace by non-negative least squares to all calls with several tokens."""
        free_s = self._decode_s - self._stalled_s
        together_s = self._per_victim(self._together_s)
        columns = np.column_stack([free_s, -together_s, self._stalled_s])
        root = np.sqrt(weights)
        used = (self._tokens > 0) & (self._decode_s > 0)
        if not used.any():
            return Pace(0.0, 0.0, 0.0)
        x = (columns * root[:, None])[used]
        alone, together, beside = nnls(x, (self._tokens * root)[used])[0]
        return Pace(float(alone), float(together / alone) if alone else 0.0, float(beside))

    def _seconds(self, pace: Pace) -> dict[str, np.ndarray]:
        """Return the lost seconds of every pair, by kind."""
        lost = np.zeros_like(self._together_s)
        batch = np.zeros_like(lost)
        if pace.alone_per_s > 0:
            ratio = max(0.0, 1 - pace.beside_per_s / pace.alone_per_s)
            lost = ratio * self._stalled_s[self._victim] * self._stalled_by
            batch = pace.shared * self._together_s
        return {WAITING: self._waiting_s, PREFILL: self._prefill_s, DECODE: lost, BATCH: batch}

    def _pass_on(
        self, seconds: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], sparse.coo_array]:
        """Return the losses less what is passed on, and (victim, culprit) of what was passed on."""
        calls = self._calls
        size = (len(calls), len(calls))
        lost = sparse.coo_array(
            (sum(seconds.values()), (self._victim, self._culprit)), shape=size
        ).tocsr()
        by_victim = lost.sum(axis=1)
        on_engine_s = (calls["ended_at"] - calls["called_at"]).to_numpy()
        delayed = np.minimum(1.0, by_victim / np.maximum(on_engine_s, 1e-9))
        shares = sparse.diags_array(delayed / np.maximum(by_victim, 1e-12)) @ lost
        passed = (lost @ shares).tocoo()
        kept = (passed.row != passed.col) & (passed.data > MIN_PASSED_S)
        passed = sparse.coo_array(
            (passed.data[kept], (passed.row[kept], passed.col[kept])), shape=size
        )
        remains = 1 - delayed[self._culprit]
        return {kind: lost_s * remains for kind, lost_s in seconds.items()}, passed

    def _table(self, direct: dict[str, np.ndarray], passed: sparse.coo_array) -> pd.DataFrame:
        group = self._calls[self._by].to_numpy(object)
        trace = self._calls["trace_id"].to_numpy(object)
        parts = [(kind, self._victim, self._culprit, lost_s) for kind, lost_s in direct.items()]
        tables = []
        for kind, victim, culprit, lost_s in (*parts, (PASSED, *passed.coords, passed.data)):
            rows = np.flatnonzero(lost_s > 0)
            columns = {
                "victim": group[victim[rows]],
                "culprit": group[culprit[rows]],
                "victim_trace": trace[victim[rows]],
                "culprit_trace": trace[culprit[rows]],
                "kind": kind,
                "lost_s": lost_s[rows],
            }
            tables.append(pd.DataFrame(columns))
        table = pd.concat(tables, ignore_index=True)
        return table[table["victim_trace"] != table["culprit_trace"]]

    def _victims(self, seconds: dict[str, np.ndarray]) -> pd.DataFrame:
        """Return the losses to other groups, and what nothing explains, one row per call."""
        lost_s = self._per_victim(sum(seconds.values()) * self._of_others)
        explained = self._per_victim(seconds[DECODE] + seconds[BATCH])
        alone_s = np.zeros(len(self._calls))
        if self.pace.alone_per_s > 0:
            alone_s = np.maximum(0.0, self._tokens) / self.pace.alone_per_s
        return pd.DataFrame(
            {
                "victim": self._calls[self._by],
                "lost_s": lost_s,
                "unexplained_s": self._decode_s - alone_s - explained,
            }
        )

    def _resample(self) -> pd.DataFrame:
        """Return each culprit's losses to others (columns) in resamplings of the victims (rows)."""
        rng = np.random.default_rng(SEED)
        size = len(self._calls)
        rows = []
        for _ in range(REPLICATES):
            weights = rng.poisson(1.0, size).astype(float)
            rows.append(self._per_group(self._seconds(self._fit(weights)), weights))
        direct = self._per_group(self._seconds(self.pace), np.ones(size))
        table = self.losses[self.losses["victim"] != self.losses["culprit"]]
        whole = table.groupby("culprit")["lost_s"].sum().reindex(self._names).fillna(0.0).to_numpy()
        scale = np.where(direct > 0, whole / np.maximum(direct, 1e-12), 1.0)
        return pd.DataFrame(np.array(rows) * scale, columns=pd.Index(self._names.astype(str)))

    def _per_group(self, seconds: dict[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
        """Return what each group's calls took from others, with weights of the victims."""
        lost_s = sum(seconds.values()) * self._of_others * weights[self._victim]
        culprits = self._codes[self._culprit]
        return np.bincount(culprits, weights=lost_s, minlength=len(self._names))


def _busy_until(start: np.ndarray, end: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function of time: the seconds up to it in which at least one interval ran."""
    order = np.argsort(start)
    reach = np.maximum.accumulate(end[order])
    begins = np.r_[True, start[order][1:] > reach[:-1]]
    starts = start[order][begins]
    ends = reach[np.r_[begins[1:], True]]
    before = np.cumsum(ends - starts)
    times = np.column_stack([starts, ends]).ravel()
    totals = np.column_stack([before - (ends - starts), before]).ravel()
    return lambda t: np.interp(t, times, totals)


def _culprits(
    timed: pd.DataFrame, by: str, losses: pd.DataFrame, totals: pd.DataFrame
) -> pd.DataFrame:
    """Return the table of culprits."""
    by_trace = losses.groupby("culprit_trace")["lost_s"].sum()
    traces = timed.drop_duplicates("trace_id").set_index("trace_id")[by]
    caused = by_trace.reindex(traces.index).fillna(0.0).to_numpy()
    groups = timed.groupby(by, observed=True)
    level = float(stats.norm.isf(0.05 / max(2, len(groups))))
    to_others = losses[losses["victim"] != losses["culprit"]].groupby("culprit")
    rows = []
    for culprit, calls in groups:
        own = (traces == culprit).to_numpy()
        usual_s = _usual(caused[~own], int(own.sum()), level) * float((timed[by] != culprit).mean())
        low_s, high_s = np.quantile(totals[str(culprit)], [0.025, 0.975])
        lost = to_others.get_group(culprit) if culprit in to_others.groups else losses.iloc[:0]
        rows.append(
            {
                "culprit": culprit,
                "calls": len(calls),
                "victims": lost["victim_trace"].nunique(),
                "lost_s": float(lost["lost_s"].sum()),
                "low_s": float(low_s),
                "high_s": float(high_s),
                "usual_s": usual_s,
                "blamed": bool(low_s > usual_s),
            }
        )
    return pd.DataFrame(rows).sort_values("lost_s", ascending=False, ignore_index=True)


def _usual(others: np.ndarray, count: int, level: float) -> float:
    """Return the most that `count` requests cause if they are like the others; inf for too few."""
    if len(others) < MIN_CALLS:
        return math.inf
    low, high = np.quantile(others, [0.25, 0.75])
    fence = high + 3 * (high - low)
    clipped = np.minimum(others, fence)
    total = count * clipped.mean() + level * math.sqrt(count) * clipped.std()
    relevant = RELEVANT * count * others.mean()
    return float(max(total, relevant, fence + (count - 1) * clipped.mean()))
