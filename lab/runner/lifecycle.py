"""Standing the stack up for a while: what was started is taken down, also after Ctrl-C, SIGTERM and a failure."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from lab import stack
from lab.runner.show import Show
from lab.settings import Settings


@contextlib.contextmanager
def stack_for(settings: Settings, show: Show, *, keep: bool = False) -> Iterator[None]:
    """The stack is up while the block runs, and then as it was before: one that was up already stays up.

    On a cluster there is nothing to start. `keep` leaves it up. Raises as lab.stack.up does.
    """
    if settings.place == "cluster" or is_up(settings):
        yield
        return
    try:
        # "all": the embedding server comes up beside the agent's parts, and would disturb the first measurements.
        stack.up(settings, show.part, wait_for="all")
        yield
    finally:
        if not keep:
            with undisturbed():
                stack.down(settings)


def is_up(settings: Settings) -> bool:
    """Whether every part that an agent request needs is ready."""
    parts = stack.status(settings)
    return bool(parts) and all(p.ready for p in parts if p.essential)


@contextlib.contextmanager
def term_as_interrupt() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: with its report, and the stack taken down."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A second, impatient Ctrl-C must not leave the stack running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
