"""A temporary part, such as an incident, leaves nothing changed, however it ends."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from lab import stack
from lab.stack import changes, state
from tests.stack.test_supervisor import part, small_lab, wait_for  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow  # starts processes


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_its_end_undoes_what_it_changed(small_lab, end: str):  # noqa: F811
    """It is off and not requested, its changes are removed, and what it stopped goes on."""
    settings = small_lab(on_demand="other", temporary=True)
    stack.up(settings)
    stack.start(settings, "other")
    changes.write(settings.state_dir, changes.Changes(vllm_args="--max-num-seqs 1"))
    web = psutil.Process(part(settings, "web").pid)
    web.suspend()
    wait_for(lambda: part(settings, "web").state == state.HANGS)

    if end == "stop":
        stack.stop(settings, "other")
    else:
        os.kill(part(settings, "other").pid, signal.SIGKILL)
    wait_for(lambda: part(settings, "other").state == state.OFF)
    wait_for(lambda: part(settings, "web").state == state.READY)
    assert part(settings, "web").pid == web.pid, "it goes on instead of being restarted"
    assert not (settings.state_dir / changes.FILE).exists()
    assert state.requested(settings.state_dir) == set()


def test_changes_of_an_earlier_lab_do_not_apply(small_lab):  # noqa: F811
    """They were those of an incident that the end of the lab has undone."""
    settings = small_lab()
    (settings.state_dir / "run").mkdir(parents=True)
    changes.write(settings.state_dir, changes.Changes(vllm_args="--max-num-seqs 1"))
    stack.up(settings)
    assert not (settings.state_dir / changes.FILE).exists()
