"""A run survives its driver: its rows are on disk while it goes on, and read as cut off."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from lab.errors import WorkloadError
from lab.settings import REPO
from lab.workload import Constant, Plan, Run, make_plan, run_plan
from lab.workload.driver import JOURNAL_EVERY_S
from lab.workload.run import Journal, journal_path
from tests.workload.misbehaving import Peer, Server, chat_answer, serving
from tests.workload.plans import plan, request, settings


@contextmanager
def load_under_way(
    folder: Path, script: object = chat_answer
) -> Iterator[tuple[subprocess.Popen[str], Server, Plan]]:
    """`lab load` as a process of its own, with 30 requests per second for 20 s."""
    the_plan = make_plan(arrivals=Constant(30), requests=600, api="chat", kinds=["single"])
    the_plan.save(folder / "plan.jsonl")
    arguments = ["--plan", folder / "plan.jsonl", "--out", folder / "runs", "--run-id", "one"]
    code = "import sys; from lab.workload import main; sys.exit(main(sys.argv[1:]))"
    with serving(script) as server:  # type: ignore[arg-type]
        environment = os.environ | {"LAB_VLLM_URL": server.url, "LAB_STATE_DIR": str(folder)}
        process = subprocess.Popen(
            [sys.executable, "-c", code, "--quiet", *map(str, arguments)],
            cwd=REPO,
            env=environment | {"LAB_OTLP_URL": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process, server, the_plan
        finally:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], bool], message: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.02)


def rows_on_disk(path: Path) -> int:
    """Return how many rows a journal has, 0 where it does not exist yet."""
    return path.read_bytes().count(b'"row":{') if path.exists() else 0


def test_kill_9_keeps_what_reached_the_disk(tmp_path: Path) -> None:
    """Rows are written at least once per second, and a kill loses none of those.

    The run is marked as cut off.
    """
    assert JOURNAL_EVERY_S <= 1.0
    journal = journal_path(tmp_path / "runs" / "one")
    with load_under_way(tmp_path) as (process, server, the_plan):
        wait_until(lambda: rows_on_disk(journal) >= 30, "no rows reached the disk")
        process.kill()
        process.wait()
        killed_at = time.time()
    run = Run.load(tmp_path / "runs" / "one")
    assert 30 <= len(run.records) <= len(server.requests)
    assert run.cut_off and run.interrupted and "CUT OFF" in repr(run)
    assert run.plan == the_plan and run.not_sent == 600 - len(run.records)
    assert (run.records.status == "ok").all() and run.records.ttft_s.notna().all()
    assert run.window[0] <= run.records.scheduled_at.min() < run.window[1] <= killed_at
    assert run.lag.loop_p99_s > 0
    pd.testing.assert_frame_equal(
        Run.load(journal_path(tmp_path / "runs" / "one")).records, run.records
    )


def test_sigterm_saves_as_ctrl_c_does(tmp_path: Path) -> None:
    """A pod that is evicted saves its run: whole, with what was under way as cancelled rows."""

    async def slow_later(peer: Peer) -> None:
        await chat_answer(peer, first_s=0.0 if peer.number < 30 else 30.0)

    with load_under_way(tmp_path, slow_later) as (process, server, _):
        wait_until(lambda: len(server.requests) >= 45, "the driver did not send its requests")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "INTERRUPTED" in output and "Traceback" not in output
    run = Run.load(tmp_path / "runs" / "one")
    assert run.interrupted and not run.cut_off
    assert run.records.status.value_counts().to_dict().keys() == {"ok", "cancelled"}
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["one"]


def test_rows_reach_the_disk_while_the_run_goes_on(tmp_path: Path) -> None:
    """The journal can be read at any moment, its torn last line is left out, and it goes when the
    run is saved.
    """
    seen: list[Run] = []
    path = journal_path(tmp_path / "one")

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            while rows_on_disk(path) == 0:
                await asyncio.sleep(0.01)
            torn = tmp_path / "torn.jsonl"
            torn.write_bytes(path.read_bytes() + b'{"row": {"request_id": "r')
            seen.append(Run.load(torn))
        await chat_answer(peer)

    requests = [request(0), request(1, offset_s=0.2)]
    with serving(script) as server:
        the_plan = plan(*requests)
        options = {"out_dir": tmp_path, "run_id": "one", "progress": False}
        run = run_plan(the_plan, settings(server.url), **options)  # type: ignore[arg-type]
    assert seen[0].records.request_id.tolist() == ["r0"] and seen[0].plan == the_plan
    pd.testing.assert_frame_equal(seen[0].records, run.records.iloc[:1])
    assert not path.exists() and not Run.load(tmp_path / "one").cut_off


def test_a_journal_is_not_written_over(tmp_path: Path) -> None:
    """What a killed run left behind stays: a second run of that name is refused before it sends
    anything.
    """
    journal_path(tmp_path / "one").write_bytes(b"precious")
    with serving(chat_answer) as server:
        with pytest.raises(WorkloadError, match="cannot be saved"):
            run_plan(plan(request(0)), settings(server.url), out_dir=tmp_path, run_id="one")
        assert not server.requests
    assert journal_path(tmp_path / "one").read_bytes() == b"precious"


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[" * 100_000, b"\xff\n", b'{"format": "x"}\n'])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    """A file that is not a journal is an error of the lab's own."""
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(WorkloadError, match="does not hold"):
        Run.load(tmp_path / "x.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
def test_a_full_disk_ends_the_journal_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on without its journal, a warning names the file, and no torn line is left in
    the middle.
    """
    journal = Journal(tmp_path / "one", "one", plan(request(0)), 0.03)
    lags: dict[str, list[float]] = {"dispatch_lags_s": [], "loop_lags_s": [], "connect_s": []}
    usual = journal._file
    with open("/dev/full", "wb", buffering=0) as journal._file:
        journal.write([{"request_id": "r0"}], lags, (0.0, 1.0))
    journal._file = usual
    journal.write([{"request_id": "r0"}, {"request_id": "r1"}], lags, (0.0, 1.0))
    journal.close()
    assert "no longer written" in caplog.text
    assert len(Run.load(tmp_path / "one").records) == 0
