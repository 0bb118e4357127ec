"""The supervisor on real processes.

Up, repair, death of a part, of the supervisor, and nothing left after down.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from lab import stack
from lab.errors import NotUp, PartFailed, SettingsError, StackError
from lab.settings import Settings, load_settings
from lab.stack import control, part_process, processes, state, supervisor

SMALL = str(Path(__file__).with_name("small_lab.py"))
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


@pytest.fixture
def small_lab(tmp_path, monkeypatch):
    """Settings of a lab that `stack.up` builds out of small processes.

    It is taken down afterwards.
    """

    def make(name: str = "lab", **given) -> Settings:
        monkeypatch.setenv("LAB_SMALL", json.dumps({"ports": free_ports(2), **given}))
        monkeypatch.setattr(control, "SUPERVISOR", (SMALL,))
        monkeypatch.setattr(supervisor, "build", lambda *_: None)
        made.append(load_settings(state_dir=tmp_path / name))
        return made[-1]

    made: list[Settings] = []
    yield make
    for settings in made:
        stack.down(settings)


def part(settings: Settings, name: str) -> state.PartStatus:
    return next(p for p in stack.status(settings) if p.name == name)


def wait_for(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, "it did not come true"
        time.sleep(0.05)


def moment(settings: Settings, name: str, message: str) -> str:
    """When this part's log has this message."""
    return next(e["ts"] for e in stack.logs(settings, name) if e["message"].startswith(message))


def family(settings: Settings) -> list[psutil.Process]:
    """Every process of this lab, the supervisor with them."""
    pid = part(settings, "supervisor").pid
    return processes.tree(pid)


def all_gone(family: list[psutil.Process]) -> bool:
    return all(processes.identity(p.pid) is None for p in family)


def test_up_waits_for_answers_and_down_leaves_nothing(small_lab):
    """Parts answer when `up` returns, and a second `up` starts nothing.

    What a part prints is in its log, as JSON; `down` ends the parts, their children and one that
    ignores SIGTERM.
    """
    settings = small_lab()
    seen: list[dict[str, str]] = []
    endpoints = stack.up(
        settings, lambda parts, _: seen.append({p.name: p.state for p in parts}), wait_for="all"
    )
    assert {p.name: p.state for p in stack.status(settings)} == {
        "supervisor": "ready",
        "web": "ready",
        "other": "ready",
        "task": "done",
    }
    assert load_settings(state_dir=settings.state_dir).prometheus_url == endpoints["prometheus"]
    assert seen, "no progress was reported"
    assert moment(settings, "supervisor", "web is ready") <= moment(settings, "other", "started as")
    members = family(settings)
    assert len(members) >= 4
    stack.up(settings)
    assert {p.pid for p in family(settings)} == {p.pid for p in members}
    assert "listening" in [e["message"] for e in stack.logs(settings, "web") if e["ts"]]
    assert stack.down(settings) == []
    assert all_gone(members)
    assert stack.status(settings) == []
    assert load_settings(state_dir=settings.state_dir).prometheus_url is None


def test_a_dead_part_is_seen_named_and_repaired(small_lab):
    """Within seconds, by `status` and by `require`.

    `up` starts it again and leaves the others alone.
    """
    settings = small_lab()
    stack.up(settings)
    stack.require(settings, "web", "other")
    web, other = part(settings, "web").pid, part(settings, "other").pid
    children = psutil.Process(web).children()
    os.kill(web, signal.SIGKILL)
    wait_for(lambda: "SIGKILL" in part(settings, "web").error, 3.0)
    with pytest.raises(PartFailed, match="web is dead") as e:
        stack.require(settings, "web")
    assert e.value.part == "web" and e.value.log.endswith("web.log")
    assert children and all_gone(children), "what it had started is still there"
    stack.require(settings, "other")
    stack.up(settings)
    assert part(settings, "web").ready and part(settings, "web").pid != web
    assert part(settings, "other").pid == other


@pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel ends orphans on Linux; elsewhere `down` does"
)
def test_parts_die_with_a_killed_supervisor(small_lab):
    """kill -9 of the supervisor leaves no part.

    `status` says so, `up` repairs, `down` ends the parts' own children.
    """
    settings = small_lab()
    stack.up(settings)
    pids = [p.pid for p in stack.status(settings) if p.pid]
    (grandchild,) = psutil.Process(part(settings, "web").pid).children()
    os.kill(part(settings, "supervisor").pid, signal.SIGKILL)
    wait_for(lambda: all(processes.identity(pid) is None for pid in pids), 3.0)
    assert (
        part(settings, "supervisor").state == "dead"
        and "lab up" in part(settings, "supervisor").error
    )
    assert part(settings, "web").state == "dead"
    with pytest.raises(PartFailed, match="the supervisor died"):
        stack.require(settings, "web")
    left = stack.down(settings)
    assert any(str(grandchild.pid) in line for line in left), "its mark was not found"
    assert all_gone([grandchild])


def test_up_after_a_killed_supervisor_starts_all_anew(small_lab):
    """What the dead one left is ended first: its state file and lock deceive nobody."""
    settings = small_lab()
    stack.up(settings)
    (grandchild,) = psutil.Process(part(settings, "web").pid).children()
    pid = part(settings, "supervisor").pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: processes.identity(pid) is None)
    stack.up(settings)
    stack.require(settings, "web", "other")
    assert all_gone([grandchild])


def test_two_at_once_start_one_lab(small_lab):
    """The lock goes from `lab up` to the supervisor without a gap, in which the second would
    sweep the first's away.
    """
    settings = small_lab()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(stack.up, settings) for _ in range(2)]
        assert both[0].result() == both[1].result()
    stack.require(settings, "web", "other")
    supervisors = [p for p in processes.leftovers(settings.state_dir) if p.ppid() == os.getpid()]
    assert len(supervisors) == 1


def test_down_while_it_comes_up_is_no_failure(small_lab):
    """Whoever waits in `up` is told that it was taken down, not that a part failed."""
    settings = small_lab()

    def take_down(*_) -> None:
        stack.down(settings)

    with pytest.raises(StackError, match="taken down while it was coming up") as e:
        stack.up(settings, take_down)
    assert not isinstance(e.value, PartFailed)
    assert processes.leftovers(settings.state_dir, []) == []


def listener(port: int) -> socket.socket:
    """Another program that listens on this port."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", port))
    s.listen()
    return s


def test_a_port_that_is_taken_before_the_start_is_changed(small_lab):
    """By another program, after the port was chosen: the part moves, and so does its address."""
    ports = free_ports(2)
    with listener(ports[0]):
        settings = small_lab(ports=ports)
        endpoints = stack.up(settings)
    assert part(settings, "web").port != ports[0]
    assert endpoints["prometheus"].endswith(f":{part(settings, 'web').port}")
    assert load_settings(state_dir=settings.state_dir).prometheus_url == endpoints["prometheus"]
    stack.require(settings, "web", "other")


def test_a_port_that_is_taken_after_a_death_is_changed(small_lab):
    """`lab up` starts the part on another port, and leaves the others alone."""
    settings = small_lab()
    stack.up(settings)
    port, other = part(settings, "web").port, part(settings, "other").pid
    os.kill(part(settings, "web").pid, signal.SIGKILL)
    wait_for(lambda: part(settings, "web").state == state.DEAD)
    with listener(port):
        stack.up(settings)
    assert part(settings, "web").ready and part(settings, "web").port != port
    assert part(settings, "other").pid == other


def test_a_hanging_part_is_reported_and_started_again(small_lab):
    """Within ten seconds, by `status` and by `require`; `up` starts it again."""
    settings = small_lab()
    stack.up(settings)
    pid = part(settings, "web").pid
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: part(settings, "web").state == state.HANGS)
    with pytest.raises(PartFailed, match="web hangs") as e:
        stack.require(settings, "web")
    assert e.value.part == "web" and "lab up" in e.value.fix
    stack.require(settings, "other")
    stack.up(settings)
    assert part(settings, "web").ready and part(settings, "web").pid != pid


def test_a_part_that_answers_again_is_ready_again(small_lab):
    """A machine that was suspended, or a debugger."""
    settings = small_lab()
    stack.up(settings)
    pid = part(settings, "web").pid
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: part(settings, "web").state == state.HANGS)
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: part(settings, "web").ready)
    assert part(settings, "web").pid == pid


def test_work_is_not_taken_for_a_hang(monkeypatch):
    """A part that computes may answer late; one that does nothing may not."""
    now = [0.0]
    monkeypatch.setattr(part_process.time, "monotonic", lambda: now[0])
    idle, busy = part_process._Silence(5.0), part_process._Silence(5.0)
    now[0] = 3.0
    assert not idle.means_hanging(5.0), "one request may be lost"
    now[0] = 6.0
    assert idle.means_hanging(5.1)
    assert not busy.means_hanging(9.0) and not busy.means_hanging(9.0)
    now[0] = part_process.HANGS_BUSY_S
    assert busy.means_hanging(20.0), "an endless loop"


def test_a_hanging_supervisor_is_reported_and_replaced(small_lab):
    """Its heartbeat stops: `status` and `require` say so, `up` and `down` kill it."""
    settings = small_lab()
    stack.up(settings)
    pid = part(settings, "supervisor").pid
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: part(settings, "supervisor").state == state.HANGS)
    assert not part(settings, "supervisor").ready
    with pytest.raises(PartFailed, match="web hangs(.|\n)*supervisor"):
        stack.require(settings, "web")
    stack.up(settings)
    assert part(settings, "supervisor").pid != pid
    stack.require(settings, "web", "other")
    assert processes.identity(pid) is None


def test_a_full_disk_does_not_end_the_heartbeat(small_lab):
    """Nothing can be written for a while, as with ENOSPC; after that the state is current again."""
    settings = small_lab()
    stack.up(settings)
    path = settings.state_dir / state.STACK_FILE
    path.unlink()
    path.mkdir()  # os.replace raises OSError
    time.sleep(2.5)
    path.rmdir()
    wait_for(path.exists)
    os.kill(part(settings, "web").pid, signal.SIGKILL)
    wait_for(lambda: part(settings, "web").state == state.DEAD)
    log = (settings.state_dir / "logs" / "supervisor.log").read_text()
    assert log.count("state folder cannot be written") == 1


def test_nobody_else_can_read_a_lab(small_lab):
    """Prompts and answers are in its logs and databases."""
    settings = small_lab()
    stack.up(settings)
    for path in (settings.state_dir, *settings.state_dir.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_down_reports_what_it_waits_for(small_lab):
    """`other` takes half a second to end."""
    settings = small_lab()
    stack.up(settings)
    seen: list[set[str]] = []
    stack.down(settings, lambda parts, _: seen.append({p.name for p in parts if p.pid}))
    assert any("other" in names for names in seen)


def test_what_fails_at_the_start_is_named_and_nothing_stays(small_lab):
    """The error names the part, quotes its log, says which log to read.

    What was started is stopped.
    """
    settings = small_lab(fail="other")
    with pytest.raises(PartFailed, match="other did not come up; what was started is stopped") as e:
        stack.up(settings)
    assert "ValueError: no such luck" in str(e.value) and "other.log" in str(e.value)
    assert e.value.part == "other"
    assert processes.leftovers(settings.state_dir, []) == []
    with pytest.raises(NotUp):
        stack.require(settings, "web")


def test_a_failed_need_is_reported_as_the_cause(small_lab):
    """Not the part that waited for it."""
    with pytest.raises(PartFailed, match="web did not come up"):
        stack.up(small_lab(fail="web"))


def test_a_part_that_is_not_essential_may_fail(small_lab):
    """The agent path is up; the failure is in the status, and in the error of who needs it."""
    settings = small_lab(fail="task")
    stack.up(settings)
    wait_for(lambda: part(settings, "task").state == "failed")
    assert part(settings, "web").ready
    with pytest.raises(PartFailed, match="task is failed"):
        stack.require(settings, "task")


def test_two_labs_side_by_side_do_not_meet(small_lab):
    """Taking one down leaves the other as it is."""
    first = small_lab("one")
    stack.up(first)
    second = small_lab("two")
    stack.up(second)
    stack.down(first)
    stack.require(second, "web", "other")


def test_a_state_folder_that_cannot_be_written_is_said_first(tmp_path):
    """Before anything is started. (A file in its place: root may write everywhere else.)"""
    settings = load_settings(state_dir=tmp_path / "lab")
    (tmp_path / "lab").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        stack.up(settings)


def test_without_a_lab_it_is_said(tmp_path):
    """`require` and `status` before `lab up`."""
    settings = load_settings(state_dir=tmp_path)
    assert stack.status(settings) == [] and stack.down(settings) == []
    with pytest.raises(NotUp, match="no lab is running"):
        stack.require(settings)


def test_an_unreadable_state_file_is_said(tmp_path):
    """And `down` works nevertheless."""
    (tmp_path / "stack.json").write_text("{")
    settings = load_settings(state_dir=tmp_path)
    with pytest.raises(StackError, match="cannot be read"):
        stack.status(settings)
    assert stack.down(settings) == []


def test_elsewhere_nothing_is_required(tmp_path):
    """On a cluster, or with the user's own server, there is no process of ours to look at."""
    stack.require(load_settings(state_dir=tmp_path, place="cluster"))
    stack.require(load_settings(state_dir=tmp_path, vllm_url="http://gpu:8000"), "vllm")
