"""`lab load`: a plan from its words, a part of it, and an exit status that can be trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.workload import Burst, Constant, Plan, Poisson, Ramp, Run, Users, main
from lab.workload.command import parse_arrivals
from tests.workload.misbehaving import chat_answer, serving


def test_arrivals_in_words() -> None:
    """Each arrival process has a notation."""
    assert parse_arrivals("constant:2") == Constant(2.0)
    assert parse_arrivals("poisson:0.5") == Poisson(0.5)
    assert parse_arrivals("burst:8,2,5") == Burst(8.0, 2.0, 5.0)
    assert parse_arrivals("ramp:1,9,30") == Ramp(1.0, 9.0, 30.0)
    assert parse_arrivals("users:4,1.5") == Users(4, 1.5)


@pytest.mark.parametrize(
    "words", ["tide:1", "poisson", "poisson:many", "burst:1", "poisson:1,2", "poisson:-1"]
)
def test_wrong_words_are_reported(
    words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Other notations are reported on stderr with exit status 2, and nothing is sent."""
    assert main(["--arrivals", words, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "not an arrival process" in error or "must be above 0" in error


def test_plan_shard_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved plan, driven in parts that name themselves, is the whole plan.

    Status 0 only if all went well.
    """
    path, out = tmp_path / "plan.jsonl", tmp_path / "runs"
    assert (
        main(
            [
                "--requests",
                "6",
                "--arrivals",
                "constant:50",
                "--api",
                "chat",
                "--save-plan",
                str(path),
            ]
        )
        == 0
    )
    with serving(chat_answer) as server:
        monkeypatch.setenv("LAB_VLLM_URL", server.url)
        monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
        monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
        common = ["--plan", str(path), "--out", str(out), "--run-id", "one", "--quiet"]
        assert main([*common, "--shard", "0/2"]) == 0
        assert main([*common, "--shard", "/2"]) == 0
    runs = [Run.load(out / f"one-shard{i}of2") for i in (0, 1)]
    sent = sorted(r for run in runs for r in run.records.request_id)
    assert sent == sorted(r.request_id for r in Plan.load(path).requests)
    monkeypatch.setenv("LAB_VLLM_URL", "http://127.0.0.1:1")
    assert main(["--plan", str(path), "--out", str(out), "--quiet"]) == 1
    assert main(["--plan", str(path), "--out", str(out), "--shard", "two"]) == 2
