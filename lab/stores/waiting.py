"""Spans arrive late and in any order. Wait, bounded, and say what did not come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.errors import IncompleteTraces
from lab.stores.answers import SpansAnswer
from lab.stores.outline import missing_parents, span_counts
from lab.stores.timestamps import Instant

if TYPE_CHECKING:
    from lab.stores.tempo import Tempo

POLL_S = 1.0
NOTHING = "no span of it has arrived"
GROWING = "its spans are still arriving"

Problems = Callable[[SpansAnswer], Mapping[str, str]]


@dataclass(frozen=True)
class Arrival:
    """What a wait ended with. `incomplete` is {trace id: why}."""

    complete: tuple[str, ...]
    incomplete: Mapping[str, str]
    waited_s: float

    @property
    def complete_ratio(self) -> float:
        """Share of the traces that are complete; NaN of none."""
        total = len(self.complete) + len(self.incomplete)
        return len(self.complete) / total if total else float("nan")

    def require(self) -> Arrival:
        """Itself, if every trace is complete. Raises IncompleteTraces that counts and names the others."""
        if not self.incomplete:
            return self
        some = "; ".join(f"{i}: {why}" for i, why in list(self.incomplete.items())[:3])
        raise IncompleteTraces(
            f"{len(self.incomplete)} of {len(self.complete) + len(self.incomplete)} traces are not complete after "
            f"{self.waited_s:.0f} s",
            got=some,
            fix="wait longer, see the log of the part whose spans are missing, or go on without these traces and say so",
        )

    def __str__(self) -> str:
        total = len(self.complete) + len(self.incomplete)
        text = f"{len(self.complete)} of {total} traces complete after {self.waited_s:.1f} s"
        for why in sorted(set(self.incomplete.values())):
            text += f"\n  {sum(w == why for w in self.incomplete.values())} not: {why}"
        return text


def wait(
    tempo: Tempo,
    trace_ids: Iterable[str],
    *,
    timeout_s: float,
    problems: Problems | None = None,
    window: tuple[Instant, Instant] | None = None,
) -> Arrival:
    """Ask again and again until every trace is complete, at most `timeout_s` long.

    A trace is complete when `problems` (answer -> {trace id: what is wrong, '' for nothing}) finds nothing wrong and
    it has not grown since the question before. Default for `problems`: it has a root, and every parent that is
    named; `lambda answer: trace_problems(spans_frame(answer))` of `lab.frames` knows more. With a window the lab's own
    store is asked for all traces in it at once.
    """
    find_problems = problems or missing_parents
    wanted, begun = list(dict.fromkeys(trace_ids)), time.monotonic()
    pending, sizes = wanted, dict.fromkeys(wanted, 0)
    wrong: dict[str, str] = {}
    looks = 0
    while pending:
        answer = tempo.spans("{}", *window) if window and tempo.streams else tempo.traces(pending)
        found, now = find_problems(answer), span_counts(answer)
        for trace_id in pending:
            grown = now.get(trace_id, 0) != sizes[trace_id]
            wrong[trace_id] = (
                (found.get(trace_id) or (GROWING if grown else "")) if trace_id in now else NOTHING
            )
        sizes.update({i: now.get(i, 0) for i in pending})
        pending = [i for i in pending if wrong[i]]
        left_s, looks = timeout_s - (time.monotonic() - begun), looks + 1
        if left_s <= 0 and looks > 1:  # a single look cannot tell whether a trace still grows
            break
        if pending:
            time.sleep(max(0.0, min(POLL_S, left_s)))
    waited_s = time.monotonic() - begun
    late = set(pending)
    return Arrival(
        tuple(i for i in wanted if i not in late), {i: wrong[i] for i in pending}, waited_s
    )
