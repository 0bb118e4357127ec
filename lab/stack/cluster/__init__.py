"""Stand lab/k8s up in a Kubernetes context that the user names, and take it down again.

    preflight(settings, context, overlay)   what the cluster lacks, each with its fix
    up(settings, context, overlay)          applies, waits, forwards ports; returns {endpoint: URL}
    status(settings, context)               one row a workload
    connection(settings)                    the cluster that `up` has forwarded ports of
    pods(settings, context)                 one row a pod: state, restarts, memory
    load(settings, context, plan, shards)   drives a saved plan from so many pods
    collect(settings, context, run_id, to)  waits for them and brings their records back
    down(settings, context)                 removes what is ours and nothing else

`kubectl` does what one would type oneself (kustomize, apply, port-forward); the official client
does the rest. Nothing happens in a context that was not named: there is no default one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.settings import Settings
    from lab.stack.cluster.pod_status import PodStatus
    from lab.stack.cluster.port_forwards import Connection
    from lab.stack.cluster.preflight_checks import Finding
    from lab.stack.cluster.rollout import WorkloadStatus

__all__ = ["OVERLAYS", "collect", "connection", "down", "load", "pods", "preflight", "status", "up"]

OVERLAYS = (
    "minikube-cpu",
    "minikube-cpu-arm64",
    "minikube-gpu",
    "cluster",
    "cluster-existing-prometheus",
    "openshift",
)


def preflight(settings: Settings, context: str, overlay: str) -> list[Finding]:
    """Every check of the cluster, good or bad; changes nothing.

    Raises SettingsError, SetupError, StackError.
    """
    from lab.stack.cluster import control

    return control.preflight(settings, context, overlay)


def up(
    settings: Settings,
    context: str,
    overlay: str,
    progress: Callable[[list[WorkloadStatus], float], None] | None = None,
    wait_s: float = 2400.0,
) -> dict[str, str]:
    """Apply the overlay, wait until all of it is ready, forward its ports; returns {endpoint name.

    URL}.

    A second call changes what has changed. Raises SettingsError for a context or overlay that does
    not exist, StackError where the cluster lacks something (with the fix), PartFailed when a
    workload does not get ready.
    """
    from lab.stack.cluster import control

    return control.up(settings, context, overlay, progress, wait_s)


def status(settings: Settings, context: str) -> list[WorkloadStatus]:
    """How each workload of the lab is now; empty if there is none."""
    from lab.stack.cluster import control

    return control.status(settings, context)


def pods(settings: Settings, context: str) -> list[PodStatus]:
    """How each pod of the lab is now; empty if there is none."""
    from lab.stack.cluster import pod_status

    return pod_status.pods(context)


def connection(settings: Settings) -> Connection | None:
    """Return what `up` stood up last from this state folder, and where it is; None if nothing."""
    from lab.stack.cluster import port_forwards

    return port_forwards.connection(settings)


def load(settings: Settings, context: str, plan: Path, shards: int, lead_s: float = 60.0) -> str:
    """Start a Job of `shards` pods that drive a saved plan from `lead_s` s on; return the run's id.

    Raises WorkloadError for a plan that is no file or too large for a ConfigMap, StackError if the
    Job is refused.
    """
    from lab.stack.cluster import shards as job

    return job.start(context, plan, shards, lead_s)


def collect(
    settings: Settings,
    context: str,
    run_id: str,
    out_dir: Path,
    wait_s: float = 3600.0,
    progress: Callable[[str, float], None] | None = None,
) -> list[Path]:
    """Wait until all shards of a load have ended; return a folder of records for each.

    A folder has records.parquet and run.json.


    Raises PartFailed with the pods' last words for a shard that could not be driven, WorkloadError
    for a record that is not whole.
    """
    from lab.stack.cluster import shards as job

    return job.collect(context, run_id, out_dir, wait_s, progress)


def down(settings: Settings, context: str, wait_s: float = 600.0) -> list[str]:
    """Remove the lab's namespaces and its labelled cluster-wide objects; returns what was removed.

    Raises StackError if something is still there after `wait_s`.
    """
    from lab.stack.cluster import control

    return control.down(settings, context, wait_s)
