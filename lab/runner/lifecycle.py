"""Stand the stack up for a while, and take it down after success, failure, Ctrl-C and SIGTERM."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from lab import stack
from lab.runner.show import Show
from lab.settings import Settings


@contextlib.contextmanager
def stack_for(settings: Settings, show: Show, *, keep: bool = False) -> Iterator[None]:
    """Keep the stack up while the block runs, and leave it as it was before.

    One that was up already stays up; on a cluster there is nothing to start; `keep` leaves it up.
    Raises as lab.stack.up does.
    """
    if settings.place == "cluster" or is_up(settings):
        yield
        return

    try:
        # "all": the embedding server comes up beside the agent's parts, and would disturb the
        # first measurements.
        stack.up(settings, show.part, wait_for="all")
        yield
    finally:
        if not keep:
            with ignore_interrupts():
                stack.down(settings, show.part)


def is_up(settings: Settings) -> bool:
    """Return whether every part that an agent request needs is ready."""
    parts = stack.status(settings)
    return bool(parts) and all(p.ready for p in parts if p.essential)


@contextlib.contextmanager
def ignore_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM: a second, impatient one must not leave the stack running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
