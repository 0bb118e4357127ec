"""One stack for all live tests, stood up once, after everything that needs none has been tried."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from lab.settings import REPO, Settings, load_settings

# The same examples every time, however slow the machine: a commit must not fail for what it did not touch. To look for
# new ones: HYPOTHESIS_PROFILE=explore.
hypothesis.settings.register_profile("repeat", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))

# A shell starts what runs in the background with Ctrl-C ignored, and children inherit that; the tests send Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

KEPT_LOGS = REPO / "out" / "test-logs"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes `live_lab` is live. Order: no stack, live, and last those that break parts on purpose."""
    for item in items:
        if "live_lab" in getattr(item, "fixturenames", ()):
            item.add_marker("live")
    items.sort(
        key=lambda item: (item.get_closest_marker("live") is not None, "fault" in item.path.name)
    )


@pytest.fixture(scope="session")
def live_lab(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Settings of a running lab: the one that is up already (`LAB_STATE_DIR`, else .lab/), else one of our own.

    Its logs are kept in out/test-logs/ when it does not come up or a test failed.
    """
    from lab import stack  # here, so that tests of other rooms do not need it

    found = load_settings()
    if any(part.essential for part in stack.status(found)) and all(
        p.ready for p in stack.status(found) if p.essential
    ):
        yield found
        return
    state_dir = Path(tempfile.mkdtemp(prefix="lab-"))
    before = os.environ.get("LAB_STATE_DIR")
    os.environ["LAB_STATE_DIR"] = str(state_dir)
    settings = load_settings(state_dir=state_dir)
    up = False
    try:
        stack.up(settings)
        up = True
        yield load_settings(state_dir=state_dir)
    finally:
        stack.down(settings)
        if before is None:
            del os.environ["LAB_STATE_DIR"]
        else:
            os.environ["LAB_STATE_DIR"] = before
        if not up or request.session.testsfailed:
            shutil.copytree(state_dir / "logs", KEPT_LOGS, dirs_exist_ok=True)
        shutil.rmtree(state_dir, ignore_errors=True)
