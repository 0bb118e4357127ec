"""Start one stack for all live tests, after the tests that need none."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from lab.settings import REPO, Settings, load_settings

# Use the same examples every time, however slow the machine: a commit must not fail for code that
# it does not touch. HYPOTHESIS_PROFILE=explore searches for new examples.
hypothesis.settings.register_profile(
    "repeat",
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))

# A shell starts background jobs with Ctrl-C ignored, which children inherit; tests send Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
# On SIGTERM, too, a test run takes down the lab that it started.
signal.signal(signal.SIGTERM, signal.default_int_handler)

LIVE_TIMEOUT_S = 900  # of the first live test, this includes the start of the stack
KEPT_LOGS = REPO / "out" / "test-logs"


LIVE_FILES = re.compile(r"/live/|/test_live\.py")


@pytest.hookimpl(optionalhook=True)  # pytest-xdist may be switched off
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Give each file to one of the workers, and all live tests to the same."""

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "live" if _is_live(nodeid) else nodeid.partition("::")[0]

    return ByFile(config, log)


def _is_live(nodeid: str) -> bool:
    return bool(LIVE_FILES.search(nodeid.partition("::")[0]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use `live_lab`, and order: no stack, live, tests that break parts."""
    for item in items:
        if "live_lab" in getattr(item, "fixturenames", ()):
            if not _is_live(item.nodeid):
                raise pytest.UsageError(f"{item.nodeid} uses live_lab: move it to tests/live/")
            item.add_marker("live")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(LIVE_TIMEOUT_S))
    items.sort(
        key=lambda item: (item.get_closest_marker("live") is not None, "fault" in item.path.name)
    )


@pytest.fixture(scope="session")
def live_lab(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Yield the settings of a running lab: the current one if it is up, else a temporary one.

    The current one is that of LAB_STATE_DIR, or of .lab/. Logs of a temporary lab are kept in
    out/test-logs/ when it does not start or a test failed.
    """
    from lab import stack  # imported here, as most tests do not need it

    current = load_settings()
    essential = [part for part in stack.status(current) if part.essential]
    if essential and all(part.ready for part in essential):
        yield current
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


@pytest.fixture(scope="session")
def recorded_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Yield the settings of the recording `workshop`, replayed by stores of its own."""
    from lab import stack

    state_dir = tmp_path_factory.mktemp("recorded")
    where = {"place": "recorded", "recording": "workshop", "state_dir": state_dir}
    try:
        stack.up(load_settings(**where))
        yield load_settings(**where)
    finally:
        stack.down(load_settings(running_stack=False, **where))
