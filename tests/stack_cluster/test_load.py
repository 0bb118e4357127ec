"""Load from many pods: the Job, and the way back of what its pods recorded."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from lab import places
from lab.errors import PartFailed, WorkloadError
from lab.schema import CLIENT_RECORD
from lab.settings import REPO, Settings
from lab.stack import cluster as driver
from lab.stack import state
from lab.stack.cluster import port_forwards
from lab.stack.cluster import shards as job
from lab.workload import Lag, Plan, Poisson, Run, make_plan, record
from tests.stack_cluster.fake_cluster import FakeCluster, applied

JOB = yaml.safe_load((REPO / "lab/k8s/load/job.yaml").read_text())


def test_load_gives_every_pod_its_shard_of_one_plan(
    cluster: FakeCluster, settings: Settings, tmp_path: Path
) -> None:
    """One ConfigMap, one Job of N pods, the same run and the same start for all."""
    plan = tmp_path / "plan.jsonl"
    plan.write_text('{"plan": 1}\n')
    run_id = driver.load(settings, "fake", plan, shards=5, lead_s=60)
    (job,) = [d for d in applied(tmp_path) if d["kind"] == "Job"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 5
    env = {v["name"]: v["value"] for v in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["SHARDS"] == "5" and env["RUN_ID"] == run_id
    assert 30 < float(env["START_AT"]) - time.time() < 61
    assert "api/v1/namespaces/llm-lab/configmaps/load-plan" in cluster.objects


def test_load_refuses_a_plan_that_cannot_go(
    cluster: FakeCluster, settings: Settings, tmp_path: Path
) -> None:
    """No file; too large for a ConfigMap; no pods."""
    with pytest.raises(WorkloadError, match="cannot be read"):
        driver.load(settings, "fake", tmp_path / "none", shards=1)
    large = tmp_path / "large"
    large.write_bytes(os.urandom(2_000_000))
    with pytest.raises(WorkloadError, match="too large"):
        driver.load(settings, "fake", large, shards=1)
    large.write_text("x")
    with pytest.raises(WorkloadError, match="at least one"):
        driver.load(settings, "fake", large, shards=0)


# -- the way back ------------------------------------------------------------------------------


@pytest.fixture
def plan() -> Plan:
    """Seven requests."""
    return make_plan(requests=7, arrivals=Poisson(2.0), seed=4, kinds=["single"])


def _run(plan: Plan, index: int, of: int, run_id: str = "r") -> Run:
    """What a pod would have recorded: a row for each request of its shard."""
    mine = plan.shard(index, of)
    empty = {
        c.name: {"string": "", "json": [], "int64": 0, "float64": 0.0}[c.dtype]
        for c in CLIENT_RECORD
    }
    rows = [
        empty
        | {
            "run_id": run_id,
            "request_id": f"{index}-{i}",
            "scenario_id": r.scenario_id,
            "status": "ok",
            "sent_at": i,
        }
        for i, r in enumerate(mine.requests)
    ]
    lag = Lag(dispatch_p99_s=0.001 * (index + 1))
    return Run(
        f"{run_id}-shard{index}",
        (10.0 - index, 20.0 + index),
        record.frame(rows),
        mine,
        lag,
        spans_made=len(rows),
    )


def _printed(run: Run, folder: Path) -> str:
    """Return what the Job's script prints for that run: the script runs, `python` is replaced."""
    for name in ("out", "bin", "tmp"):
        (folder / name).mkdir(parents=True)
    made = run.save(folder / "made")
    python = folder / "bin" / "python"
    python.write_text(
        f"#!/bin/sh\nmkdir -p {folder}/out/runs\ncp -r {made} {folder}/out/runs/\necho '{run.run_id}'\nexit 1\n"
    )
    python.chmod(0o755)
    container = JOB["spec"]["template"]["spec"]["containers"][0]
    script = (
        container["args"][0]
        .replace("/out", f"{folder}/out")
        .replace("/tmp/run", f"{folder}/tmp/run")
    )
    env = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "SHARDS": "1",
        "RUN_ID": "r",
        "START_AT": "0",
    }
    done = subprocess.run(
        [*container["command"], script], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


def _pod(cluster: FakeCluster, index: int, printed: str, phase: str = "Succeeded") -> None:
    name = f"load-{index}-x"
    cluster.put(f"api/v1/namespaces/llm-lab/pods/{name}", status={"phase": phase},
                metadata={"name": name, "namespace": "llm-lab", "annotations": {job.INDEX: str(index)},
                          "labels": {"app.kubernetes.io/name": "load"}})  # fmt: skip
    cluster.logs[name] = printed


def _job(cluster: FakeCluster, run_id: str, shards: int, **status: object) -> None:
    env = [{"name": "RUN_ID", "value": run_id}]
    template = {"spec": {"containers": [{"env": env}]}}
    cluster.put(job.JOB, spec={"completions": shards, "template": template}, status=status)


def test_the_records_of_all_pods_come_back_as_one_run(
    cluster: FakeCluster,
    settings: Settings,
    tmp_path: Path,
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through the Job's script and the pods' logs: every row once, one window, the worst lag."""
    runs = [_run(plan, i, 3) for i in range(3)]
    for i, run in enumerate(runs):
        _pod(cluster, i, _printed(run, tmp_path / str(i)))
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    state.write_json(
        settings.state_dir / port_forwards.CLUSTER_FILE,
        {"context": "fake", "overlay": "x", "reachable": {}},
    )

    def started(*arguments: object) -> str:
        _job(cluster, "r", 3, succeeded=3)
        return "r"

    monkeypatch.setattr(driver, "load", started)
    whole = places.run_shards(plan, settings, shards=3)
    assert sorted(whole.records.request_id) == sorted(x for r in runs for x in r.records.request_id)
    assert (
        whole.window == (8.0, 22.0)
        and whole.lag.dispatch_p99_s == 0.003
        and whole.spans_made == len(plan) == 7
    )
    assert len(Run.load(whole.folder).records) == 7 and whole.not_sent == 0


def test_a_record_that_is_cut_off_is_refused(
    cluster: FakeCluster, settings: Settings, tmp_path: Path, plan: Plan
) -> None:
    """A log that was rotated, or lost a line: never a run with rows missing."""
    printed = _printed(_run(plan, 0, 1), tmp_path / "pod")
    _job(cluster, "r", 1, succeeded=1)
    lines = printed.splitlines()
    assert lines[-1] == "lab-run-end" and len(lines) >= 4
    body = lines.index(next(x for x in lines if x.startswith("lab-run-begin"))) + 1
    short = [*lines[:body], lines[body][:-8], *lines[body + 1 :]]
    for text in ("\n".join(short), "\n".join(lines[body:])):
        _pod(cluster, 0, text)
        with pytest.raises(WorkloadError, match="not whole"):
            driver.collect(settings, "fake", "r", tmp_path / "to")


def test_a_shard_that_could_not_be_driven_is_a_failure_with_its_last_words(
    cluster: FakeCluster, settings: Settings, tmp_path: Path
) -> None:
    """The Job failed: what the pod printed is in the error."""
    _job(cluster, "r", 2, conditions=[{"type": "Failed", "status": "True"}])
    _pod(cluster, 0, "", "Running")
    _pod(cluster, 1, "WorkloadError: the run's start has passed\n", "Failed")
    with pytest.raises(PartFailed, match="start has passed") as e:
        driver.collect(settings, "fake", "r", tmp_path / "to")
    assert "logs job/load" in e.value.fix


def test_a_load_that_another_has_replaced_is_an_error(
    cluster: FakeCluster, settings: Settings, tmp_path: Path
) -> None:
    """The Job's name is the same for every load: the run's id says whose it is."""
    _job(cluster, "other", 1, succeeded=1)
    with pytest.raises(WorkloadError, match="not there"):
        driver.collect(settings, "fake", "r", tmp_path / "to")


def test_a_pod_that_is_gone_is_missed_by_its_shard(
    cluster: FakeCluster, settings: Settings, tmp_path: Path
) -> None:
    """Somebody deleted it: the error names the shard."""
    _job(cluster, "r", 2, succeeded=2)
    _pod(cluster, 0, "")
    with pytest.raises(WorkloadError, match=r"shards \[1\] are gone"):
        driver.collect(settings, "fake", "r", tmp_path / "to")
