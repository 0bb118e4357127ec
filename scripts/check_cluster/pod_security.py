"""Check the restricted Pod Security Standard, and what the lab requires of every pod beyond it.

https://kubernetes.io/docs/concepts/security/pod-security-standards/ . Namespaces with the label
`privileged` are excluded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scripts.check_cluster.render import containers, is_openshift, name, pods

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def check(documents: list[dict[str, Any]]) -> list[str]:
    """Return the problems of every pod template, and of every namespace's label."""
    privileged = {
        d["metadata"]["name"]
        for d in documents
        if d["kind"] == "Namespace"
        and d["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce")
        == "privileged"
    }
    problems = _namespaces(documents)
    for d, template in pods(documents):
        if d["metadata"].get("namespace") not in privileged:
            problems += [f"{name(d)}: {p}" for p in _restricted(template)]
            ids = _fixed_ids if is_openshift(documents) else _no_user
            problems += [f"{name(d)}: {p}" for p in ids(template)]
        problems += [f"{name(d)}: {p}" for p in _ours(d, template)]
    return problems


def _namespaces(documents: list[dict[str, Any]]) -> list[str]:
    namespaces = [d for d in documents if d["kind"] == "Namespace"]
    enforce = "pod-security.kubernetes.io/enforce"
    return [
        f"{name(d)}: no {enforce} label"
        for d in namespaces
        if enforce not in d["metadata"].get("labels", {})
    ]


def _restricted(template: dict[str, Any]) -> list[str]:
    spec = template["spec"]
    pod = spec.get("securityContext", {})
    problems = [
        f"{field} is set" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)
    ]
    for volume in spec.get("volumes", []):
        if not _VOLUMES & volume.keys():
            problems.append(f"volume {volume['name']} is not one of {', '.join(sorted(_VOLUMES))}")
    for c in containers(template):
        problems += [f"container {c['name']} {p}" for p in _restricted_container(c, pod)]
    return problems


def _restricted_container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    """Yield what the standard forbids, given the security context of the pod."""
    context = container.get("securityContext", {})
    if context.get("privileged"):
        yield "is privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "does not forbid privilege escalation"
    if context.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "does not drop all capabilities"
    if set(context.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "adds capabilities"
    if not context.get("runAsNonRoot", pod.get("runAsNonRoot")):
        yield "may run as root"
    profile = context.get("seccompProfile", pod.get("seccompProfile", {})).get("type")
    if profile not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    for port in container.get("ports", []):
        if "hostPort" in port:
            yield f"takes host port {port['hostPort']}"


def _no_user(template: dict[str, Any]) -> list[str]:
    """Return the containers that name no user other than root."""
    pod = template["spec"].get("securityContext", {})
    return [
        f"container {c['name']} has no user other than root"
        for c in containers(template)
        if c.get("securityContext", {}).get("runAsUser", pod.get("runAsUser")) in (0, None)
    ]


def _fixed_ids(template: dict[str, Any]) -> list[str]:
    """Return fixed users and groups; OpenShift's restricted-v2 admits its own range only."""
    contexts = [template["spec"], *containers(template)]
    return [
        f"{field} is fixed, which OpenShift's restricted-v2 refuses"
        for context in contexts
        for field in ("runAsUser", "runAsGroup", "fsGroup", "supplementalGroups")
        if field in context.get("securityContext", {})
    ]


def _ours(document: dict[str, Any], template: dict[str, Any]) -> list[str]:
    spec = template["spec"]
    problems = []
    if spec.get("enableServiceLinks") is not False:
        problems.append(
            "enableServiceLinks is not false: a Service's name becomes environment variables"
        )
    if "automountServiceAccountToken" not in spec:
        problems.append("automountServiceAccountToken is not set")
    for c in containers(template):
        problems += [f"container {c['name']} {p}" for p in _resources(c.get("resources", {}))]
        ports = c.get("ports", [])
        problems += [
            f"port {p.get('name')} does not name its protocol" for p in ports if "protocol" not in p
        ]
    if document["kind"] in ("Deployment", "StatefulSet"):
        for c in spec["containers"]:
            missing = {"readinessProbe", "startupProbe"} - c.keys()
            problems += [f"container {c['name']} has no {probe}" for probe in sorted(missing)]
    if document["kind"] == "Deployment" and _one_gpu_deadlock(document, spec):
        problems.append(
            "a rolling update would wait for a GPU that the old pod holds: "
            "use Recreate or maxSurge 0"
        )
    return problems


def _resources(resources: dict[str, Any]) -> Iterator[str]:
    limits = resources.get("limits", {})
    requests = resources.get("requests", {})
    if "memory" not in limits or "cpu" not in requests:
        yield "has no memory limit or no CPU request"
    if requests.get("nvidia.com/gpu") != limits.get("nvidia.com/gpu"):
        yield "requests another number of GPUs than its limit"


def _one_gpu_deadlock(document: dict[str, Any], spec: dict[str, Any]) -> bool:
    uses_gpu = any(
        "nvidia.com/gpu" in c.get("resources", {}).get("limits", {}) for c in spec["containers"]
    )
    strategy = document["spec"].get("strategy", {})
    surge = strategy.get("rollingUpdate", {}).get("maxSurge", "25%")
    return uses_gpu and strategy.get("type") != "Recreate" and surge != 0
