"""One row per pod: what `lab.status_frame` shows of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lab.settings import Settings
from lab.stack.cluster import kubectl as kube
from lab.stack.cluster import rollout
from lab.stack.cluster.api import PART_OF, Api
from lab.stack.cluster.preflight_checks import quantity

METRICS = "apis/metrics.k8s.io/v1beta1"


@dataclass(frozen=True)
class PodStatus:
    """A pod.

    `memory_bytes` is its working set as metrics-server measured it; None where there is no such
    server.
    """

    part: str
    namespace: str
    name: str
    state: str
    ready: bool
    restarts: int
    memory_bytes: int | None
    why: str


def pods(settings: Settings, context: str) -> list[PodStatus]:
    """Return how each pod of the lab is now; empty if there is none."""
    kube.named(context)
    api = Api(context)
    memory = dict(_memory(api))
    return sorted(
        (_row(p, memory) for p in api.items("api/v1", "pods", PART_OF)),
        key=lambda r: (r.namespace, r.name),
    )


def _row(pod: dict[str, Any], memory: dict[tuple[str, str], int]) -> PodStatus:
    meta = pod["metadata"]
    now = pod.get("status", {})
    ready = rollout.has_condition(now, "Ready")
    done = now.get("phase") == "Succeeded"
    state = "done" if done else "ready" if ready else now.get("phase", "Pending").lower()
    why = next((f"{r.reason}: {r.message}" for r in rollout.pod_reasons(pod)), "")
    return PodStatus(
        part=(meta.get("labels") or {}).get("app.kubernetes.io/name", meta["name"]),
        namespace=meta["namespace"],
        name=meta["name"],
        state="going" if meta.get("deletionTimestamp") else state,
        ready=ready or done,
        restarts=sum(c.get("restartCount", 0) for c in now.get("containerStatuses", [])),
        memory_bytes=memory.get((meta["namespace"], meta["name"])),
        why="" if done or ready else why.rstrip(": "),
    )


def _memory(api: Api) -> Iterator[tuple[tuple[str, str], int]]:
    if api.get(METRICS) is None:
        return
    for item in api.items(METRICS, "pods"):
        used = sum(quantity(c["usage"]["memory"]) for c in item["containers"])
        yield (item["metadata"]["namespace"], item["metadata"]["name"]), int(used)
