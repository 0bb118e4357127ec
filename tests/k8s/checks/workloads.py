"""Check every pod: what the API server or the kubelet would reject, and what fails at run time.

- The restricted Pod Security Standard (namespaces with the label `privileged` are excluded), and
  what the lab requires beyond it:
  https://kubernetes.io/docs/concepts/security/pod-security-standards/
- Limits and requests, duplicate names, probes, mounts, file system groups, grace periods.
- ConfigMaps, Secrets and their keys, claims, accounts and their permissions, images.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from tests.k8s.checks.render import (
    Document,
    Overlay,
    Pod,
    Problems,
    broken,
    is_openshift,
    name,
    versions,
)

PRIVILEGED = "pod-security.kubernetes.io/enforce"
RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
# Paths that each container answers, by the name of its container and its port.
ANSWERS: dict[str, dict[int, set[str]]] = {
    "vllm": {8000: {"/health", "/metrics", "/ping", "/version"}},
    "llama-stack": {8321: {"/v1/health", "/v1/version"}, 9464: {"/metrics"}},
    "lab-tools": {8200: {"/healthz", "/metrics"}},
    "otel-collector": {13133: {"/"}, 8888: {"/metrics"}, 8889: {"/metrics"}},
    "tempo": {3200: {"/ready", "/metrics", "/status", "/api/echo"}},
    "grafana": {3000: {"/api/health", "/metrics", "/healthz", "/login"}},
    "router": {8000: {"/health", "/metrics"}},
    "dcgm-exporter": {9400: {"/health", "/metrics"}},
    "loki": {3100: {"/ready", "/metrics"}},
    "alertmanager": {9093: {"/-/healthy", "/-/ready", "/metrics"}},
    "prometheus": {9090: {"/-/healthy", "/-/ready", "/metrics"}},
    "postgres": {},
}
# Secrets that `lab up` makes or that the README tells the user to make, with their keys.
SECRETS = {
    "grafana-admin": {"password"},
    "hf-token": {"token"},
    "tempo-s3": {
        *("endpoint", "bucket", "region", "insecure", "path_style", "access_key", "secret_key"),
    },
    "grafana-token": {"token"},
    "prometheus-remote-write": {"username", "password"},
    "otlp-backend": {"endpoint", "authorization"},
    "alertmanager-config": {"alertmanager.yaml"},
    "llama-stack-postgres": {"username", "password", "database", "host", "port"},
}
# Objects that `lab up` or the user creates; everything else must be in the manifests.
EXTERNAL = {
    *(("Secret", "grafana-admin"), ("Secret", "hf-token"), ("Secret", "tempo-s3")),
    *(("Secret", "prometheus-remote-write"), ("Secret", "otlp-backend")),
    *(("Secret", "alert-receiver"), ("ConfigMap", "load-plan")),
}
READ = {"get", "list", "watch"}
# What each component asks the API server for: {(API group, resource): verbs}.
PERMISSIONS: dict[str, dict[tuple[str, str], set[str]]] = {
    "otel-collector": {("", "pods"): READ, ("apps", "replicasets"): READ},
    "otel-agent": {("", "pods"): READ, ("apps", "replicasets"): READ},
    "vllm-router": {("", "pods"): READ},
    "prometheus": {
        ("", "pods"): READ,
        ("", "services"): READ,
        ("", "endpoints"): READ,
        ("discovery.k8s.io", "endpointslices"): READ,
    },
}


def check(documents: list[Document]) -> list[str]:
    """Return the problems of the pods of one overlay."""
    overlay = Overlay(documents)
    for_all = (_image, _permissions)
    for_ours = (_security, _requirements, _containers, _storage, _references, _keys)
    problems = [
        f"{name(pod.owner)}: {problem}"
        for pods, checks in ((overlay.pods, for_ours), (overlay.all_pods, for_all))
        for pod in pods
        for one in checks
        for problem in one(overlay, pod)
    ]
    unlabelled = [d for d in overlay.kind("Namespace") if not _enforced(d)]
    return [*problems, *(f"{name(d)}: no {PRIVILEGED} label" for d in unlabelled)]


def _enforced(namespace: Document | None) -> str:
    return (namespace or {"metadata": {}})["metadata"].get("labels", {}).get(PRIVILEGED, "")


def _security(overlay: Overlay, pod: Pod) -> Problems:
    """Yield what the restricted standard forbids, and users that the platform does not admit."""
    if _enforced(overlay.get("Namespace", None, pod.namespace)) == "privileged":
        return
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(field):
            yield f"{field} is set"
    for volume in pod.spec.get("volumes", []):
        if not RESTRICTED_VOLUMES & volume.keys():
            allowed = ", ".join(sorted(RESTRICTED_VOLUMES))
            yield f"volume {volume['name']} is not one of {allowed}"
    yield from _users(pod, is_openshift(overlay.documents))
    for container in pod.containers:
        context = pod.security_of(container)
        capabilities = context.get("capabilities", {})
        profile = context.get("seccompProfile", {}).get("type")
        faults = {
            "is privileged": context.get("privileged"),
            "does not forbid privilege escalation": context.get("allowPrivilegeEscalation", True),
            "does not drop all capabilities": capabilities.get("drop") != ["ALL"],
            "adds capabilities": set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
            "may run as root": not context.get("runAsNonRoot"),
            "has no seccomp profile": profile not in ("RuntimeDefault", "Localhost"),
            "takes a host port": any("hostPort" in port for port in container.get("ports", [])),
        }
        yield from broken(f"container {container['name']}", faults)


def _users(pod: Pod, openshift: bool) -> Problems:
    """Yield fixed ids on OpenShift, which admits its own range only; elsewhere, root."""
    for container in pod.containers:
        context = pod.security_of(container)
        for field in ("runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"):
            if openshift and field in context:
                yield f"{field} is fixed, which OpenShift's restricted-v2 refuses"
        if not openshift and not context.get("runAsUser"):
            yield f"container {container['name']} has no user other than root"


def _requirements(overlay: Overlay, pod: Pod) -> Problems:
    """Yield what the lab requires of every pod, beyond Kubernetes' standard."""
    selector = pod.owner["spec"].get("selector", {}).get("matchLabels", {})
    yield from broken(
        "",
        {
            "enableServiceLinks is not false: a Service's name becomes environment variables": (
                pod.spec.get("enableServiceLinks") is not False
            ),
            "automountServiceAccountToken is not set": (
                "automountServiceAccountToken" not in pod.spec
            ),
            "a rolling update would wait for a GPU that the old pod holds: "
            "use Recreate or maxSurge 0": _one_gpu_deadlock(pod),
            "its selector does not fit its own pods": not selector.items() <= pod.labels.items(),
            "its pods have no label app.kubernetes.io/part-of: llm-lab": (
                pod.labels.get("app.kubernetes.io/part-of") != "llm-lab"
            ),
        },
    )
    is_server = pod.owner["kind"] in ("Deployment", "StatefulSet")
    for container in pod.spec["containers"]:
        for probe in ("readinessProbe", "startupProbe"):
            if is_server and probe not in container:
                yield f"container {container['name']} has no {probe}"


def _one_gpu_deadlock(pod: Pod) -> bool:
    strategy = pod.owner["spec"].get("strategy", {})
    surge = strategy.get("rollingUpdate", {}).get("maxSurge", "25%")
    rolls = pod.owner["kind"] == "Deployment" and strategy.get("type") != "Recreate"
    limits = [c.get("resources", {}).get("limits", {}) for c in pod.spec["containers"]]
    return rolls and surge != 0 and any("nvidia.com/gpu" in limit for limit in limits)


def _containers(overlay: Overlay, pod: Pod) -> Problems:
    """Yield problems of single containers, and names that are used twice."""
    yield from _repeated("container", [c["name"] for c in pod.containers])
    yield from _repeated("volume", [volume["name"] for volume in pod.spec.get("volumes", [])])
    yield from _repeated("port name", [port["name"] for port in pod.ports if "name" in port])
    yield from _repeated("port", [port["containerPort"] for port in pod.ports])
    for port in pod.ports:
        if "protocol" not in port:
            yield f"port {port.get('name')} does not name its protocol"
    grace_s = pod.spec.get("terminationGracePeriodSeconds", 30)
    for container in pod.containers:
        yield from _container(container, grace_s)


def _container(container: Document, grace_s: float) -> Problems:
    label = container["name"]
    mounts = container.get("volumeMounts", [])
    yield from _repeated(f"variable of {label}", [v["name"] for v in container.get("env", [])])
    yield from _repeated(f"mount of {label}", [mount["mountPath"] for mount in mounts])
    yield from (f"container {label} {p}" for p in _resources(container.get("resources", {})))
    for probe in PROBES:
        problems = _probe(container.get(probe, {}), container)
        yield from (f"{probe} of {label} {problem}" for problem in problems)
    pause_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    if pause_s >= grace_s:
        end = f"but is killed after {grace_s} s"
        yield f"container {label} sleeps {pause_s} s before it stops, {end}"


def _repeated(what: str, values: Iterable[Any]) -> Problems:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{what} {value} is defined {count} times"


def _resources(resources: Document) -> Problems:
    """Yield what is not limited, requests above their limit, and texts that are not quantities."""
    limits = resources.get("limits", {})
    requests = resources.get("requests", {})
    if "memory" not in limits or "cpu" not in requests:
        yield "has no memory limit or no CPU request"
    if requests.get("nvidia.com/gpu") != limits.get("nvidia.com/gpu"):
        yield "requests another number of GPUs than its limit"
    for resource, requested in requests.items():
        try:
            limit = limits.get(resource, requested)
            if parse_quantity(requested) > parse_quantity(limit):
                yield f"requests {requested} of {resource}, above its limit of {limit}"
        except ValueError:
            yield f"requests {requested!r} of {resource}, which is not a quantity"


def _probe(settings: Document, container: Document) -> Problems:
    action = settings.get("httpGet") or settings.get("tcpSocket") or settings.get("grpc")
    if not action:
        return
    numbers = {p.get("name"): p["containerPort"] for p in container.get("ports", [])}
    port = numbers.get(action["port"], action["port"])
    path = action.get("path", "/")
    if port not in numbers.values():
        yield f"uses port {action['port']!r}, but port {port} is not a port of the container"
    elif "httpGet" in settings and path not in ANSWERS.get(container["name"], {}).get(port, {path}):
        yield f"fails: nothing answers {path!r} on port {port}"
    if settings.get("timeoutSeconds", 1) > settings.get("periodSeconds", 10):
        yield "fails: its timeout is longer than its period"


def _storage(overlay: Overlay, pod: Pod) -> Problems:
    """Yield mounts without a volume, and claims that a pod cannot write or share."""
    claims = {t["metadata"]["name"] for t in pod.owner["spec"].get("volumeClaimTemplates", [])}
    yield from _mounts(pod, claims | {v["name"] for v in pod.spec.get("volumes", [])})
    claimed = [s["persistentVolumeClaim"]["claimName"] for s in _with(pod, "persistentVolumeClaim")]
    most = max(overlay.replicas(pod.owner))
    for claim in claimed if most > 1 else ():
        modes = overlay.access_modes(pod.namespace, claim)
        if not {"ReadWriteMany", "ReadOnlyMany"} & set(modes):
            yield f"{most} replicas mount {claim}, which is {modes[0]}"
    security = pod.spec.get("securityContext", {})
    if (claims or claimed) and security.get("runAsUser") and "fsGroup" not in security:
        yield "it mounts a claim as a user other than root, but has no fsGroup: it cannot write"


def _mounts(pod: Pod, volumes: set[str]) -> Problems:
    for container in pod.containers:
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                what = f"container {container['name']} mounts {mount['name']}"
                yield f"{what}, which is not a volume"


def _with(pod: Pod, field: str) -> list[Document]:
    return [source for source in pod.sources if field in source]


def _references(overlay: Overlay, pod: Pod) -> Problems:
    """Yield objects that the pod names and that do not exist."""
    named = {(kind, wanted) for kind, wanted, _ in _used_keys(pod)}
    named |= {
        ("PersistentVolumeClaim", s["persistentVolumeClaim"]["claimName"])
        for s in _with(pod, "persistentVolumeClaim")
    }
    if "serviceAccountName" in pod.spec:
        named.add(("ServiceAccount", pod.spec["serviceAccountName"]))
    for kind, wanted in sorted(named - EXTERNAL):
        if not overlay.get(kind, pod.namespace, wanted):
            yield f"there is no {kind} {wanted} in {pod.namespace}"


def _keys(overlay: Overlay, pod: Pod) -> Problems:
    """Yield keys of ConfigMaps and Secrets that are used and not written by anything."""
    for kind, wanted, key in _used_keys(pod):
        written = SECRETS.get(wanted, {key}) if kind == "Secret" else {key}
        if document := overlay.get(kind, pod.namespace, wanted):
            blocks = [document.get(field, {}) for field in ("data", "stringData", "binaryData")]
            written = set().union(*blocks)
            if document.get("type") == "kubernetes.io/service-account-token":
                written = {"token", "ca.crt", "namespace"}  # Kubernetes writes them
        if key and key not in written:
            yield f"nothing writes the key {key!r} of {kind} {wanted}"


def _used_keys(pod: Pod) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, object, key) of each ConfigMap and Secret, with '' for all of its keys."""
    for container in pod.containers:
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                if field in source:
                    yield kind, source[field]["name"], source[field]["key"]
    for source in pod.sources:
        for field, kind in (("secret", "Secret"), ("configMap", "ConfigMap")):
            if field in source:
                block = source[field]
                wanted = block.get("secretName") or block["name"]
                keys = [item["key"] for item in block.get("items", [])]
                for key in keys or ["", *_sub_paths(pod, source.get("name", ""))]:
                    yield kind, wanted, key


def _sub_paths(pod: Pod, volume: str) -> list[str]:
    mounts = [mount for c in pod.containers for mount in c.get("volumeMounts", [])]
    return [m["subPath"] for m in mounts if m["name"] == volume and "subPath" in m]


def _image(overlay: Overlay, pod: Pod) -> Problems:
    """Yield images without a fixed version, or with one that versions.env does not list."""
    for container in pod.containers:
        image = container["image"]
        if not re.search(r":(?=\S*\d)[^:/]+$", image):
            yield f"image {image!r} has no fixed version"
        elif image not in versions().values():
            yield f"image {image!r} is not in versions.env"


def _permissions(overlay: Overlay, pod: Pod) -> Problems:
    """Yield verbs that an account lacks, and tokens that are not mounted where they are needed."""
    needs = PERMISSIONS.get(pod.component, {})
    if not needs or not _asks_api_server(overlay, pod.component):
        return
    if not pod.spec.get("automountServiceAccountToken"):
        yield "it asks the API server, but mounts no token"
    account = (pod.namespace, pod.spec.get("serviceAccountName", "default"))
    rules = list(_rules(overlay, account))
    for (group, resource), verbs in needs.items():
        granted: set[str] = set()
        for rule in rules:
            if group in rule["apiGroups"] and resource in rule["resources"]:
                granted |= set(rule["verbs"])
        lacking = verbs - granted if "*" not in granted else set()
        if lacking:
            yield f"its account may not {', '.join(sorted(lacking))} {resource}"


def _asks_api_server(overlay: Overlay, component: str) -> bool:
    """Return whether a collector is configured with k8s_attributes; others always ask."""
    configs = [
        "\n".join(d.get("data", {}).values())
        for d in overlay.kind("ConfigMap")
        if d["metadata"]["name"].startswith(component)
    ]
    return not component.startswith("otel") or any("k8s_attributes:" in text for text in configs)


def _rules(overlay: Overlay, account: tuple[str, str]) -> Iterator[Document]:
    """Yield the rules of every role that is bound to a service account."""
    for binding in overlay.kind("RoleBinding", "ClusterRoleBinding"):
        role = overlay.bound_role(binding)
        subjects = [(s.get("namespace"), s["name"]) for s in binding["subjects"]]
        if role and account in subjects:
            yield from role["rules"]


def answers(pod: Pod) -> set[str]:
    """Return the paths that a pod answers, at any of its ports."""
    answered = [ANSWERS.get(container["name"], {}) for container in pod.spec["containers"]]
    return {path for ports in answered for paths in ports.values() for path in paths}
