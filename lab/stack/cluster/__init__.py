"""Stand lab/k8s up in a Kubernetes context that the user names, and take it down again.

    preflight(settings, context, overlay)   what the cluster lacks, each with its fix
    up(settings, context, overlay)          applies, waits, forwards ports; returns {endpoint: URL}
    status(settings, context)               one row per workload
    connection(settings)                    the cluster that `up` has forwarded ports of
    pods(settings, context)                 one row per pod: state, restarts, memory
    load(settings, context, plan, shards)   drives a saved plan from so many pods
    collect(settings, context, run_id, to)  waits for them and brings their records back
    down(settings, context)                 removes what is ours and nothing else

`kubectl` does what one would type oneself (kustomize, apply, port-forward); the official client
does the rest. Nothing happens in a context that was not named: there is no default one.
"""

from lab.stack.cluster.control import down, preflight, status, up
from lab.stack.cluster.port_forwards import connection
from lab.stack.cluster.rollout import pods
from lab.stack.cluster.shards import collect, load

__all__ = ["OVERLAYS", "collect", "connection", "down", "load", "pods", "preflight", "status", "up"]

OVERLAYS = (
    "minikube-cpu",
    "minikube-cpu-arm64",
    "minikube-gpu",
    "cluster",
    "cluster-existing-prometheus",
    "openshift",
)
