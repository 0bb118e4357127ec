"""Check every object but the pods: what it refers to, selects, scales and protects.

Pods by selectors, ports by names, Services by addresses, roles, accounts, data sources; what
Prometheus selects and accepts; disruption budgets, scaling, exposure, namespaces.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from lab.doctor.kubernetes import MONITORS, PROMETHEUS_SELECTS, selects
from tests.k8s.checks import metrics
from tests.k8s.checks.render import (
    Document,
    Overlay,
    Pod,
    Problems,
    broken,
    is_openshift,
    name,
)
from tests.k8s.checks.workloads import answers

EXTERNAL_CLUSTER_ROLES = {"cluster-monitoring-view"}  # OpenShift's
EXTERNAL_NAMESPACES = {"gpu-operator"}  # whose pods are not in the manifests
LARGEST = 250_000
PROVISIONED = {"-- Grafana --", "grafana"}  # data sources that every Grafana has
_SERVICE_URL = re.compile(
    r"\b([a-z][a-z0-9-]*)\.(llm-lab(?:-[a-z]+)?)\.svc(?:\.cluster\.local)?(?::(\d+))?"
)


def check(documents: list[Document]) -> list[str]:
    """Return the problems of the objects of one overlay."""
    overlay = Overlay(documents)
    return [
        f"{name(document)}: {problem}"
        for document in documents
        for one in (_object, _addresses, *CHECKS.get(document["kind"], ()))
        for problem in one(overlay, document)
    ]


def _object(overlay: Overlay, document: Document) -> Problems:
    """Yield objects that `lab up`, kubectl or Kubernetes cannot handle."""
    namespace = document["metadata"].get("namespace")
    labels = document["metadata"].get("labels", {})
    size = len(json.dumps(document))
    faults = {
        f"there is no Namespace {namespace}": (
            namespace and not overlay.get("Namespace", None, namespace)
        ),
        "no label app.kubernetes.io/part-of: llm-lab": (
            labels.get("app.kubernetes.io/part-of") != "llm-lab"
        ),
        f"{size:,} bytes; `kubectl apply` keeps a copy in an annotation of 256 KiB": size > LARGEST,
    }
    yield from broken("", faults)


def _addresses(overlay: Overlay, document: Document) -> Problems:
    """Yield every `name.namespace.svc:port` in a document that is not a Service with that port."""
    for service, namespace, port in set(_SERVICE_URL.findall(json.dumps(document))):
        target = overlay.get("Service", namespace, service)
        if not target:
            yield f"there is no Service {service} in {namespace}"
        elif port and target["spec"].get("type") != "ExternalName":
            ports = sorted(p["port"] for p in target["spec"]["ports"])
            if int(port) not in ports:
                yield f"Service {service} has no port {port}, only {ports}"


def _service(overlay: Overlay, service: Document) -> Problems:
    spec = service["spec"]
    kind = spec.get("type", "ClusterIP")
    if kind in ("NodePort", "LoadBalancer") or spec.get("externalIPs"):
        yield f"reachable from outside the cluster ({kind})"
    if kind == "ExternalName":
        return
    pods = overlay.selected(service["metadata"]["namespace"], spec.get("selector"))
    if not pods:
        yield "its selector finds no pod"
    known = set[str | int]().union(*(pod.targets for pod in pods))
    for port in spec["ports"]:
        target = port.get("targetPort", port["port"])
        if "protocol" not in port:
            yield f"port {port['port']} does not name its protocol"
        if pods and target not in known:
            yield f"no selected pod has port {target!r}"


def _monitor(overlay: Overlay, monitor: Document) -> Problems:
    """Yield endpoints that find no port, or whose path nothing answers; monitors of nothing."""
    own = monitor["metadata"]["namespace"]
    namespaces = monitor["spec"].get("namespaceSelector", {}).get("matchNames", [own])
    if set(namespaces) <= EXTERNAL_NAMESPACES:
        return

    ports, pods = _scraped_by(overlay, monitor, namespaces)
    if not ports:
        yield "selects nothing"
    paths = set[str]().union(*map(answers, pods))
    spec = monitor["spec"]
    for endpoint in spec[MONITORS[monitor["kind"]]]:
        path = endpoint.get("path", "/metrics")
        relabelled = [r.get("targetLabel") for r in endpoint.get("relabelings", [])]
        faults = {
            f"nothing that it selects has a port named {endpoint['port']!r}": (
                ports and endpoint["port"] not in ports
            ),
            f"nothing that it selects answers {path!r}": paths and path not in paths,
            "does not set the job's name": "job" not in relabelled,
        }
        yield from broken("", faults)

    # Without an own Prometheus, an existing one finds the monitors by a label; OpenShift's by none.
    released = monitor["metadata"]["labels"].get("release")
    if not (released or is_openshift(overlay.documents) or overlay.kind("Prometheus")):
        yield "there is no Prometheus, and it has no release label for an existing one"


def _scraped_by(
    overlay: Overlay, monitor: Document, namespaces: list[str]
) -> tuple[set[str | int], list[Pod]]:
    """Return the ports that a monitor's endpoints may name, and the pods behind them."""
    selector = monitor["spec"]["selector"]
    if monitor["kind"] == "PodMonitor":
        labels = selector.get("matchLabels", {})
        pods = [pod for namespace in namespaces for pod in overlay.selected(namespace, labels)]
        return set[str | int]().union(*(pod.targets for pod in pods)), pods
    ports: set[str | int] = set()
    pods = []
    for service in overlay.services(namespaces, selector):
        spec = service["spec"]
        ports |= {port["name"] for port in spec["ports"]}
        pods += overlay.selected(service["metadata"]["namespace"], spec.get("selector"))
    return ports, pods


def _prometheus(overlay: Overlay, server: Document) -> Problems:
    """Yield what a Prometheus resource does not select, and writes that it does not accept."""
    own = server["metadata"]["namespace"]
    spec = server["spec"]
    for kind, field in PROMETHEUS_SELECTS.items():
        for document in overlay.kind(kind):
            namespace = document["metadata"]["namespace"]
            by_namespace = spec.get(
                f"{field}NamespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": own}}
            )
            its_namespace = overlay.get("Namespace", None, namespace) or {"metadata": {}}
            labels = its_namespace["metadata"].get("labels", {})
            of_namespace = labels | {"kubernetes.io/metadata.name": namespace}
            by_label = spec.get(f"{field}Selector")
            chosen = selects(by_label, document["metadata"]["labels"])
            if not (chosen and selects(by_namespace, of_namespace)):
                yield f"it does not select {name(document)}"

    address = f"prometheus.{own}.svc:9090/api/v1/write"
    if any(address in json.dumps(d.get("data", {})) for d in overlay.documents):
        faults = {
            "something writes to it, but enableRemoteWriteReceiver is off": (
                not spec.get("enableRemoteWriteReceiver")
            ),
            "exemplars are written to it, but exemplar-storage is not enabled": (
                "exemplar-storage" not in spec.get("enableFeatures", [])
            ),
        }
        yield from broken("", faults)


def _binding(overlay: Overlay, binding: Document) -> Problems:
    role = binding["roleRef"]
    if role["name"] not in EXTERNAL_CLUSTER_ROLES and not overlay.bound_role(binding):
        yield f"there is no {role['kind']} {role['name']}"
    for subject in binding["subjects"]:
        if not overlay.get("ServiceAccount", subject["namespace"], subject["name"]):
            yield f"there is no ServiceAccount {subject['namespace']}/{subject['name']}"


def _budget(overlay: Overlay, budget: Document) -> Problems:
    """Yield budgets of no pods, and those that allow no eviction: a node can never be drained."""
    spec = budget["spec"]
    pods = overlay.selected(budget["metadata"]["namespace"], spec["selector"].get("matchLabels"))
    if not pods:
        yield "its selector finds no pod"
    if str(spec.get("maxUnavailable")) in ("0", "0%"):
        yield "maxUnavailable 0 blocks every drain"
    needed = str(spec.get("minAvailable", 0))
    for pod in pods:
        fewest, _ = overlay.replicas(pod.owner)
        share = float(needed.rstrip("%")) * (fewest / 100 if needed.endswith("%") else 1)
        if share and share >= fewest:
            pods_of = f"{fewest} pods of {name(pod.owner)}"
            yield f"{needed} of {pods_of} must stay, which blocks every drain"


def _scaling(overlay: Overlay, scaler: Document) -> Problems:
    spec = scaler["spec"]
    target = spec["scaleTargetRef"]
    fewest = int(spec.get("minReplicaCount", 0))
    most = int(spec.get("maxReplicaCount", 100))
    fallback = spec.get("fallback", {})
    deployment = overlay.get(target["kind"], scaler["metadata"]["namespace"], target["name"])
    is_static = fallback and fallback.get("behavior", "static") == "static"
    faults = {
        f"there is no {target['kind']} {target['name']} to scale": not deployment,
        f"{target['name']} sets its own replicas, so each apply would undo the scaling": (
            deployment and "replicas" in deployment["spec"]
        ),
        f"minReplicaCount {fewest} is above maxReplicaCount {most}": fewest > most,
        f"its fallback of {fallback.get('replicas')} is not in {fewest} to {most}": (
            "replicas" in fallback and not fewest <= int(fallback["replicas"]) <= most
        ),
        "a static fallback removes replicas under load when Prometheus does not answer; "
        "use behavior: currentReplicasIfHigher": is_static and most > 1,
    }
    yield from broken("", faults)
    for trigger in spec["triggers"]:
        yield from _trigger(trigger)


def _trigger(trigger: Document) -> Problems:
    """Yield thresholds that are not numbers, and queries of metrics that do not exist."""
    numbers = {}
    for field in ("threshold", "activationThreshold"):
        try:
            numbers[field] = float(trigger["metadata"].get(field, 0))
        except ValueError:
            yield f"{field} {trigger['metadata'][field]!r} is not a number"
    if len(numbers) == 2 and numbers["activationThreshold"] > numbers["threshold"]:
        yield "activationThreshold is above threshold: load between them scales nothing"
    if trigger["type"] == "prometheus":
        query = trigger["metadata"]["query"]
        yield from (f"{p}: {query}" for p in metrics.check_expression(query, metrics.known()))


def _stateful_set(overlay: Overlay, document: Document) -> Problems:
    wanted = document["spec"].get("serviceName")
    if wanted and not overlay.get("Service", document["metadata"]["namespace"], wanted):
        yield f"there is no Service {wanted} for its pods' names"


def _secret(overlay: Overlay, document: Document) -> Problems:
    if document.get("data") or document.get("stringData"):
        yield "its content is in the manifests, and so in git"


def _config_map(overlay: Overlay, document: Document) -> Problems:
    """Yield data sources, in Grafana's dashboards and data sources, that are not provisioned."""
    provisioned = set(PROVISIONED)
    for config in overlay.kind("ConfigMap"):
        provisioned |= {source["uid"] for source in _data_sources(config)}
    used = list(_uids(_data_sources(document), "datasourceUid"))
    for key, text in document.get("data", {}).items():
        if key.endswith(".json"):
            used += _dashboard_uids(json.loads(text))
    for uid in used:
        if uid not in provisioned:
            yield f"there is no data source {uid!r}"


def _data_sources(config: Document) -> list[Document]:
    if not config["metadata"]["name"].startswith("grafana-datasource"):
        return []
    texts = [text for text in config.get("data", {}).values() if "datasources:" in text]
    return [source for text in texts for source in yaml.safe_load(text)["datasources"]]


def _dashboard_uids(dashboard: Any) -> Iterator[str]:
    """Yield the data sources of a dashboard, with variables replaced by their defaults."""
    is_dashboard = isinstance(dashboard, dict)
    variables = dashboard.get("templating", {}).get("list", []) if is_dashboard else []
    defaults = {
        f"${{{variable['name']}}}": variable["current"]["value"]
        for variable in variables
        if variable["type"] == "datasource"
    }
    for uid in _uids(dashboard, "uid", inside="datasource"):
        yield defaults.get(uid, uid)


def _uids(node: Any, key: str, inside: str = "", here: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for k, v in node.items():
            if k == key and isinstance(v, str) and (not inside or here == inside):
                yield v
            yield from _uids(v, key, inside, k)
    elif isinstance(node, list):
        for v in node:
            yield from _uids(v, key, inside, here)


CHECKS: dict[str, tuple[Callable[[Overlay, Document], Problems], ...]] = {
    "ClusterRoleBinding": (_binding,),
    "ConfigMap": (_config_map,),
    "PodDisruptionBudget": (_budget,),
    "PodMonitor": (_monitor,),
    "Prometheus": (_prometheus,),
    "RoleBinding": (_binding,),
    "ScaledObject": (_scaling,),
    "Secret": (_secret,),
    "Service": (_service,),
    "ServiceMonitor": (_monitor,),
    "StatefulSet": (_stateful_set,),
}
