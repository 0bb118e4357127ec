"""The operating system counts what a child did; the process itself does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pandas as pd
import pytest

from lab.places import LocalPlace, place_of
from lab.settings import load_settings
from lab.utilisation import machine
from lab.utilisation.machine import CpuWatch, cpu_now, recorded_cpu

# A server that hands its work to a child, as vLLM's API server does; it prints when that is done.
PARENT = """
import subprocess, sys, time
work = "while time.process_time() < 0.5: pass"
code = f"import time\\n{work}\\nprint('done', flush=True)\\ntime.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
print("done", flush=True)
time.sleep(60)
"""


@pytest.fixture
def server():
    """A running parent whose child has worked for half a second."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"done\n"
    yield process
    for child in machine.psutil.Process(process.pid).children(recursive=True):
        child.kill()
    process.kill()
    process.wait()


def test_a_childs_work_is_in_the_tree_only(server) -> None:
    """0.5 s in the child (the system counts in ticks of 10 ms).

    `process_cpu_seconds_total` of the parent misses it.
    """
    row = cpu_now({server.pid: "vllm"}).iloc[0]
    assert row.children == 1 and row.tree_s - row.own_s >= 0.45


def test_a_part_is_not_counted_in_the_part_that_started_it(server) -> None:
    """The child is a part of its own here: nothing is counted twice."""
    child = machine.psutil.Process(server.pid).children()[0]
    table = cpu_now({server.pid: "base", child.pid: "vllm"}).set_index("part")
    assert table.children.to_dict() == {"base": 0, "vllm": 0}
    assert table.tree_s["base"] == table.own_s["base"] and table.tree_s["vllm"] >= 0.45


def test_a_part_that_ended_is_left_out() -> None:
    """It is no error that a part dies while it is watched."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert cpu_now({gone.pid: "gone", os.getpid(): "here"}).part.tolist() == ["here"]


def test_watching_reads_before_and_after(server, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Parts are read before, during and after the block, and `save` keeps all of it."""
    monkeypatch.setattr(LocalPlace, "processes", lambda *_: {server.pid: "vllm"})
    with CpuWatch(load_settings(), every_s=0.05) as watch:
        while len(watch.readings) < 2:
            time.sleep(0.01)
    assert len(watch.samples) >= 3 and watch.samples["at"].is_monotonic_increasing
    watch.save(tmp_path)
    pd.testing.assert_frame_equal(recorded_cpu(tmp_path), watch.samples)


def test_elsewhere_nothing_is_read(tmp_path) -> None:
    """On a cluster, in a recording and without a lab there are no rows, but the same columns."""
    for settings in (load_settings(place="recorded"), load_settings(state_dir=tmp_path)):
        assert place_of(settings).processes(settings) == {}
    with CpuWatch(load_settings(state_dir=tmp_path)) as watch:
        pass
    assert list(watch.samples) == list(machine.COLUMNS) and watch.samples.empty
    assert list(recorded_cpu(tmp_path)) == list(recorded_cpu(None)) == list(machine.COLUMNS)
