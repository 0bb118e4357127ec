"""The verbs: preflight, up, status, down."""

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.errors import StackError
from lab.settings import Settings
from lab.stack import processes, state
from lab.stack.cluster import kubectl as kube
from lab.stack.cluster import port_forwards, rollout
from lab.stack.cluster import preflight_checks as checks
from lab.stack.cluster.api import (
    OUR_LABEL,
    OUTSIDE_OUR_NAMESPACES,
    PART_OF,
    WORKLOADS,
    Api,
    remove_job,
)
from lab.stack.cluster.rollout import WorkloadStatus


def preflight(settings: Settings, context: str, overlay: str) -> list[checks.Finding]:
    """Return every check of the cluster, good or bad; changes nothing.

    Raises SettingsError, SetupError, StackError.
    """
    kube.named(context)
    return checks.check(Api(context), kube.render(overlay), overlay)


def up(
    settings: Settings,
    context: str,
    overlay: str,
    progress: Callable[[list[WorkloadStatus], float], None] | None = None,
    wait_s: float = 2400.0,
) -> dict[str, str]:
    """Apply the overlay, wait until all of it is ready and forward its ports.

    Returns {endpoint name: URL}. A second call changes what has changed. Raises SettingsError for a
    context or overlay that does not exist, StackError where the cluster lacks something (with the
    fix), PartFailed when a workload does not get ready.
    """
    kubectl = kube.named(context)
    documents = kube.render(overlay)
    _no_local_lab(settings.state_dir.resolve())
    api = Api(context)
    _stop_for(checks.check(api, documents, overlay), context, overlay)
    namespaces = [d for d in documents if d["kind"] == "Namespace"]
    for namespace in namespaces:
        namespace["metadata"]["annotations"] = {checks.OVERLAY: overlay}
    # First, and alone: nothing can be put into a namespace that is not there.
    kubectl.apply(namespaces)
    _grafana_password(api)
    _remove_finished_jobs(api, documents)
    kubectl.apply([d for d in documents if d["kind"] != "Namespace"])
    wanted = {
        (d["kind"], d["metadata"]["namespace"], d["metadata"]["name"])
        for d in documents
        if d["kind"] in WORKLOADS
    }
    rollout.wait(api, wanted, wait_s, progress)
    _wait_for_operator(api, documents, wait_s)
    return port_forwards.open_forwards(kubectl, settings, overlay, documents)


def status(settings: Settings, context: str) -> list[WorkloadStatus]:
    """Return how each workload of the lab is now; empty if there is none."""
    kube.named(context)
    return rollout.statuses(Api(context))


def down(settings: Settings, context: str, wait_s: float = 600.0) -> list[str]:
    """Remove the lab's namespaces and its labelled cluster-wide objects.

    Returns what was removed. Raises StackError if something is still there after `wait_s`.
    """
    kube.named(context)
    port_forwards.close_forwards(settings.state_dir.resolve())
    api = Api(context)
    ours = {n["metadata"]["name"] for n in api.items("api/v1", "namespaces", PART_OF)}
    removed = []
    for group, plural in OUTSIDE_OUR_NAMESPACES:
        for item in list(api.items(group, plural, PART_OF)):
            meta = item["metadata"]
            inside = f"namespaces/{meta['namespace']}/" if meta.get("namespace") else ""
            if meta.get("namespace") not in ours and api.delete(
                f"{group}/{inside}{plural}/{meta['name']}"
            ):
                removed.append(f"{plural}/{meta['name']}")
    removed += [
        f"namespaces/{name}" for name in sorted(ours) if api.delete(f"api/v1/namespaces/{name}")
    ]
    limit = time.monotonic() + wait_s
    while left := [n["metadata"]["name"] for n in api.items("api/v1", "namespaces", PART_OF)]:
        if time.monotonic() > limit:
            raise StackError(
                f"namespace {left[0]} is still there after {wait_s:.0f} s",
                fix=f"see what holds it: kubectl --context {context} get all --namespace {left[0]}",
            )
        time.sleep(rollout.POLL_S)
    return removed


# -- up ----------------------------------------------------------------------------------------


def _no_local_lab(state_dir: Path) -> None:
    found = state.read(state_dir)
    if found and processes.is_same(found.supervisor_pid, found.supervisor_create_time):
        raise StackError(
            "a local lab runs from the same state folder",
            got=str(state_dir),
            fix="`lab down` first, or give the cluster its own folder: LAB_STATE_DIR=.lab-cluster",
        )


def _stop_for(findings: list[checks.Finding], context: str, overlay: str) -> None:
    missing = [f for f in findings if not f.ok and f.required]
    if missing:
        raise StackError(
            f"context {context} lacks what the overlay {overlay} needs",
            got="".join(f"\n    {f.name}: {f.found}\n      fix: {f.fix}" for f in missing),
            fix="apply the fixes",
        )


def _grafana_password(api: Api) -> None:
    """Create the password as a Secret, once. Only those who may read Secrets there can see it."""
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "grafana-admin",
            "namespace": "llm-lab-obs",
            "labels": OUR_LABEL,
        },
        "type": "Opaque",
        "stringData": {"password": secrets.token_urlsafe(18)},
    }
    api.create("api/v1/namespaces/llm-lab-obs/secrets", body)


def _remove_finished_jobs(api: Api, documents: list[dict[str, Any]]) -> None:
    """Remove Jobs that have ended: their pods cannot be changed, and both of ours may run again."""
    for d in documents:
        if d["kind"] == "Job":
            namespace, name = d["metadata"]["namespace"], d["metadata"]["name"]
            there = api.get(f"apis/batch/v1/namespaces/{namespace}/jobs/{name}") or {}
            if there.get("status", {}).get("conditions"):
                remove_job(api, namespace, name, rollout.POLL_S)


def _wait_for_operator(api: Api, documents: list[dict[str, Any]], wait_s: float) -> None:
    """Wait until the Prometheus operator has made our Prometheus and Alertmanager, ready to use."""
    limit = time.monotonic() + wait_s
    for d in documents:
        if d["kind"] not in ("Prometheus", "Alertmanager"):
            continue
        namespace = d["metadata"]["namespace"]
        name = f"{d['kind'].lower()}-{d['metadata']['name']}"
        while True:
            there = api.get(f"apis/apps/v1/namespaces/{namespace}/statefulsets/{name}") or {}
            if there.get("status", {}).get("readyReplicas", 0) >= d["spec"].get("replicas", 1):
                break
            if time.monotonic() > limit:
                raise StackError(
                    f"{d['kind']} did not get ready",
                    got="it is there, without ready pods" if there else f"no StatefulSet {name}",
                    fix="see whether the operator runs: "
                    "kubectl get pods --all-namespaces | grep prometheus-operator",
                )
            time.sleep(rollout.POLL_S)
