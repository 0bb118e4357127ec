"""Rank causes by the signals: one rule for all, with the table in causes.toml."""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lab.investigation.signals import Observed

NOTHING = "nothing changed"
UNKNOWN = "another cause"
_FILE = Path(__file__).parent / "causes.toml"
# How often a signal changes: with a cause that predicts it, and in any incident.
EXPECTED = {"always": 0.9, "often": 0.5, "never": 0.004}
ANY = {True: 0.3, False: 0.04}  # by Signal.common
UNSEEN = -0.7  # log odds of a signal that a cause always changes, and that is not known here
HALF = 0.4  # of the weight, for a change that is not certain


@dataclass(frozen=True)
class Kind:
    """A row of causes.toml; `predicts` is {(signal, 1 or -1): always, often or never}."""

    name: str
    title: str
    place: str
    phase: str
    predicts: dict[tuple[str, int], str]
    decide: str
    fix: str


@dataclass(frozen=True)
class Reason:
    """What one signal says on a cause: log odds for it (positive) or against it."""

    observed: Observed
    expected: str
    log_odds: float


@dataclass(frozen=True)
class Cause:
    """A possible cause, with its evidence; `log_odds` are the sum of the reasons'.

    `share` is its share of the belief among all causes, and "another cause". `unseen` are signals
    that it always changes, but that are not known here.
    """

    kind: Kind
    where: str
    log_odds: float
    reasons: tuple[Reason, ...]
    unseen: tuple[str, ...] = ()
    share: float = math.nan

    @property
    def name(self) -> str:
        """Return its name, as `lab incident` has it."""
        return self.kind.name

    def evidence(self, sign: int) -> list[Reason]:
        """Return the reasons for (1) or against (-1) it, the strongest first."""
        chosen = [reason for reason in self.reasons if reason.log_odds * sign > 0]
        return sorted(chosen, key=lambda reason: -abs(reason.log_odds))


@functools.cache
def kinds() -> dict[str, Kind]:
    """Return the causes of causes.toml, by name."""
    table = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    result = {}
    for name, row in table.items():
        predicts = {}
        for expected in EXPECTED:
            for text in row.get(expected, ()):
                signal, direction = text.split()
                predicts[signal, {"up": 1, "down": -1}[direction]] = expected
        texts = {key: row[key] for key in ("title", "place", "phase", "decide", "fix")}
        result[name] = Kind(name, predicts=predicts, **texts)
    return result


def rank(observed: Sequence[Observed]) -> list[Cause]:
    """Return all causes, the most likely first, judged by the same signals."""
    strongest = _strongest(observed)
    causes = []
    for kind in kinds().values():
        reasons = tuple(
            reason
            for (name, direction), expected in kind.predicts.items()
            if (reason := _reason(strongest, name, direction, expected)) is not None
        )
        unseen = tuple(
            signal
            for (signal, direction), expected in kind.predicts.items()
            if expected == "always" and (signal, direction) not in strongest
        )
        log_odds = sum(reason.log_odds for reason in reasons) + UNSEEN * len(unseen)
        causes.append(Cause(kind, _where(kind, strongest), log_odds, reasons, unseen))

    causes.sort(key=lambda cause: -cause.log_odds)
    best = max(causes[0].log_odds, 0.0)
    weights = [math.exp(cause.log_odds - best) for cause in causes]
    total = sum(weights) + math.exp(-best)
    return [replace(c, share=weight / total) for c, weight in zip(causes, weights, strict=True)]


def _strongest(observed: Sequence[Observed]) -> dict[tuple[str, int], Observed]:
    """Return for each signal and direction the key that changed most clearly."""
    strongest: dict[tuple[str, int], Observed] = {}
    for each in observed:
        if math.isnan(each.state):
            continue
        for direction in (1, -1):
            key = each.signal.name, direction
            if key not in strongest or _clarity(each, direction) > _clarity(
                strongest[key], direction
            ):
                strongest[key] = each
    return strongest


def _clarity(observed: Observed, direction: int) -> tuple[float, float]:
    return observed.state * direction, -observed.p_value


def _reason(
    strongest: dict[tuple[str, int], Observed], name: str, direction: int, expected: str
) -> Reason | None:
    """Return the log odds of what was observed: with this cause, against any incident."""
    observed = strongest.get((name, direction))
    if observed is None:
        return None
    usual = ANY[observed.signal.common]
    with_cause = EXPECTED[expected]
    agreement = observed.state * direction
    changed = math.log(with_cause / usual)
    unchanged = math.log((1 - with_cause) / (1 - usual))
    if expected == "never" and observed.signal.common:
        changed = max(changed, -0.5)
    if agreement >= 1:
        log_odds = changed
    elif agreement > 0:
        log_odds = HALF * changed
    else:
        log_odds = unchanged if expected != "never" else 0.0
    if not log_odds:
        return None
    return Reason(observed, f"{expected} {'up' if direction > 0 else 'down'}", log_odds)


def _where(kind: Kind, strongest: dict[tuple[str, int], Observed]) -> str:
    """Return the place of a cause: a fixed name, or the key of the signal that names it."""
    if not any(name == kind.place for name, _ in kind.predicts):
        return kind.place
    observed = strongest.get((kind.place, 1))
    return observed.key if observed is not None and observed.state > 0 else ""
