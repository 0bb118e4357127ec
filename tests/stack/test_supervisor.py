"""The supervisor starts, watches, repairs and stops real processes, and leaves nothing."""

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

SMALL_LAB = str(Path(__file__).with_name("small_lab.py"))
pytestmark = [
    pytest.mark.slow,  # starts processes
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX processes"),
]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


@pytest.fixture
def small_lab(tmp_path, monkeypatch):
    """Yield a function that returns settings of a lab that `stack.up` builds of small processes.

    All of these labs are taken down afterwards.
    """

    def make(name: str = "lab", **given) -> Settings:
        monkeypatch.setenv("LAB_SMALL", json.dumps({"ports": free_ports(2), **given}))
        monkeypatch.setattr(control, "SUPERVISOR", (SMALL_LAB,))
        monkeypatch.setattr(supervisor, "build", lambda *_: None)
        made.append(load_settings(state_dir=tmp_path / name))
        return made[-1]

    made: list[Settings] = []
    yield make
    for settings in made:
        stack.down(settings)


def part(settings: Settings, name: str) -> state.PartStatus:
    return next(p for p in stack.status(settings) if p.name == name)


def wait_for(condition: Callable[[], bool], limit_s: float = 120.0) -> None:
    """Poll until the condition holds; fail after `limit_s` seconds."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, "the condition did not hold in time"
        time.sleep(0.05)


def time_of(settings: Settings, name: str, message: str) -> str:
    """Return the time at which a part logged a message that starts with `message`."""
    return next(e["ts"] for e in stack.logs(settings, name) if e["message"].startswith(message))


def all_processes(settings: Settings) -> list[psutil.Process]:
    """Return every process of a lab, including the supervisor."""
    pid = part(settings, "supervisor").pid
    return processes.tree(pid)


def all_ended(members: list[psutil.Process]) -> bool:
    return all(processes.identity(p.pid) is None for p in members)


def test_up_waits_for_answers_and_down_leaves_nothing(small_lab):
    """`up` returns when all parts answer, and `down` ends every process.

    A second `up` starts nothing, and logs are JSON. `down` also ends children and a part that
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
    assert time_of(settings, "supervisor", "web is ready") <= time_of(
        settings, "other", "started as"
    )
    members = all_processes(settings)
    assert len(members) >= 4
    stack.up(settings)
    assert {p.pid for p in all_processes(settings)} == {p.pid for p in members}
    assert "listening" in [e["message"] for e in stack.logs(settings, "web") if e["ts"]]
    assert stack.down(settings) == []
    assert all_ended(members)
    assert stack.status(settings) == []
    assert load_settings(state_dir=settings.state_dir).prometheus_url is None


def test_a_dead_part_is_reported_and_restarted(small_lab):
    """`status` and `require` report it; `up` restarts it and no other part."""
    settings = small_lab()
    stack.up(settings)
    stack.require(settings, "web", "other")
    web = part(settings, "web").pid
    other = part(settings, "other").pid
    children = psutil.Process(web).children()
    os.kill(web, signal.SIGKILL)
    wait_for(lambda: "SIGKILL" in part(settings, "web").error)
    with pytest.raises(PartFailed, match="web is dead") as e:
        stack.require(settings, "web")
    assert e.value.part == "web" and e.value.log.endswith("web.log")
    assert children and all_ended(children), "a child of the dead part is still running"
    stack.require(settings, "other")
    stack.up(settings)
    assert part(settings, "web").ready and part(settings, "web").pid != web
    assert part(settings, "other").pid == other


@pytest.mark.skipif(
    sys.platform != "linux", reason="orphans are ended by the kernel on Linux, else by `down`"
)
def test_parts_die_with_a_killed_supervisor(small_lab):
    """kill -9 of the supervisor ends all parts.

    `status` reports it, `up` repairs it, and `down` ends the children of the parts.
    """
    settings = small_lab()
    stack.up(settings)
    pids = [p.pid for p in stack.status(settings) if p.pid]
    (grandchild,) = psutil.Process(part(settings, "web").pid).children()
    os.kill(part(settings, "supervisor").pid, signal.SIGKILL)
    wait_for(lambda: all(processes.identity(pid) is None for pid in pids))
    assert (
        part(settings, "supervisor").state == "dead"
        and "lab up" in part(settings, "supervisor").error
    )
    assert part(settings, "web").state == "dead"
    with pytest.raises(PartFailed, match="the supervisor died"):
        stack.require(settings, "web")
    left = stack.down(settings)
    assert any(str(grandchild.pid) in line for line in left), "the grandchild was not found"
    assert all_ended([grandchild])


def test_up_after_a_killed_supervisor_starts_everything_again(small_lab):
    """Remaining processes are ended first, and the old state file and lock are ignored."""
    settings = small_lab()
    stack.up(settings)
    (grandchild,) = psutil.Process(part(settings, "web").pid).children()
    pid = part(settings, "supervisor").pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: processes.identity(pid) is None)
    stack.up(settings)
    stack.require(settings, "web", "other")
    assert all_ended([grandchild])


def test_two_concurrent_ups_start_one_lab(small_lab):
    """The lock passes from `lab up` to the supervisor without a gap for a second `lab up`."""
    settings = small_lab()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(stack.up, settings) for _ in range(2)]
        assert both[0].result() == both[1].result()
    stack.require(settings, "web", "other")
    supervisors = [p for p in processes.leftovers(settings.state_dir) if p.ppid() == os.getpid()]
    assert len(supervisors) == 1


def test_down_during_up_is_not_a_failure(small_lab):
    """`up` reports that the lab was taken down, not that a part failed."""
    settings = small_lab()

    def take_down(*_) -> None:
        stack.down(settings)

    with pytest.raises(StackError, match="taken down while it was coming up") as e:
        stack.up(settings, take_down)
    assert not isinstance(e.value, PartFailed)
    assert processes.leftovers(settings.state_dir, []) == []


def listener(port: int) -> socket.socket:
    """Listen on a port, as another program would."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", port))
    s.listen()
    return s


def test_a_port_that_is_taken_before_the_start_is_replaced(small_lab):
    """If another program takes the port after the choice, the part and its address move."""
    ports = free_ports(2)
    with listener(ports[0]):
        settings = small_lab(ports=ports)
        endpoints = stack.up(settings)
    assert part(settings, "web").port != ports[0]
    assert endpoints["prometheus"].endswith(f":{part(settings, 'web').port}")
    assert load_settings(state_dir=settings.state_dir).prometheus_url == endpoints["prometheus"]
    stack.require(settings, "web", "other")


def test_a_port_that_is_taken_after_a_crash_is_replaced(small_lab):
    """`lab up` restarts the part on another port and leaves the other parts alone."""
    settings = small_lab()
    stack.up(settings)
    port = part(settings, "web").port
    other = part(settings, "other").pid
    os.kill(part(settings, "web").pid, signal.SIGKILL)
    wait_for(lambda: part(settings, "web").state == state.DEAD)
    with listener(port):
        stack.up(settings)
    assert part(settings, "web").ready and part(settings, "web").port != port
    assert part(settings, "other").pid == other


def test_a_hanging_part_is_reported_and_restarted(small_lab):
    """`status` and `require` report it, and `up` restarts it."""
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
    """This happens when a machine was suspended, or with a debugger."""
    settings = small_lab()
    stack.up(settings)
    pid = part(settings, "web").pid
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: part(settings, "web").state == state.HANGS)
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: part(settings, "web").ready)
    assert part(settings, "web").pid == pid


def test_a_busy_part_is_not_considered_hanging(monkeypatch):
    """A part that computes may answer late, and an idle part may not."""
    clock = [0.0]
    monkeypatch.setattr(part_process.time, "monotonic", lambda: clock[0])
    idle = part_process._Silence(5.0)
    busy = part_process._Silence(5.0)
    clock[0] = 3.0
    assert not idle.means_hanging(5.0), "one request may be lost"
    clock[0] = 6.0
    assert idle.means_hanging(5.1)
    assert not busy.means_hanging(9.0) and not busy.means_hanging(9.0)
    clock[0] = part_process.HANGS_BUSY_S
    assert busy.means_hanging(20.0), "an endless loop"


def test_a_hanging_supervisor_is_reported_and_replaced(small_lab, monkeypatch):
    """Without a heartbeat `status` and `require` report it, and `up` kills and replaces it."""
    assert control.STALE_S + control.HEARTBEAT_WAIT_S <= 10.0
    monkeypatch.setattr(control, "STALE_S", 3.0)
    monkeypatch.setattr(control, "HEARTBEAT_WAIT_S", 1.0)
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
    """Writes fail for a while, as with ENOSPC, and afterwards the state is current again."""
    settings = small_lab()
    stack.up(settings)
    path = settings.state_dir / state.STACK_FILE
    path.unlink()
    path.mkdir()  # os.replace raises OSError
    log = settings.state_dir / "logs" / "supervisor.log"
    message = "state folder cannot be written"
    wait_for(lambda: message in log.read_text())
    time.sleep(2.0)  # the next heartbeats fail too
    path.rmdir()
    wait_for(path.exists)
    os.kill(part(settings, "web").pid, signal.SIGKILL)
    wait_for(lambda: part(settings, "web").state == state.DEAD)
    assert log.read_text().count(message) == 1


def test_other_users_cannot_read_a_lab(small_lab):
    """Logs and databases contain prompts and answers."""
    settings = small_lab()
    stack.up(settings)
    for path in (settings.state_dir, *settings.state_dir.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_down_reports_what_it_waits_for(small_lab):
    """`other` takes two seconds to end."""
    settings = small_lab(grace_s=2.0)
    stack.up(settings)
    seen: list[set[str]] = []
    stack.down(settings, lambda parts, _: seen.append({p.name for p in parts if p.pid}))
    assert any("other" in names for names in seen)


def test_a_failure_at_the_start_is_reported_and_nothing_stays(small_lab):
    """The error names the part and its log, and quotes it; started parts are stopped."""
    settings = small_lab(fail="other")
    with pytest.raises(PartFailed, match="other did not come up; what was started is stopped") as e:
        stack.up(settings)
    assert "ValueError: no such luck" in str(e.value) and "other.log" in str(e.value)
    assert e.value.part == "other"
    assert processes.leftovers(settings.state_dir, []) == []
    with pytest.raises(NotUp):
        stack.require(settings, "web")


def test_a_failed_dependency_is_reported_as_the_cause(small_lab):
    """The error does not name the part that waited for it."""
    with pytest.raises(PartFailed, match="web did not come up"):
        stack.up(small_lab(fail="web"))


def test_an_optional_part_may_fail(small_lab):
    """The agent path is up, and the failure is in the status and in `require`."""
    settings = small_lab(fail="task")
    stack.up(settings)
    wait_for(lambda: part(settings, "task").state == "failed")
    assert part(settings, "web").ready
    with pytest.raises(PartFailed, match="task is failed"):
        stack.require(settings, "task")


def test_two_labs_on_one_machine_are_independent(small_lab):
    """Taking one down leaves the other as it is."""
    first = small_lab("one")
    stack.up(first)
    second = small_lab("two")
    stack.up(second)
    stack.down(first)
    stack.require(second, "web", "other")


def test_a_state_folder_that_cannot_be_written_is_reported_first(tmp_path):
    """Nothing is started. (A file is in its place, as root may write to any folder.)"""
    settings = load_settings(state_dir=tmp_path / "lab")
    (tmp_path / "lab").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        stack.up(settings)


def test_without_a_lab_require_is_an_error(tmp_path):
    """`status` and `down` return nothing before `lab up`."""
    settings = load_settings(state_dir=tmp_path)
    assert stack.status(settings) == [] and stack.down(settings) == []
    with pytest.raises(NotUp, match="no lab is running"):
        stack.require(settings)


def test_an_unreadable_state_file_is_an_error(tmp_path):
    """`down` works nevertheless."""
    (tmp_path / "stack.json").write_text("{")
    settings = load_settings(state_dir=tmp_path)
    with pytest.raises(StackError, match="cannot be read"):
        stack.status(settings)
    assert stack.down(settings) == []


def test_in_other_places_nothing_is_required(tmp_path):
    """With a cluster or external servers there is no local process to check."""
    stack.require(load_settings(state_dir=tmp_path, place="cluster"))
    stack.require(load_settings(state_dir=tmp_path, vllm_url="http://gpu:8000"), "vllm")
