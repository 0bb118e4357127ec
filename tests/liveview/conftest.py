"""A recorded lab with its live view, and a page of a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import stack
from lab.settings import Settings, load_settings
from lab.stack import replay
from lab.stack.toolbox import find_tools
from tests.browser import Page, chromium


@pytest.fixture(scope="module")
def recorded_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Run Prometheus, the trace store and the live view on the recording `first-look`."""
    find_tools(needs=replay.NEEDS)
    given = {"place": "recorded", "recording": "first-look"}
    given["state_dir"] = str(tmp_path_factory.mktemp("recorded"))
    settings = load_settings(running_stack=False, **given)
    try:
        stack.up(settings, wait_for="all")
        yield load_settings(**given)
    finally:
        stack.down(settings)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Return a page of a Chromium that runs until the tests of a module end."""
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened
