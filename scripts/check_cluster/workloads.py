"""Check what the API server or the kubelet would reject, and what would fail at run time.

Limits and requests, volumes and their keys, probes, duplicate names, disruption budgets, scaling,
storage that one pod holds, file system groups, and namespaces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from scripts.check_cluster.render import containers, name, pods

Document = dict[str, Any]

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
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def check(documents: list[Document]) -> list[str]:
    """Return the problems of one overlay."""
    problems = []
    for document, template in pods(documents):
        found = [
            *_resources(template),
            *_duplicates(template),
            *_probes(template),
            *_file_system_group(document, template),
            *_grace_period(template),
            *_keys(documents, document, template),
        ]
        problems += [f"{name(document)}: {problem}" for problem in found]
    return [
        *problems,
        *_namespaces(documents),
        *_secrets_in_manifests(documents),
        *_exposed_services(documents),
        *_stateful_sets(documents),
        *_disruption_budgets(documents),
        *_scaling(documents),
        *_exclusive_claims(documents),
    ]


def _resources(template: Document) -> Iterator[str]:
    """Yield requests above their limit, and quantities that Kubernetes cannot parse."""
    for container in containers(template):
        resources = container.get("resources", {})
        limits = resources.get("limits", {})
        for resource, requested in resources.get("requests", {}).items():
            try:
                above = resource in limits and parse_quantity(requested) > parse_quantity(
                    limits[resource]
                )
            except ValueError:
                yield f"container {container['name']}: {requested!r} is not a quantity"
                continue
            if above:
                yield (
                    f"container {container['name']} requests {requested} of {resource}, above its "
                    f"limit of {limits[resource]}"
                )


def _duplicates(template: Document) -> Iterator[str]:
    spec = template["spec"]
    yield from _repeated("container", [c["name"] for c in containers(template)])
    yield from _repeated("volume", [volume["name"] for volume in spec.get("volumes", [])])
    all_ports = [port for c in spec["containers"] for port in c.get("ports", [])]
    yield from _repeated("port name", [port["name"] for port in all_ports if "name" in port])
    yield from _repeated("port", [port["containerPort"] for port in all_ports])
    for container in containers(template):
        yield from _repeated(
            f"variable of {container['name']}", [v["name"] for v in container.get("env", [])]
        )
        yield from _repeated(
            f"mount of {container['name']}",
            [mount["mountPath"] for mount in container.get("volumeMounts", [])],
        )


def _repeated(what: str, values: Iterable[Any]) -> Iterator[str]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{what} {value} is defined {count} times"


def _probes(template: Document) -> Iterator[str]:
    for container in template["spec"]["containers"]:
        by_name = {p.get("name"): p["containerPort"] for p in container.get("ports", [])}
        for probe in PROBES:
            settings = container.get(probe, {})
            yield from (
                f"{probe} of {container['name']}: {problem}"
                for problem in _probe(settings, container["name"], by_name)
            )


def _probe(settings: Document, container: str, by_name: dict[str, int]) -> Iterator[str]:
    action = settings.get("httpGet") or settings.get("tcpSocket") or settings.get("grpc")
    if not action:
        return
    port = by_name.get(action["port"], action["port"])
    if port not in by_name.values():
        yield f"port {action['port']!r} is not a port of the container"
    elif "httpGet" in settings and action.get("path", "/") not in ANSWERS.get(container, {}).get(
        port, {action.get("path", "/")}
    ):
        yield f"nothing answers {action['path']!r} on port {port}"
    if settings.get("timeoutSeconds", 1) > settings.get("periodSeconds", 10):
        yield "its timeout is longer than its period"


def _file_system_group(document: Document, template: Document) -> Iterator[str]:
    """Yield pods that write to a claim as a user other than root without a file system group."""
    spec = template["spec"]
    claims = any("persistentVolumeClaim" in volume for volume in spec.get("volumes", []))
    claims = claims or bool(document["spec"].get("volumeClaimTemplates"))
    security = spec.get("securityContext", {})
    if claims and security.get("runAsUser") and "fsGroup" not in security:
        yield "it mounts a claim as a user other than root, but has no fsGroup: it cannot write"


def _grace_period(template: Document) -> Iterator[str]:
    grace_s = template["spec"].get("terminationGracePeriodSeconds", 30)
    for container in template["spec"]["containers"]:
        pause_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds")
        if pause_s and pause_s >= grace_s:
            yield (
                f"container {container['name']} sleeps {pause_s} s before it stops, but is killed "
                f"after {grace_s} s"
            )


def _keys(documents: list[Document], owner: Document, template: Document) -> Iterator[str]:
    """Yield keys of ConfigMaps and Secrets that are used and not written by anything."""
    namespace = owner["metadata"]["namespace"]
    for kind, wanted, key in _used_keys(template["spec"]):
        written = _written_keys(documents, kind, namespace, wanted)
        if written is not None and key not in written:
            yield f"nothing writes the key {key!r} of {kind} {wanted}"


def _used_keys(spec: Document) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, object, key) of each key of a ConfigMap or Secret that a pod uses."""
    yield from _keys_of_variables(spec)
    yield from _keys_of_volumes(spec)


def _keys_of_variables(spec: Document) -> Iterator[tuple[str, str, str]]:
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                if field in source:
                    yield kind, source[field]["name"], source[field]["key"]


def _keys_of_volumes(spec: Document) -> Iterator[tuple[str, str, str]]:
    for volume in spec.get("volumes", []):
        for source in (volume, *volume.get("projected", {}).get("sources", [])):
            for field, kind in (("secret", "Secret"), ("configMap", "ConfigMap")):
                block = source.get(field, {})
                wanted = block.get("secretName") or block.get("name")
                for item in block.get("items", []):
                    yield kind, wanted, item["key"]
                if field in volume and not block.get("items"):
                    yield from ((kind, wanted, key) for key in _sub_paths(spec, volume["name"]))


def _sub_paths(spec: Document, volume: str) -> Iterator[str]:
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for mount in container.get("volumeMounts", []):
            if mount["name"] == volume and "subPath" in mount:
                yield mount["subPath"]


# Keys of the Secrets that `lab up` makes or that the README tells the user to make.
SECRET_KEYS = {
    "grafana-admin": {"password"},
    "hf-token": {"token"},
    "tempo-s3": {
        "endpoint",
        "bucket",
        "region",
        "insecure",
        "path_style",
        "access_key",
        "secret_key",
    },
    "grafana-token": {"token"},
    "prometheus-remote-write": {"username", "password"},
    "otlp-backend": {"endpoint", "authorization"},
    "alertmanager-config": {"alertmanager.yaml"},
    "llama-stack-postgres": {"username", "password", "database", "host", "port"},
}


def _written_keys(
    documents: list[Document], kind: str, namespace: str, wanted: str
) -> set[str] | None:
    """Return the keys of an object, or None for one that is made elsewhere with unknown keys."""
    for document in documents:
        meta = document["metadata"]
        same = (document["kind"], meta["name"], meta.get("namespace")) == (kind, wanted, namespace)
        if same and document.get("type") == "kubernetes.io/service-account-token":
            return {"token", "ca.crt", "namespace"}  # Kubernetes writes them
        if same:
            return {
                *document.get("data", {}),
                *document.get("stringData", {}),
                *document.get("binaryData", {}),
            }
    return SECRET_KEYS.get(wanted) if kind == "Secret" else None


def _namespaces(documents: list[Document]) -> Iterator[str]:
    there = {d["metadata"]["name"] for d in documents if d["kind"] == "Namespace"}
    for document in documents:
        namespace = document["metadata"].get("namespace")
        if namespace and namespace not in there:
            yield f"{name(document)}: there is no Namespace {namespace}"


def _secrets_in_manifests(documents: list[Document]) -> Iterator[str]:
    for document in documents:
        if document["kind"] == "Secret" and (document.get("data") or document.get("stringData")):
            yield f"{name(document)}: its content is in the manifests, and so in git"


def _exposed_services(documents: list[Document]) -> Iterator[str]:
    for document in documents:
        if document["kind"] == "Service":
            kind = document["spec"].get("type", "ClusterIP")
            if kind in ("NodePort", "LoadBalancer") or document["spec"].get("externalIPs"):
                yield f"{name(document)}: reachable from outside the cluster ({kind})"


def _stateful_sets(documents: list[Document]) -> Iterator[str]:
    services = {
        (d["metadata"].get("namespace"), d["metadata"]["name"])
        for d in documents
        if d["kind"] == "Service"
    }
    for document in documents:
        if document["kind"] == "StatefulSet":
            wanted = document["spec"].get("serviceName")
            if wanted and (document["metadata"]["namespace"], wanted) not in services:
                yield f"{name(document)}: there is no Service {wanted} for its pods' names"


def _disruption_budgets(documents: list[Document]) -> Iterator[str]:
    """Yield budgets that allow no pod to be evicted, so that a node can never be drained."""
    for budget in documents:
        if budget["kind"] != "PodDisruptionBudget":
            continue
        spec = budget["spec"]
        if "maxUnavailable" in spec and _is_zero(spec["maxUnavailable"]):
            yield f"{name(budget)}: maxUnavailable 0 blocks every drain"
        for document in _selected(documents, budget):
            replicas = _fewest_replicas(documents, document)
            needed = spec.get("minAvailable")
            if needed is not None and _at_least(needed, replicas) >= replicas:
                yield (
                    f"{name(budget)}: {needed} of {replicas} pods of {name(document)} must stay, "
                    "which blocks every drain"
                )


def _is_zero(value: Any) -> bool:
    return str(value) in ("0", "0%")


def _at_least(needed: Any, replicas: int) -> float:
    if isinstance(needed, str) and needed.endswith("%"):
        return float(needed[:-1]) / 100 * replicas
    return float(needed)


def _selected(documents: list[Document], budget: Document) -> Iterator[Document]:
    wanted = budget["spec"]["selector"].get("matchLabels", {}).items()
    for document, template in pods(documents):
        same = document["metadata"]["namespace"] == budget["metadata"]["namespace"]
        if same and wanted <= template["metadata"].get("labels", {}).items():
            yield document


def _fewest_replicas(documents: list[Document], document: Document) -> int:
    for scaler in _scalers(documents, document):
        return int(scaler["spec"].get("minReplicaCount", 0))
    return int(document["spec"].get("replicas", 1))


def _scalers(documents: list[Document], document: Document) -> Iterator[Document]:
    for scaler in documents:
        if scaler["kind"] == "ScaledObject":
            target = scaler["spec"]["scaleTargetRef"]
            same = target["name"] == document["metadata"]["name"]
            if same and scaler["metadata"]["namespace"] == document["metadata"]["namespace"]:
                yield scaler


def _scaling(documents: list[Document]) -> Iterator[str]:
    for scaler in documents:
        if scaler["kind"] != "ScaledObject":
            continue
        spec = scaler["spec"]
        fewest = int(spec.get("minReplicaCount", 0))
        most = int(spec.get("maxReplicaCount", 100))
        if fewest > most:
            yield f"{name(scaler)}: minReplicaCount {fewest} is above maxReplicaCount {most}"
        fallback = spec.get("fallback", {})
        if "replicas" in fallback and not fewest <= int(fallback["replicas"]) <= most:
            bounds = f"{fewest} to {most}"
            yield f"{name(scaler)}: its fallback of {fallback['replicas']} is not in {bounds}"
        if fallback and fallback.get("behavior", "static") == "static" and most > 1:
            yield (
                f"{name(scaler)}: a static fallback removes replicas under load when Prometheus "
                "does not answer; use behavior: currentReplicasIfHigher"
            )
        for trigger in spec["triggers"]:
            yield from (f"{name(scaler)}: {problem}" for problem in _trigger(trigger["metadata"]))


def _trigger(metadata: Document) -> Iterator[str]:
    numbers = {}
    for field in ("threshold", "activationThreshold"):
        try:
            numbers[field] = float(metadata.get(field, 0))
        except ValueError:
            yield f"{field} {metadata[field]!r} is not a number"
    if len(numbers) == 2 and numbers["activationThreshold"] > numbers["threshold"]:
        yield "activationThreshold is above threshold: load between them scales nothing"


def _exclusive_claims(documents: list[Document]) -> Iterator[str]:
    """Yield claims for one node that several replicas mount."""
    modes = {
        (d["metadata"]["namespace"], d["metadata"]["name"]): d["spec"]["accessModes"]
        for d in documents
        if d["kind"] == "PersistentVolumeClaim"
    }
    for document, template in pods(documents):
        most = int(document["spec"].get("replicas", 1))
        for scaler in _scalers(documents, document):
            most = int(scaler["spec"].get("maxReplicaCount", 100))
        for volume in template["spec"].get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            shared = modes.get((document["metadata"]["namespace"], claim), ["ReadWriteMany"])
            if claim and most > 1 and not {"ReadWriteMany", "ReadOnlyMany"} & set(shared):
                yield f"{name(document)}: {most} replicas mount {claim}, which is {shared[0]}"


def answers(documents: list[Document], labels: Document, namespace: str) -> dict[int, set[str]]:
    """Return the paths that the pods with these labels answer, by port."""
    found: dict[int, set[str]] = {}
    for document, template in pods(documents):
        mine = template["metadata"].get("labels", {})
        if document["metadata"]["namespace"] == namespace and labels.items() <= mine.items():
            for container in template["spec"]["containers"]:
                found |= ANSWERS.get(container["name"], {})
    return found
