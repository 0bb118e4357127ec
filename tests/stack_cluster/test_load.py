"""Load is driven from many pods: the Job, and how the records of its pods come back."""

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
from lab.workload import Lag, Plan, Poisson, Run, make_plan
from lab.workload.outcome import records_frame
from tests.stack_cluster.fake_cluster import FakeCluster, applied

JOB = yaml.safe_load((REPO / "lab/k8s/load/job.yaml").read_text())


def test_load_gives_every_pod_its_shard_of_one_plan(
    cluster: FakeCluster, settings: Settings, tmp_path: Path
) -> None:
    """One ConfigMap and one Job of N pods are created, with the same run and start for all."""
    plan = tmp_path / "plan.jsonl"
    plan.write_text('{"plan": 1}\n')
    run_id = driver.load(settings, "fake", plan, shards=5, lead_s=60)
    (job,) = [d for d in applied(tmp_path) if d["kind"] == "Job"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 5
    env = {v["name"]: v["value"] for v in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["SHARDS"] == "5" and env["RUN_ID"] == run_id
    assert 30 < float(env["START_AT"]) - time.time() < 61
    assert "api/v1/namespaces/llm-lab/configmaps/load-plan" in cluster.objects


def test_load_refuses_a_plan_that_cannot_be_sent(
    cluster: FakeCluster, settings: Settings, tmp_path: Path
) -> None:
    """A missing file, a plan too large for a ConfigMap and a load without pods are refused."""
    with pytest.raises(WorkloadError, match="cannot be read"):
        driver.load(settings, "fake", tmp_path / "none", shards=1)
    large = tmp_path / "large"
    large.write_bytes(os.urandom(2_000_000))
    with pytest.raises(WorkloadError, match="too large"):
        driver.load(settings, "fake", large, shards=1)
    large.write_text("x")
    with pytest.raises(WorkloadError, match="at least one"):
        driver.load(settings, "fake", large, shards=0)


# -- collecting the records --------------------------------------------------------------------


@pytest.fixture
def plan() -> Plan:
    """Return a plan of seven requests."""
    return make_plan(requests=7, arrivals=Poisson(2.0), seed=4, kinds=["single"])


def _run(plan: Plan, index: int, of: int, run_id: str = "r") -> Run:
    """Return what a pod would have recorded: one row per request of its shard."""
    shard = plan.shard(index, of)
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
        for i, r in enumerate(shard.requests)
    ]
    lag = Lag(dispatch_p99_s=0.001 * (index + 1))
    return Run(
        f"{run_id}-shard{index}",
        (10.0 - index, 20.0 + index),
        records_frame(rows),
        shard,
        lag,
        spans_made=len(rows),
    )


def _job_output(run: Run, folder: Path) -> str:
    """Return what the Job's script prints for that run.

    The script itself is run; only `python` is replaced.
    """
    for name in ("out", "bin", "tmp"):
        (folder / name).mkdir(parents=True)
    made = run.save(folder / "made")
    python = folder / "bin" / "python"
    python.write_text(
        f"#!/bin/sh\nmkdir -p {folder}/out/runs\n"
        f"cp -r {made} {folder}/out/runs/\necho '{run.run_id}'\nexit 1\n"
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


def _pod(cluster: FakeCluster, index: int, output: str, phase: str = "Succeeded") -> None:
    name = f"load-{index}-x"
    labels = {"app.kubernetes.io/name": "load"}
    metadata = {
        "name": name,
        "namespace": "llm-lab",
        "annotations": {job.INDEX: str(index)},
        "labels": labels,
    }
    cluster.put(
        f"api/v1/namespaces/llm-lab/pods/{name}", status={"phase": phase}, metadata=metadata
    )
    cluster.logs[name] = output


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
    """The Job's script and the pods' logs yield every row once, one window and the worst lag."""
    runs = [_run(plan, i, 3) for i in range(3)]
    for i, run in enumerate(runs):
        _pod(cluster, i, _job_output(run, tmp_path / str(i)))
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    state.write_json(
        settings.state_dir / port_forwards.CLUSTER_FILE,
        {"context": "fake", "overlay": "x", "reachable": {}},
    )

    def started(*arguments: object) -> str:
        _job(cluster, "r", 3, succeeded=3)
        return "r"

    monkeypatch.setattr(driver, "load", started)
    merged = places.run_shards(plan, settings, shards=3)
    assert sorted(merged.records.request_id) == sorted(
        x for r in runs for x in r.records.request_id
    )
    assert merged.window == (8.0, 22.0)
    assert merged.lag.dispatch_p99_s == 0.003
    assert merged.spans_made == len(plan) == 7
    assert len(Run.load(merged.folder).records) == 7 and merged.not_sent == 0


def test_a_truncated_record_is_refused(
    cluster: FakeCluster, settings: Settings, tmp_path: Path, plan: Plan
) -> None:
    """A log that was rotated or lost a line raises an error instead of losing rows."""
    output = _job_output(_run(plan, 0, 1), tmp_path / "pod")
    _job(cluster, "r", 1, succeeded=1)
    lines = output.splitlines()
    assert lines[-1] == "lab-run-end" and len(lines) >= 4
    body = lines.index(next(x for x in lines if x.startswith("lab-run-begin"))) + 1
    short = [*lines[:body], lines[body][:-8], *lines[body + 1 :]]
    for text in ("\n".join(short), "\n".join(lines[body:])):
        _pod(cluster, 0, text)
        with pytest.raises(WorkloadError, match="not whole"):
            driver.collect(settings, "fake", "r", tmp_path / "to")


def test_a_shard_that_failed_is_reported_with_its_last_output(
    cluster: FakeCluster, settings: Settings, tmp_path: Path
) -> None:
    """When the Job failed, the error contains the output of the pod."""
    _job(cluster, "r", 2, conditions=[{"type": "Failed", "status": "True"}])
    _pod(cluster, 0, "", "Running")
    _pod(cluster, 1, "WorkloadError: the run's start has passed\n", "Failed")
    with pytest.raises(PartFailed, match="start has passed") as e:
        driver.collect(settings, "fake", "r", tmp_path / "to")
    assert "logs job/load" in e.value.fix


def test_a_load_that_was_replaced_by_another_is_an_error(
    cluster: FakeCluster, settings: Settings, tmp_path: Path
) -> None:
    """All loads share the Job's name, and the run's id tells them apart."""
    _job(cluster, "other", 1, succeeded=1)
    with pytest.raises(WorkloadError, match="not there"):
        driver.collect(settings, "fake", "r", tmp_path / "to")


def test_a_missing_pod_is_reported_by_its_shard(
    cluster: FakeCluster, settings: Settings, tmp_path: Path
) -> None:
    """When a pod was deleted, the error names its shard."""
    _job(cluster, "r", 2, succeeded=2)
    _pod(cluster, 0, "")
    with pytest.raises(WorkloadError, match=r"shards \[1\] are gone"):
        driver.collect(settings, "fake", "r", tmp_path / "to")
