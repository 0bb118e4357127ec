"""Check the restricted Pod Security Standard, and what the lab requires of every pod beyond it.

https://kubernetes.io/docs/concepts/security/pod-security-standards/ . Namespaces with the label
`privileged` are excluded.
"""

from __future__ import annotations

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
        own = c.get("securityContext", {})
        if own.get("privileged"):
            problems.append(f"container {c['name']} is privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            problems.append(f"container {c['name']} does not forbid privilege escalation")
        if own.get("capabilities", {}).get("drop") != ["ALL"]:
            problems.append(f"container {c['name']} does not drop all capabilities")
        if set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
            problems.append(f"container {c['name']} adds capabilities")
        if not own.get("runAsNonRoot", pod.get("runAsNonRoot")):
            problems.append(f"container {c['name']} may run as root")
        profile = own.get("seccompProfile", pod.get("seccompProfile", {})).get("type")
        if profile not in ("RuntimeDefault", "Localhost"):
            problems.append(f"container {c['name']} has no seccomp profile")
        ports = c.get("ports", [])
        problems += [
            f"container {c['name']} takes host port {p['hostPort']}"
            for p in ports
            if "hostPort" in p
        ]
    return problems


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
        resources = c.get("resources", {})
        if "memory" not in resources.get("limits", {}) or "cpu" not in resources.get(
            "requests", {}
        ):
            problems.append(f"container {c['name']} has no memory limit or no CPU request")
        gpu = "nvidia.com/gpu"
        if resources.get("requests", {}).get(gpu) != resources.get("limits", {}).get(gpu):
            problems.append(f"container {c['name']} requests another number of GPUs than its limit")
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


def _one_gpu_deadlock(document: dict[str, Any], spec: dict[str, Any]) -> bool:
    uses_gpu = any(
        "nvidia.com/gpu" in c.get("resources", {}).get("limits", {}) for c in spec["containers"]
    )
    strategy = document["spec"].get("strategy", {})
    surge = strategy.get("rollingUpdate", {}).get("maxSurge", "25%")
    return uses_gpu and strategy.get("type") != "Recreate" and surge != 0
