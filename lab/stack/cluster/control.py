"""The verbs: preflight, up, status, load, down."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.errors import SettingsError, StackError, WorkloadError
from lab.settings import ENDPOINTS, REPO, Settings
from lab.stack import processes, state
from lab.stack.cluster import kubectl as kube
from lab.stack.cluster import needs as checks
from lab.stack.cluster import rollout
from lab.stack.cluster.api import OUTSIDE_OUR_NAMESPACES, PART_OF, WORKLOADS, Api
from lab.stack.cluster.forward import answers
from lab.stack.cluster.rollout import WorkloadStatus
from lab.stack.ports import HOST, choose, is_free

CLUSTER_FILE = "cluster.json"
FORWARDS_UP_S = 60.0
CONFIG_MAP_BYTES = 1_000_000  # the API server's limit is 1 MiB for the whole object
# Endpoint -> (namespace, Service, port). Who calls the tools is Llama Stack, so their address is the one inside.
SERVICES = {
    "prometheus": ("llm-lab-obs", "prometheus", 9090),
    "tempo": ("llm-lab-obs", "tempo", 3200),
    "otlp": ("llm-lab-obs", "otel-collector", 4318),
    "grafana": ("llm-lab-obs", "grafana", 3000),
    "llama_stack": ("llm-lab", "llama-stack", 8321),
    "vllm": ("llm-lab", "model-server", 8000),
    "vllm_embed": ("llm-lab", "embed-server", 8000),
}
TOOLS_INSIDE = "http://lab-tools.llm-lab.svc:8200"


def preflight(settings: Settings, context: str, overlay: str) -> list[checks.Finding]:
    """See lab.stack.cluster.preflight."""
    kube.named(context)
    return checks.check(Api(context), kube.render(overlay))


def up(
    settings: Settings,
    context: str,
    overlay: str,
    progress: Callable[[list[WorkloadStatus], float], None] | None,
    wait_s: float,
) -> dict[str, str]:
    """See lab.stack.cluster.up."""
    kubectl = kube.named(context)
    documents = kube.render(overlay)
    state_dir = settings.state_dir.resolve()
    _no_local_lab(state_dir)
    api = Api(context)
    _stop_for(checks.check(api, documents), context, overlay)
    namespaces = [d for d in documents if d["kind"] == "Namespace"]
    kubectl.apply(namespaces)  # first, and alone: nothing can be put into a namespace that is not there
    _grafana_password(api)
    _remove_finished_jobs(api, documents)
    kubectl.apply([d for d in documents if d["kind"] != "Namespace"])
    wanted = {
        (d["kind"], d["metadata"]["namespace"], d["metadata"]["name"]) for d in documents if d["kind"] in WORKLOADS
    }
    rollout.wait(api, wanted, wait_s, progress)
    _wait_for_operator(api, documents, wait_s)
    return _open_ways(kubectl, state_dir, overlay, documents, settings)


def status(settings: Settings, context: str) -> list[WorkloadStatus]:
    """See lab.stack.cluster.status."""
    kube.named(context)
    return rollout.statuses(Api(context))


def down(settings: Settings, context: str, wait_s: float) -> list[str]:
    """See lab.stack.cluster.down."""
    kube.named(context)
    _close_ways(settings.state_dir.resolve())
    api = Api(context)
    ours = {n["metadata"]["name"] for n in api.items("api/v1", "namespaces", PART_OF)}
    removed = []
    for group, plural in OUTSIDE_OUR_NAMESPACES:
        for item in list(api.items(group, plural, PART_OF)):
            meta = item["metadata"]
            inside = f"namespaces/{meta['namespace']}/" if meta.get("namespace") else ""
            if meta.get("namespace") not in ours and api.delete(f"{group}/{inside}{plural}/{meta['name']}"):
                removed.append(f"{plural}/{meta['name']}")
    removed += [f"namespaces/{name}" for name in sorted(ours) if api.delete(f"api/v1/namespaces/{name}")]
    limit = time.monotonic() + wait_s
    while left := [n["metadata"]["name"] for n in api.items("api/v1", "namespaces", PART_OF)]:
        if time.monotonic() > limit:
            do = f"see what holds it: kubectl --context {context} get all --namespace {left[0]}"
            raise StackError(f"namespace {left[0]} is still there after {wait_s:.0f} s", do=do)
        time.sleep(rollout.POLL_S)
    return removed


def load(settings: Settings, context: str, plan: Path, shards: int, lead_s: float) -> str:
    """See lab.stack.cluster.load."""
    kubectl = kube.named(context)
    try:
        packed = gzip.compress(plan.read_bytes(), mtime=0)
    except OSError as e:
        do = "make one with `lab load --save-plan FILE`"
        raise WorkloadError(f"the plan {plan} cannot be read", had=str(e), do=do) from e
    if shards < 1:
        raise WorkloadError("a load needs at least one pod", had=f"shards = {shards}", do="give 1 or more")
    if len(packed) > CONFIG_MAP_BYTES:
        raise WorkloadError(
            "the plan is too large for a ConfigMap",
            had=f"{len(packed):,} bytes compressed, {CONFIG_MAP_BYTES:,} fit",
            do="make several shorter plans and drive them one after another",
        )
    api = Api(context)
    run_id = f"load-{datetime.now(UTC):%Y%m%dt%H%M%S}-{secrets.token_hex(2)}"
    _remove_job(api, "llm-lab", "load")
    meta = {"name": "load-plan", "namespace": "llm-lab", "labels": dict([PART_OF.split("=")])}
    data = {"plan.jsonl.gz": base64.b64encode(packed).decode()}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "binaryData": data}
    api.replace_config_map("llm-lab", "load-plan", body)
    documents = kube.render("load", kube.K8S)
    job = next(d for d in documents if d["kind"] == "Job")
    job["spec"] |= {"completions": shards, "parallelism": shards}
    values = {"SHARDS": str(shards), "RUN_ID": run_id, "START_AT": f"{time.time() + lead_s:.3f}"}
    for variable in job["spec"]["template"]["spec"]["containers"][0]["env"]:
        if variable["name"] in values:
            variable["value"] = values[variable["name"]]
    kubectl.apply(documents)
    return run_id


# -- up ----------------------------------------------------------------------------------------------------------------


def _no_local_lab(state_dir: Path) -> None:
    found = state.read(state_dir)
    if found and processes.is_same(found.supervisor_pid, found.supervisor_create_time):
        do = "`lab down` first, or give the cluster its own folder: LAB_STATE_DIR=.lab-cluster"
        raise StackError("a local lab runs from the same state folder", had=str(state_dir), do=do)


def _stop_for(findings: list[checks.Finding], context: str, overlay: str) -> None:
    missing = [f for f in findings if not f.ok and f.required]
    if missing:
        had = "".join(f"\n    {f.name}: {f.found}\n      fix: {f.fix}" for f in missing)
        raise StackError(f"context {context} lacks what the overlay {overlay} needs", had=had, do="apply the fixes")


def _grafana_password(api: Api) -> None:
    """Made once; it never leaves the cluster but for who may read Secrets there."""
    meta = {"name": "grafana-admin", "namespace": "llm-lab-obs", "labels": dict([PART_OF.split("=")])}
    password = {"password": secrets.token_urlsafe(18)}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "stringData": password}
    api.create("api/v1/namespaces/llm-lab-obs/secrets", body)


def _remove_finished_jobs(api: Api, documents: list[dict[str, Any]]) -> None:
    """A Job's pods cannot be changed, so one that has ended makes room for its new form; both of ours may run again."""
    for d in documents:
        if d["kind"] == "Job":
            namespace, name = d["metadata"]["namespace"], d["metadata"]["name"]
            there = api.get(f"apis/batch/v1/namespaces/{namespace}/jobs/{name}") or {}
            if there.get("status", {}).get("conditions"):
                _remove_job(api, namespace, name)


def _remove_job(api: Api, namespace: str, name: str, wait_s: float = 60.0) -> None:
    path = f"apis/batch/v1/namespaces/{namespace}/jobs/{name}"
    api.delete(path)
    limit = time.monotonic() + wait_s
    while api.get(path) is not None:
        if time.monotonic() > limit:
            raise StackError(f"the Job {name} of an earlier run does not go", do="remove it with kubectl delete job")
        time.sleep(rollout.POLL_S)


def _wait_for_operator(api: Api, documents: list[dict[str, Any]], wait_s: float) -> None:
    """The Prometheus operator makes a StatefulSet of our Prometheus; without a running operator nobody does."""
    limit = time.monotonic() + wait_s
    for d in documents:
        if d["kind"] != "Prometheus":
            continue
        namespace, name = d["metadata"]["namespace"], f"prometheus-{d['metadata']['name']}"
        while True:
            there = api.get(f"apis/apps/v1/namespaces/{namespace}/statefulsets/{name}") or {}
            if there.get("status", {}).get("readyReplicas", 0) >= d["spec"].get("replicas", 1):
                break
            if time.monotonic() > limit:
                had = "it is there, without ready pods" if there else f"no StatefulSet {name}"
                do = "see whether the operator runs: kubectl get pods --all-namespaces | grep prometheus-operator"
                raise StackError("Prometheus did not get ready", had=had, do=do)
            time.sleep(rollout.POLL_S)


# -- ways --------------------------------------------------------------------------------------------------------------


def _open_ways(
    kubectl: kube.Kubectl, state_dir: Path, overlay: str, documents: list[dict[str, Any]], settings: Settings
) -> dict[str, str]:
    """Port-forwards under a process of their own; inside the cluster the Services' names do."""
    state.prepare(state_dir)
    services = _services(documents)
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        urls = {name: f"http://{service}.{ns}.svc:{port}" for name, (ns, service, port) in services.items()}
        state.write_endpoints(state_dir, urls | {"mcp": TOOLS_INSIDE})
        return urls | {"mcp": TOOLS_INSIDE}
    _close_ways(state_dir)
    wished = choose({k: v for k, v in settings.ports.items() if k in services})
    local = {name: wished[name] if name in wished else _free_from(13000, set(wished.values())) for name in services}
    commands = {n: kubectl.forward_command(ns, s, local[n], port) for n, (ns, s, port) in services.items()}
    process = _start_forwards(state_dir, commands)
    limit = time.monotonic() + FORWARDS_UP_S
    while closed := [name for name, port in local.items() if not answers(port)]:
        if time.monotonic() > limit or process.poll() is not None:
            _close_ways(state_dir)
            had, do = f"{state_dir / 'logs' / 'forwards.log'} says why", f"try it: {' '.join(commands[closed[0]])}"
            raise StackError(f"there is no way to {ENDPOINTS[closed[0]]} in the cluster", had=had, do=do)
        time.sleep(0.2)
    about = {"context": kubectl.context, "overlay": overlay}
    state.write_json(state_dir / CLUSTER_FILE, json.loads((state_dir / CLUSTER_FILE).read_text()) | about)
    urls = {name: f"http://{HOST}:{port}" for name, port in local.items()} | {"mcp": TOOLS_INSIDE}
    state.write_endpoints(state_dir, urls)
    return urls


def _services(documents: list[dict[str, Any]]) -> dict[str, tuple[str, str, int]]:
    """SERVICES, with a name that only points elsewhere followed to where it points."""
    found = dict(SERVICES)
    for d in documents:
        if d["kind"] == "Service" and d["spec"].get("type") == "ExternalName":
            service, namespace = d["spec"]["externalName"].split(".")[:2]
            for endpoint, (ns, name, port) in SERVICES.items():
                if (ns, name) == (d["metadata"]["namespace"], d["metadata"]["name"]):
                    found[endpoint] = (namespace, service, port)
    return found


def _free_from(port: int, taken: set[int]) -> int:
    for candidate in range(port, port + 200):
        if candidate not in taken and is_free(candidate):
            return candidate
    raise SettingsError("no port is free", had=f"{port} to {port + 199}", do="end programs that listen there")


def _start_forwards(state_dir: Path, commands: dict[str, list[str]]) -> subprocess.Popen[bytes]:
    with (state_dir / "logs" / "forwards.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.stack.cluster.forward"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=REPO,
            env=processes.part_env(state_dir, "forwards", {"PYTHONPATH": str(REPO)}),
            start_new_session=True,
        )
    process.stdin.write(json.dumps({"commands": commands}).encode())
    process.stdin.close()
    pid, created = processes.identity(process.pid) or (process.pid, time.time())
    state.write_json(state_dir / CLUSTER_FILE, {"pid": pid, "create_time": created})
    return process


def _close_ways(state_dir: Path) -> None:
    """End the process that forwards, if it is still the one that we started."""
    path = state_dir / CLUSTER_FILE
    with contextlib.suppress(OSError, ValueError, KeyError):
        found = json.loads(path.read_text())
        if processes.is_same(found["pid"], found["create_time"]):
            processes.end(processes.tree(found["pid"]))
        state.remove_endpoints(state_dir)
    path.unlink(missing_ok=True)
