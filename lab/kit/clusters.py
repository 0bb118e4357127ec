"""The place `cluster` in a notebook: standing the lab up there, its pods and tools as frames, load from many pods."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from lab.errors import NotUp, SettingsError
from lab.settings import Settings, load_settings
from lab.stack import cluster
from lab.stack.cluster.port_forwards import Connection
from lab.stack.cluster.rollout import WorkloadStatus
from lab.stores import Prometheus
from lab.workload import Plan, Run, join_shards

# Pod's part -> the endpoint whose forward leads to it.
ENDPOINT_OF = {
    "vllm": "vllm", "vllm-embed": "vllm_embed", "llama-stack": "llama_stack", "lab-tools": "mcp", "tempo": "tempo",
    "prometheus": "prometheus", "grafana": "grafana", "otel-collector": "otlp",
}  # fmt: skip


def stand_up() -> Settings:
    """Settings of the lab in the cluster that the user has named, stood up if it was not.

    Named is what `lab up --place cluster` was last given, or LAB_CLUSTER_CONTEXT and LAB_CLUSTER_OVERLAY (lab.toml).
    Raises SettingsError if neither is, and what `lab.stack.cluster.up` raises.
    """
    settings = load_settings(place="cluster")
    before = cluster.connection(settings)
    context = settings.cluster_context or (before.context if before else "")
    overlay = settings.cluster_overlay or (before.overlay if before else "")
    if not (context and overlay):
        raise SettingsError(
            "no cluster was named, and none is taken by itself",
            got=f"cluster_context {context!r}, cluster_overlay {overlay!r}, nothing in {settings.state_dir}",
            fix="`lab up --place cluster --context NAME --overlay NAME`, or set LAB_CLUSTER_CONTEXT and "
            "LAB_CLUSTER_OVERLAY",
        )
    same = before and before.alive and (before.context, before.overlay) == (context, overlay)
    if not (same and _all_ready(cluster.status(settings, context))):
        cluster.up(settings, context, overlay, _says_what_it_waits_for())
    return load_settings(place="cluster")


def status_frame(settings: Settings) -> pd.DataFrame:
    """One row a pod of the lab in the cluster: part, state, port, rss_mib, restarts, what.

    `port` is the one on this machine that leads to the part. `rss_mib` is metrics-server's working set, else what the
    part's own process says to Prometheus (which knows one process of each), else missing.
    Raises NotUp if nothing of the lab is there.
    """
    known = _connection(settings)
    pods = cluster.pods(settings, known.context)
    if not pods:
        fix = "stand it up with `lab up --place cluster`"
        raise NotUp("no pod of the lab is in the cluster", got=f"context {known.context}", fix=fix)
    resident = {} if any(p.memory_bytes for p in pods) else _resident_mib(settings)
    ports = {name: url.rpartition(":")[2] for name, url in known.reachable.items()}
    mib = [
        p.memory_bytes / 2**20 if p.memory_bytes else resident.get((p.part, p.name)) for p in pods
    ]
    return pd.DataFrame(
        {
            "part": [p.part for p in pods],
            "state": [p.state for p in pods],
            "port": [ports.get(ENDPOINT_OF.get(p.part, ""), "") for p in pods],
            "rss_mib": pd.array([None if m is None else round(m) for m in mib], dtype="Int64"),
            "restarts": [p.restarts for p in pods],
            "what": [p.why or p.name for p in pods],
        }
    )


def tools_url(settings: Settings) -> str:
    """Where the tool server can be reached from here; the settings' `mcp` is where Llama Stack reaches it."""
    return _connection(settings).reachable["mcp"]


def run_shards(plan: Plan, settings: Settings, shards: int, lead_s: float = 60.0) -> Run:
    """Drive a plan from so many pods of the cluster; all begin in `lead_s` s. The whole run comes back, and is saved.

    Raises WorkloadError and StackError as `lab.stack.cluster.load` and `collect` do.
    """
    context = _connection(settings).context
    with tempfile.TemporaryDirectory() as folder:
        plan_file = plan.save(Path(folder) / "plan.jsonl")
        run_id = cluster.load(settings, context, Path(plan_file), shards, lead_s)
        folders = cluster.collect(settings, context, run_id, Path(folder) / run_id)
        for index, found in enumerate(folders):
            plan.shard(index, shards).save(found / "plan.jsonl")
        run = join_shards(plan, [Run.load(found) for found in folders], run_id)
    run.save(settings.state_dir / "runs")
    return run


def _connection(settings: Settings) -> Connection:
    found = cluster.connection(settings)
    if found is None:
        raise NotUp(
            "no cluster is connected", got=f"{settings.state_dir}", fix="`lab up --place cluster`"
        )
    return found


def _all_ready(rows: list[WorkloadStatus]) -> bool:
    return bool(rows) and all(r.ready for r in rows)


def _says_what_it_waits_for() -> Callable[[list[WorkloadStatus], float], None]:
    said: set[str] = set()

    def progress(rows: list[WorkloadStatus], elapsed_s: float) -> None:
        for row in rows:
            line = (
                f"{row.name} is ready" if row.ready else f"{row.name}: {row.why}" if row.why else ""
            )
            if line and line not in said:
                said.add(line)
                print(f"{elapsed_s:6.0f} s  {line}", flush=True)

    return progress


def _resident_mib(settings: Settings) -> dict[tuple[str, str], float]:
    """{(job, pod): MiB} of the processes that export their own memory."""
    answer = Prometheus(settings).query("process_resident_memory_bytes")
    return {
        (s["metric"].get("job", ""), s["metric"].get("pod", "")): float(s["value"][1]) / 2**20
        for s in answer.metrics
    }
