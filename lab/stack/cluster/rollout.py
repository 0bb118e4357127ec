"""How far the workloads are, and why one does not get ready."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lab.errors import PartFailed, StackError
from lab.settings import Settings
from lab.stack.cluster import kubectl as kube
from lab.stack.cluster.api import PART_OF, WORKLOADS, Api
from lab.stack.cluster.preflight_checks import quantity

POLL_S = 2.0
# Reasons that waiting cannot change.
HOPELESS = {
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
}
# Reasons that may pass within seconds (a registry that stumbles), and do not after this long.
PATIENCE_S = 45.0
SUSPICIOUS = {"ErrImagePull", "ImagePullBackOff", "CrashLoopBackOff", "Unschedulable"}
LOG_LINES = "8"
# What usually helps, for the reasons that newcomers meet.
_LOAD_IMAGE = "build or load the image into the cluster (lab/k8s/README.md, Images)"
FIXES = {
    "ErrImagePull": _LOAD_IMAGE,
    "ImagePullBackOff": _LOAD_IMAGE,
    "Unschedulable": "give the cluster more room, or choose a smaller overlay",
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
    reason: str = ""  # the first word of `why`: ErrImagePull, Unschedulable, ...
    pod: str = ""
    container: str = ""

    # What `lab.stack.control.LineProgress` prints.
    error = ""
    ready_after_s = None
    state = property(lambda self: "ready" if self.ready else self.progress)
    waits_for = property(lambda self: self.why)


def statuses(api: Api) -> list[WorkloadStatus]:
    """Return every workload of the lab."""
    return [
        _status(api, kind, item)
        for kind, (group, plural) in WORKLOADS.items()
        for item in api.items(group, plural, PART_OF)
    ]


def wait(
    api: Api,
    wanted: set[tuple[str, str, str]],
    limit_s: float,
    progress: Callable | None,
    poll_s: float = POLL_S,
) -> None:
    """Return when all `wanted` (kind, namespace, name) are ready.

    Raises PartFailed for one that cannot get ready: at once for a reason that waiting cannot
    change, after PATIENCE_S for one that it could have, after `limit_s` for any other.
    """
    begun = time.monotonic()
    since: dict[tuple[str, str], float] = {}  # {(workload, reason): when it was first seen}
    while True:
        rows = [s for s in statuses(api) if (s.kind, s.namespace, s.name) in wanted]
        elapsed_s = time.monotonic() - begun
        if progress:
            progress(rows, elapsed_s)
        _check_failures(api, rows, since)
        waiting = [s for s in rows if not s.ready]
        if not waiting and len(rows) == len(wanted):
            return
        if elapsed_s > limit_s:
            raise _out_of_time(api, wanted, rows, waiting, limit_s)
        time.sleep(poll_s)


def _check_failures(
    api: Api, rows: list[WorkloadStatus], since: dict[tuple[str, str], float]
) -> None:
    """Raise PartFailed for a workload that has failed or is stuck. Changes `since`."""
    for s in rows:
        if s.failed:
            raise _failure(api, s, f"{s.kind} {s.name} cannot get ready")
    stuck = _stuck(rows, since)
    if stuck and not _nodes_are_added(api, stuck):
        raise _failure(
            api, stuck, f"{stuck.kind} {stuck.name} has not got ready for {PATIENCE_S:.0f} s"
        )


def _stuck(
    rows: list[WorkloadStatus], since: dict[tuple[str, str], float]
) -> WorkloadStatus | None:
    """Return a workload that has waited for one suspicious reason for PATIENCE_S.

    Changes `since`.
    """
    now = time.monotonic()
    suspects = {(s.name, _group(s.reason)): s for s in rows if s.reason in SUSPICIOUS}
    unready = {s.name for s in rows if not s.ready}
    for key in set(since) - set(suspects):
        # Between two crashes a container runs for a while; that ends no crash loop.
        if key[1] != "CrashLoopBackOff" or key[0] not in unready:
            del since[key]
    for key, s in suspects.items():
        # A Job's pods may crash until what they need is up; the Job decides when it has failed.
        if s.kind == "Job" and s.reason == "CrashLoopBackOff":
            continue
        if now - since.setdefault(key, now) >= PATIENCE_S:
            return s
    return None


def _group(reason: str) -> str:
    """Return one name for the reasons between which a pod goes back and forth."""
    return "image" if reason in ("ErrImagePull", "ImagePullBackOff") else reason


def _nodes_are_added(api: Api, s: WorkloadStatus) -> bool:
    """Return whether a cluster autoscaler is making room for the pods of a workload."""
    if s.reason != "Unschedulable":
        return False
    events = api.items("api/v1", "events", namespace=s.namespace)
    return any(
        e.get("reason") == "TriggeredScaleUp"
        and e.get("involvedObject", {}).get("name", "").startswith(f"{s.name}-")
        for e in events
    )


def _out_of_time(
    api: Api,
    wanted: set[tuple[str, str, str]],
    rows: list[WorkloadStatus],
    waiting: list[WorkloadStatus],
    limit_s: float,
) -> PartFailed:
    if waiting:
        return _failure(api, waiting[0], f"{waiting[0].name} was not ready after {limit_s:.0f} s")
    there = {(s.kind, s.namespace, s.name) for s in rows}
    missing = sorted(name for _, _, name in wanted - there)
    return PartFailed(
        f"{missing[0]} was applied and is not there",
        part=missing[0],
        fix="run the same command again",
    )


def _failure(api: Api, s: WorkloadStatus, happened: str) -> PartFailed:
    """Return the error with the cluster's words and, for a container that ended, its last ones."""
    look = f"kubectl --context {api.context} --namespace {s.namespace}"
    kind = s.kind.lower()
    fix = f"{look} describe {kind} {s.name}; {look} logs {kind}/{s.name} --all-containers --tail 50"
    got = "; ".join(t for t in (s.progress, s.why, FIXES.get(s.reason, "")) if t)
    if s.reason == "CrashLoopBackOff" and s.pod:
        got += f"\n    {_last_words(api, s)}"
    return PartFailed(happened, part=s.name, got=got.rstrip(), fix=fix)


def _last_words(api: Api, s: WorkloadStatus) -> str:
    path = f"api/v1/namespaces/{s.namespace}/pods/{s.pod}/log"
    try:
        log = api.text(path, container=s.container, previous="true", tailLines=LOG_LINES)
        return "\n    ".join(log.strip().splitlines())
    except StackError:  # the container is already gone, and its log with it
        return ""


def _status(api: Api, kind: str, item: dict[str, Any]) -> WorkloadStatus:
    meta = item["metadata"]
    spec = item["spec"]
    now = item.get("status", {})
    counts = {
        "Job": (now.get("succeeded", 0), spec.get("completions", 1)),
        "DaemonSet": (now.get("numberReady", 0), now.get("desiredNumberScheduled", 0)),
    }
    done, wanted = counts.get(kind, (now.get("readyReplicas", 0), spec.get("replicas", 1)))
    failed = has_condition(now, "Failed")  # of a Job; the others have no such condition
    seen = now.get("observedGeneration", 0) >= meta.get("generation", 0) or kind == "Job"
    ready = seen and done >= wanted and not failed
    why = Waiting() if ready else _reason(api, meta["namespace"], item)
    return WorkloadStatus(
        kind,
        meta["namespace"],
        meta["name"],
        ready,
        f"{done} of {wanted} {'done' if kind == 'Job' else 'ready'}",
        f"{why.reason}: {why.message}".strip(": "),
        failed or why.reason in HOPELESS,
        why.reason,
        why.pod,
        why.container,
    )


def has_condition(status: dict[str, Any], kind: str) -> bool:
    """Return whether an object's status has this condition."""
    conditions = status.get("conditions", [])
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


@dataclass(frozen=True)
class Waiting:
    """What keeps a pod from being ready; empty fields where it is not known."""

    reason: str = ""
    message: str = ""
    pod: str = ""
    container: str = ""


def _reason(api: Api, namespace: str, item: dict[str, Any]) -> Waiting:
    """Return why a workload's pods are not ready: the gravest reason first."""
    spec = item["spec"]
    labels = spec.get("selector", {}).get("matchLabels") or spec["template"]["metadata"].get(
        "labels", {}
    )
    selector = ",".join(f"{k}={v}" for k, v in labels.items())
    pods = api.items("api/v1", "pods", selector, namespace)
    reasons = [r for pod in pods for r in pod_reasons(pod)]
    return min(
        reasons,
        key=lambda r: (r.reason not in HOPELESS, r.reason not in SUSPICIOUS),
        default=Waiting(),
    )


def pod_reasons(pod: dict[str, Any]) -> Iterator[Waiting]:
    """Yield everything that keeps a pod from being ready."""
    now = pod.get("status", {})
    name = pod["metadata"]["name"]
    for condition in now.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Waiting(condition.get("reason", ""), condition.get("message", ""), name)
    for status in [*now.get("initContainerStatuses", []), *now.get("containerStatuses", [])]:
        container = status["name"]
        waiting = status.get("state", {}).get("waiting") or {}
        reason = waiting.get("reason")
        if reason and reason not in ("PodInitializing", "ContainerCreating"):
            words = (container, waiting.get("message", ""), _last_end(status))
            yield Waiting(reason, " ".join(w for w in words if w), name, container)
        elif status.get("state", {}).get("running") and not status.get("ready"):
            yield Waiting(
                "Running", f"{container} runs, and its probe does not pass yet", name, container
            )


def _last_end(status: dict[str, Any]) -> str:
    """Return how a container's last run ended."""
    end = status.get("lastState", {}).get("terminated")
    return (
        f"(ended with {end.get('reason', 'Error')}, exit status {end['exitCode']})" if end else ""
    )


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
    ready = has_condition(now, "Ready")
    done = now.get("phase") == "Succeeded"
    state = "done" if done else "ready" if ready else now.get("phase", "Pending").lower()
    why = next((f"{r.reason}: {r.message}" for r in pod_reasons(pod)), "")
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
