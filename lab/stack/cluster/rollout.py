"""How far the workloads are, and why one does not get ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lab.errors import PartFailed
from lab.stack.cluster.api import PART_OF, WORKLOADS, Api

POLL_S = 2.0
# What a container waits for that time alone does not mend.
HOPELESS = {
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
}


@dataclass(frozen=True)
class WorkloadStatus:
    """One workload; `why` says what it waits for, in the cluster's own words."""

    kind: str
    namespace: str
    name: str
    ready: bool
    progress: str
    why: str = ""
    failed: bool = False


def statuses(api: Api) -> list[WorkloadStatus]:
    """Every workload of the lab."""
    found = []
    for kind, (group, plural) in WORKLOADS.items():
        for item in api.items(group, plural, PART_OF):
            found.append(_status(api, kind, item))
    return found


def wait(
    api: Api,
    wanted: set[tuple[str, str, str]],
    limit_s: float,
    progress: Callable | None,
    poll_s: float = POLL_S,
) -> None:
    """Return when all `wanted` (kind, namespace, name) are ready.

    Raises PartFailed for one that cannot get ready, or is not within `limit_s`.
    """
    begun = time.monotonic()
    while True:
        rows = [s for s in statuses(api) if (s.kind, s.namespace, s.name) in wanted]
        elapsed_s = time.monotonic() - begun
        if progress:
            progress(rows, elapsed_s)
        for s in rows:
            if s.failed:
                raise _failure(api.context, s, f"{s.kind} {s.name} cannot get ready")
        waiting = [s for s in rows if not s.ready]
        if not waiting and len(rows) == len(wanted):
            return
        if elapsed_s > limit_s:
            missing = sorted(
                n for _, _, n in wanted - {(s.kind, s.namespace, s.name) for s in rows}
            )
            if not waiting:
                fix = "run the same command again"
                raise PartFailed(
                    f"{missing[0]} was applied and is not there", part=missing[0], fix=fix
                )
            raise _failure(
                api.context, waiting[0], f"{waiting[0].name} was not ready after {limit_s:.0f} s"
            )
        time.sleep(poll_s)


def _failure(context: str, s: WorkloadStatus, happened: str) -> PartFailed:
    look = f"kubectl --context {context} --namespace {s.namespace}"
    kind = s.kind.lower()
    fix = f"{look} describe {kind} {s.name}; {look} logs {kind}/{s.name} --all-containers --tail 50"
    return PartFailed(
        happened, part=s.name, got="; ".join(t for t in (s.progress, s.why) if t), fix=fix
    )


def _status(api: Api, kind: str, item: dict[str, Any]) -> WorkloadStatus:
    meta, spec, now = item["metadata"], item["spec"], item.get("status", {})
    if kind == "Job":
        wanted, done = spec.get("completions", 1), now.get("succeeded", 0)
        failed = any(
            c["type"] == "Failed" and c["status"] == "True" for c in now.get("conditions", [])
        )
    else:
        wanted = (
            now.get("desiredNumberScheduled", 0) if kind == "DaemonSet" else spec.get("replicas", 1)
        )
        done = now.get("numberReady" if kind == "DaemonSet" else "readyReplicas", 0)
        failed = False
    seen = now.get("observedGeneration", 0) >= meta.get("generation", 0) or kind == "Job"
    ready = seen and done >= wanted and not failed
    why, hopeless = ("", False) if ready else _reason(api, meta["namespace"], item)
    what = f"{done} of {wanted} {'done' if kind == 'Job' else 'ready'}"
    return WorkloadStatus(
        kind, meta["namespace"], meta["name"], ready, what, why, failed or hopeless
    )


def _reason(api: Api, namespace: str, item: dict[str, Any]) -> tuple[str, bool]:
    """(why its pods are not ready, whether waiting is in vain)."""
    spec = item["spec"]
    labels = spec.get("selector", {}).get("matchLabels") or spec["template"]["metadata"].get(
        "labels", {}
    )
    selector = ",".join(f"{k}={v}" for k, v in labels.items())
    reasons = [
        r for pod in api.items("api/v1", "pods", selector, namespace) for r in pod_reasons(pod)
    ]
    for reason, message, hopeless in reasons:
        return f"{reason}: {message}".rstrip(": "), hopeless
    return "", False


def pod_reasons(pod: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """(reason, message, whether waiting is in vain) of everything that keeps a pod from being ready."""
    now = pod.get("status", {})
    for condition in now.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield condition.get("reason", ""), condition.get("message", ""), False
    for container in [*now.get("initContainerStatuses", []), *now.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            reason = waiting["reason"]
            yield (
                reason,
                f"{container['name']} {waiting.get('message', '')}".strip(),
                reason in HOPELESS,
            )
        elif container.get("state", {}).get("running") and not container.get("ready"):
            yield "Running", f"{container['name']} runs, and its probe does not pass yet", False
