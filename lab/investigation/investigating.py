"""Investigate a window: what changed and when, where, and which causes are likely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lab.errors import WorkloadError
from lab.investigation.causes import NOTHING, UNKNOWN, Cause, rank
from lab.investigation.change import Effect, Onset, Span, compare, find_onset, pool
from lab.investigation.evidence import Evidence, gather
from lab.investigation.grading import Diagnosis
from lab.investigation.signals import SIGNALS, Observed, Signal, extract
from lab.measures import holm
from lab.observation.window import parse_window
from lab.settings import Settings

ALPHA = 0.02  # of all signals of a window at once
SCANNED = 20  # times a p-value, since the time of the change was chosen by the same values
LIKELY = 0.01  # of one signal alone, once another one has changed for certain
BASELINE_S = 1.5  # times the window: the default baseline before it
BEST = 5  # signals by which the onset is found
LARGE = 3.0  # times the least change that matters: a change that is worth naming on few values
FEW = 8  # values of a signal on either side, which are too few to be certain


@dataclass(frozen=True)
class Investigation:
    """The result: `changed` signals, the most certain first, and `causes`, the most likely first.

    `onset` is None where nothing changed or its time cannot be told. `observed` has all signals;
    `notes` say what is not known, and why.
    """

    window: Span
    baseline: Span
    observed: tuple[Observed, ...] = field(repr=False)
    causes: tuple[Cause, ...] = ()
    onset: Onset | None = None
    notes: tuple[str, ...] = ()

    @property
    def changed(self) -> list[Observed]:
        """Return the signals that changed for certain, and then the likely ones."""
        chosen = [each for each in self.observed if abs(each.state) > 0]
        return sorted(chosen, key=lambda each: (-abs(each.state), each.p_value))

    @property
    def undecided(self) -> list[Observed]:
        """Return signals that seem to have changed much, but on too few values to be certain."""
        return [each for each in self.observed if _is_undecided(each)]

    @property
    def cause(self) -> str:
        """Return the name of the first cause, "nothing changed", or "another cause"."""
        if not self.causes:
            return NOTHING
        return self.causes[0].name if self.causes[0].log_odds > 0 else UNKNOWN

    @property
    def where(self) -> str:
        """Return the place of the first cause; empty where none is known."""
        return self.causes[0].where if self.cause not in (NOTHING, UNKNOWN) else ""

    def __str__(self) -> str:
        from lab.investigation.report import headline

        return headline(self)


def investigate(settings: Settings, window: str, baseline: str = "") -> Investigation:
    """Compare a window with its baseline and return what changed, since when, where, and why.

    Both are 'START/END' in ISO 8601 with a time zone, or 'last 15m' (`lab.drive`). The default
    baseline is the time before the window, one and a half times as long. Prometheus alone is
    enough, and so are traces alone: `notes` say what then is not known. Raises WorkloadError for a
    window that cannot be read or a baseline after it, NoData where nothing is known of it.
    """
    start, end = parse_window(window)
    before = (start - BASELINE_S * (end - start), start)
    before = parse_window(baseline) if baseline else before
    if before[1] > start + 1:
        raise WorkloadError(
            "the baseline must end before the window begins",
            got=f"baseline {baseline!r}, window {window!r}",
            fix="give a baseline that ends earlier, or none: the time before the window",
        )
    return judge(gather(settings, (start, end), (before[0], min(before[1], start))))


def judge(evidence: Evidence) -> Investigation:
    """Return the investigation of what is known already."""
    extracted = [each for signal in SIGNALS for each in _extract(evidence, signal)]
    notes = (*evidence.notes, *_unknown(extracted))
    first = _first_look(evidence, extracted)
    certain = [each for each in first if abs(each.state) == 1]
    result = Investigation(evidence.window, evidence.baseline, tuple(first), notes=notes)
    if not certain:
        quiet = tuple(replace(each, state=0.0 * each.state) for each in first)
        return replace(result, observed=quiet)

    onset = _onset(evidence, certain)
    second = first
    if onset is not None:
        # What the first look saw stays: it has the more cautious test.
        again = _observe(extracted, *_times(evidence, onset))
        second = [
            other if abs(other.state) >= abs(once.state) else once
            for once, other in zip(first, again, strict=True)
        ]
    causes = rank(second)
    refined = _onset(evidence, _supporting(causes[0], second)) or onset
    return replace(result, observed=tuple(second), causes=tuple(causes), onset=refined)


def _extract(evidence: Evidence, signal: Signal) -> list[Observed]:
    """Return a signal's points, by key, with what its keys have in common if they are alike."""
    parts = extract(evidence, signal)
    pooled = None
    if signal.alike:
        tables = [points for _, _, points in parts]
        pooled = pool(tables, evidence.baseline, signal.scale, signal.floor)
    return [
        Observed(signal, source, key, points=points, pooled=pooled) for key, source, points in parts
    ]


def _compare(each: Observed, before: Sequence[Span], after: Sequence[Span]) -> Effect:
    signal = each.signal
    return compare(each.points, before, after, signal.scale, signal.floor, each.pooled)


def _first_look(evidence: Evidence, extracted: Sequence[Observed]) -> list[Observed]:
    """Return all signals, each between baseline and window, or since its own change.

    An incident that fills a part of the window only is diluted by the rest of it, so each signal is
    also compared at the time at which it changed most; that choice costs certainty (SCANNED).
    """
    effects = []
    for each in extracted:
        whole = _compare(each, [evidence.baseline], [evidence.window])
        effect = replace(whole, p_value=min(1.0, 2 * whole.p_value))
        onset = _onset(evidence, [each])
        if onset is not None:
            times = _times(evidence, onset)
            part = _compare(each, *times)
            p_value = min(1.0, 2 * SCANNED * part.p_value)
            if p_value < effect.p_value:
                effect = replace(part, p_value=p_value)
        effects.append(effect)
    return _judged(extracted, effects)


def _observe(
    extracted: Sequence[Observed], before: Sequence[Span], after: Sequence[Span]
) -> list[Observed]:
    """Return the effects and states of all signals between two times."""
    return _judged(extracted, [_compare(each, before, after) for each in extracted])


def _judged(extracted: Sequence[Observed], effects: Sequence[Effect]) -> list[Observed]:
    """Return the signals with their effects, and with states by all p-values at once (Holm).

    A signal that is constant (no failure in either time) cannot be a false finding, so it is not
    counted.
    """
    p_values = np.array([effect.p_value for effect in effects])
    corrected = np.where(np.isnan(p_values), math.nan, 1.0)
    counted = p_values < 1.0
    if counted.any():
        corrected[counted] = holm(p_values[counted])
    return [
        replace(each, effect=effect, p_value=float(p), state=_state(each, effect, float(p)))
        for each, effect, p in zip(extracted, effects, corrected, strict=True)
    ]


def _is_undecided(each: Observed) -> bool:
    effect = each.effect
    few = min(effect.n_before, effect.n_after) < FEW
    return few and not abs(each.state) >= 1 and _relative_size(each.signal, effect) >= LARGE


def _relative_size(signal: Signal, effect: Effect) -> float:
    """Return the size of a change in least changes that matter; NaN where it is not known."""
    if signal.scale == "ratio":
        return abs(math.log(effect.size)) / math.log(signal.least)
    return abs(effect.size) / signal.least


def _state(each: Observed, effect: Effect, corrected: float) -> float:
    """Return 1 (up), -1 (down), half of it where it is only likely, 0, or NaN (not known)."""
    if math.isnan(effect.p_value):
        return math.nan
    if _relative_size(each.signal, effect) < 1:
        return 0.0
    rises = effect.size > (1 if each.signal.scale == "ratio" else 0)
    if each.signal.only_rises and not rises:
        return 0.0
    sign = 1.0 if rises else -1.0
    if corrected < ALPHA:
        return sign
    return sign / 2 if effect.p_value < LIKELY else 0.0


def _onset(evidence: Evidence, changed: Sequence[Observed]) -> Onset | None:
    """Return when these signals changed; in the baseline, too, where the window follows it."""
    start, end = evidence.window
    if evidence.adjacent:
        start = evidence.baseline[0] + 0.25 * (evidence.baseline[1] - evidence.baseline[0])
    best = sorted(changed, key=lambda each: (each.signal.common, each.p_value))[:BEST]
    series = [(each.points, each.signal.scale, each.signal.floor) for each in best]
    return find_onset(series, evidence.window, start)


def _times(evidence: Evidence, onset: Onset) -> tuple[list[Span], list[Span]]:
    """Return the times before and after the onset; the window and its baseline if one is short."""
    start, end = evidence.window
    after = (onset.at, onset.ended)
    if onset.ended - onset.at < 0.1 * (end - start):
        return [evidence.baseline], [evidence.window]
    before = [(evidence.baseline[0], min(evidence.baseline[1], onset.at))]
    if onset.at > start:
        before.append((start, onset.at))
    return before, [after]


def _supporting(cause: Cause, observed: Sequence[Observed]) -> list[Observed]:
    """Return the changed signals that speak for a cause; all that changed where none does."""
    reasons = [reason.observed for reason in cause.evidence(1) if abs(reason.observed.state) > 0]
    return reasons or [each for each in observed if abs(each.state) == 1]


def _unknown(extracted: Sequence[Observed]) -> list[str]:
    known = {each.signal.name for each in extracted}
    missing = [signal.title for signal in SIGNALS if signal.name not in known]
    return [f"not known: {', '.join(missing)}"] if missing else []


# Of a first cause: the signal that says how much, as its incident counts it, and how to read it.
AMOUNTS = {
    "slow_tool": ("tool_time", lambda effect: effect.after - effect.before),
    "failing_tool": ("tool_failures", lambda effect: effect.after),
    "wrong_tool": ("wrong_with_tool", lambda effect: effect.after),
    "spans_lost": ("missing_spans", lambda effect: effect.after),
    "clock_skew": ("skew", lambda effect: effect.after),
    "bad_rollout": ("new_engine", lambda effect: effect.after),
    "busy_cpu": ("foreign_cpu", lambda effect: effect.size),
}


def diagnosis_of(result: Investigation) -> Diagnosis:
    """Return the investigation's answer, in the form in which people answer."""
    if result.cause in (NOTHING, UNKNOWN):
        return Diagnosis()
    since = result.onset.at if result.onset else math.nan
    signal, amount_of = AMOUNTS.get(result.cause, ("", None))
    amount = math.nan
    for each in result.changed:
        if amount_of and each.signal.name == signal and each.key in ("", result.where):
            amount = amount_of(each.effect)
            break
    return Diagnosis(result.cause, result.where, since, amount)
