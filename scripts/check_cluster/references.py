"""Check that everything that is referred to exists.

Pods by selectors, ports by names, Secrets, ConfigMaps, claims, accounts, addresses, data sources.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from scripts.check_cluster.render import containers, is_openshift, name, pods

# Objects that `lab up` or the user creates; everything else must be in the manifests.
EXTERNAL = {
    "Secret": {
        "grafana-admin",
        "hf-token",
        "tempo-s3",
        "prometheus-remote-write",
        "otlp-backend",
        "alert-receiver",
    },
    "ConfigMap": {"load-plan"},
}
EXTERNAL_CLUSTER_ROLES = {"cluster-monitoring-view"}  # OpenShift's
EXTERNAL_NAMESPACES = {"gpu-operator"}  # whose pods are not in the manifests
LARGEST = 250_000
_SERVICE_URL = re.compile(
    r"\b([a-z][a-z0-9-]*)\.(llm-lab(?:-[a-z]+)?)\.svc(?:\.cluster\.local)?(?::(\d+))?"
)


def check(documents: list[dict[str, Any]]) -> list[str]:
    """Return the broken references among the documents of one overlay."""
    world = _World(documents)
    return [
        *_labels(world),
        *_services(world),
        *_monitors(world),
        *_operators_prometheus(world),
        *_workloads(world),
        *_addresses(world),
        *_bindings(world),
        *_scaled(world),
        *_disruption_budgets(world),
        *_grafana(world),
    ]


class _World:
    """The documents of an overlay, with look-ups by kind, name and label."""

    def __init__(self, documents: list[dict[str, Any]]) -> None:
        self.documents = documents
        self.pods = [
            (d["metadata"]["namespace"], t["metadata"].get("labels", {}), _ports(t), t)
            for d, t in pods(documents)
        ]
        for d in self.kind("Prometheus"):  # the operator's pod, as it labels it
            labels = {
                "operator.prometheus.io/name": d["metadata"]["name"],
                "app.kubernetes.io/name": "prometheus",
                **d["spec"].get("podMetadata", {}).get("labels", {}),
            }
            self.pods.append((d["metadata"]["namespace"], labels, {"web": 9090}, None))
        for d in self.kind("Alertmanager"):
            labels = {
                "app.kubernetes.io/name": "alertmanager",
                "alertmanager": d["metadata"]["name"],
            }
            self.pods.append((d["metadata"]["namespace"], labels, {"web": 9093}, None))

    def kind(self, *kinds: str) -> list[dict[str, Any]]:
        return [d for d in self.documents if d["kind"] in kinds]

    def has(self, kind: str, namespace: str | None, object_name: str) -> bool:
        return any(
            d["metadata"]["name"] == object_name and d["metadata"].get("namespace") == namespace
            for d in self.kind(kind)
        )

    def ports_of(self, namespace: str, labels: dict[str, str]) -> list[dict[str, int]]:
        """Return the ports of each pod that carries the labels."""
        return [
            p for n, have, p, _ in self.pods if n == namespace and labels.items() <= have.items()
        ]


def _ports(template: dict[str, Any]) -> dict[str, int]:
    return {
        p["name"]: p["containerPort"]
        for c in containers(template)
        for p in c.get("ports", [])
        if "name" in p
    }


def _labels(world: _World) -> Iterator[str]:
    """Yield objects without the label by which `lab up` and `lab down` find them."""
    for d in world.documents:
        if d["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") != "llm-lab":
            yield f"{name(d)}: no label app.kubernetes.io/part-of: llm-lab"
        if len(json.dumps(d)) > LARGEST:
            yield (
                f"{name(d)}: {len(json.dumps(d)):,} bytes; `kubectl apply` keeps a copy in an "
                "annotation of 256 KiB"
            )
    for d, template in pods(world.documents):
        if template["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") != "llm-lab":
            yield f"{name(d)}: its pods have no label app.kubernetes.io/part-of: llm-lab"


def _services(world: _World) -> Iterator[str]:
    for service in world.kind("Service"):
        spec = service["spec"]
        if spec.get("type") == "ExternalName":
            continue
        found = world.ports_of(service["metadata"]["namespace"], spec.get("selector", {}))
        if not spec.get("selector") or not found:
            yield f"{name(service)}: its selector finds no pod"
        for port in spec["ports"]:
            if "protocol" not in port:
                yield f"{name(service)}: port {port['port']} does not name its protocol"
            target = port.get("targetPort", port["port"])
            if found and not any(target in p or target in p.values() for p in found):
                yield f"{name(service)}: no selected pod has port {target!r}"


def _monitors(world: _World) -> Iterator[str]:
    for monitor in world.kind("PodMonitor", "ServiceMonitor"):
        spec = monitor["spec"]
        own = monitor["metadata"]["namespace"]
        namespaces = spec.get("namespaceSelector", {}).get("matchNames", [own])
        if set(namespaces) <= EXTERNAL_NAMESPACES:
            continue

        labels = spec["selector"].get("matchLabels", {})
        if monitor["kind"] == "PodMonitor":
            endpoints = spec["podMetricsEndpoints"]
            selected = [set(p) for n in namespaces for p in world.ports_of(n, labels)]
        else:
            endpoints = spec["endpoints"]
            selected = _service_ports(world, namespaces, labels)
        if not selected:
            yield f"{name(monitor)}: selects nothing"
        for endpoint in endpoints:
            yield from (f"{name(monitor)}: {p}" for p in _endpoint(endpoint, selected))


def _service_ports(world: _World, namespaces: list[str], labels: dict[str, str]) -> list[set[str]]:
    """Return the port names of each Service that carries the labels."""
    return [
        {port["name"] for port in service["spec"]["ports"]}
        for service in world.kind("Service")
        if service["metadata"]["namespace"] in namespaces
        and labels.items() <= service["metadata"].get("labels", {}).items()
        and service["spec"].get("type") != "ExternalName"
    ]


def _endpoint(endpoint: dict[str, Any], selected: list[set[str]]) -> Iterator[str]:
    """Yield the problems of a monitor's endpoint, given the port names of what it selects."""
    if selected and not any(endpoint["port"] in ports for ports in selected):
        yield f"nothing that it selects has a port named {endpoint['port']!r}"
    if not any(r.get("targetLabel") == "job" for r in endpoint.get("relabelings", [])):
        yield "does not set the job's name"


def _operators_prometheus(world: _World) -> Iterator[str]:
    """Yield a problem if no Prometheus would read the monitors. OpenShift has its own."""
    if is_openshift(world.documents) or world.kind("Prometheus"):
        return
    monitors = world.kind("PodMonitor", "ServiceMonitor")
    if not any(monitor["metadata"]["labels"].get("release") for monitor in monitors):
        yield "there is no Prometheus, and no monitor has a release label for an existing one"


def _workloads(world: _World) -> Iterator[str]:
    for d, template in pods(world.documents):
        namespace = d["metadata"]["namespace"]
        spec = template["spec"]
        selector = d["spec"].get("selector", {}).get("matchLabels", {})
        if not selector.items() <= template["metadata"].get("labels", {}).items():
            yield f"{name(d)}: its selector does not fit its own pods"
        account = spec.get("serviceAccountName")
        if account and not world.has("ServiceAccount", namespace, account):
            yield f"{name(d)}: there is no ServiceAccount {account}"

        claims = {t["metadata"]["name"] for t in d["spec"].get("volumeClaimTemplates", [])}
        volumes = {v["name"] for v in spec.get("volumes", [])} | claims
        for c in containers(template):
            yield from (f"{name(d)}: {p}" for p in _container(c, volumes))
        yield from (f"{name(d)}: {p}" for p in _objects(world, namespace, spec))


def _container(container: dict[str, Any], volumes: set[str]) -> Iterator[str]:
    """Yield mounts of volumes that the pod lacks, and probes of ports that have no such name."""
    for mount in container.get("volumeMounts", []):
        if mount["name"] not in volumes:
            what = f"container {container['name']} mounts {mount['name']}"
            yield f"{what}, which is not a volume"

    ports = {port.get("name") for port in container.get("ports", [])}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        port = container.get(probe, {}).get("httpGet", {}).get("port")
        if isinstance(port, str) and port not in ports:
            yield f"{probe} of {container['name']} uses port {port!r}, which does not exist"


def _objects(world: _World, namespace: str, spec: dict[str, Any]) -> Iterator[str]:
    for kind, wanted in _named_objects(spec):
        if wanted not in EXTERNAL.get(kind, ()) and not world.has(kind, namespace, wanted):
            yield f"there is no {kind} {wanted} in {namespace}"


def _named_objects(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for volume in spec.get("volumes", []):
        for source in (volume, *volume.get("projected", {}).get("sources", [])):
            if "configMap" in source:
                yield "ConfigMap", source["configMap"]["name"]
            if "secret" in source:
                yield "Secret", source["secret"].get("secretName") or source["secret"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for c in [*spec.get("initContainers", []), *spec["containers"]]:
        for variable in c.get("env", []):
            source = variable.get("valueFrom", {})
            if "secretKeyRef" in source:
                yield "Secret", source["secretKeyRef"]["name"]
            if "configMapKeyRef" in source:
                yield "ConfigMap", source["configMapKeyRef"]["name"]


def _addresses(world: _World) -> Iterator[str]:
    """Yield every `name.namespace.svc:port` in a document that is not a Service with that port."""
    for d in world.documents:
        for service, namespace, port in set(_SERVICE_URL.findall(json.dumps(d))):
            found = [
                s
                for s in world.kind("Service")
                if (s["metadata"]["name"], s["metadata"]["namespace"]) == (service, namespace)
            ]
            if not found:
                yield f"{name(d)}: there is no Service {service} in {namespace}"
            elif port and found[0]["spec"].get("type") != "ExternalName":
                ports = {p["port"] for p in found[0]["spec"]["ports"]}
                if int(port) not in ports:
                    yield f"{name(d)}: Service {service} has no port {port}, only {sorted(ports)}"


def _bindings(world: _World) -> Iterator[str]:
    for d in world.kind("RoleBinding", "ClusterRoleBinding"):
        role = d["roleRef"]
        namespace = d["metadata"].get("namespace") if role["kind"] == "Role" else None
        if role["name"] in EXTERNAL_CLUSTER_ROLES and role["kind"] == "ClusterRole":
            pass
        elif not world.has(role["kind"], namespace, role["name"]):
            yield f"{name(d)}: there is no {role['kind']} {role['name']}"
        for subject in d["subjects"]:
            if not world.has("ServiceAccount", subject["namespace"], subject["name"]):
                account = f"{subject['namespace']}/{subject['name']}"
                yield f"{name(d)}: there is no ServiceAccount {account}"
    for d in world.kind("Prometheus"):
        if not world.has(
            "ServiceAccount", d["metadata"]["namespace"], d["spec"]["serviceAccountName"]
        ):
            yield f"{name(d)}: there is no ServiceAccount {d['spec']['serviceAccountName']}"


def _scaled(world: _World) -> Iterator[str]:
    for d in world.kind("ScaledObject"):
        target = d["spec"]["scaleTargetRef"]
        deployments = [
            x
            for x in world.kind(target["kind"])
            if (x["metadata"]["name"], x["metadata"]["namespace"])
            == (target["name"], d["metadata"]["namespace"])
        ]
        if not deployments:
            yield f"{name(d)}: there is no {target['kind']} {target['name']} to scale"
        elif "replicas" in deployments[0]["spec"]:
            yield (
                f"{name(d)}: {target['name']} sets its own replicas, so each apply would undo the "
                "scaling"
            )


def _disruption_budgets(world: _World) -> Iterator[str]:
    for d in world.kind("PodDisruptionBudget"):
        if not world.ports_of(d["metadata"]["namespace"], d["spec"]["selector"]["matchLabels"]):
            yield f"{name(d)}: its selector finds no pod"


def _grafana(world: _World) -> Iterator[str]:
    """Yield data source uids, in dashboards and data sources, that are not provisioned."""
    texts = [
        (d, key, text) for d in world.kind("ConfigMap") for key, text in d.get("data", {}).items()
    ]
    provisioned = {"-- Grafana --", "grafana"}
    uses = []
    for d, key, text in texts:
        where = f"{name(d)} {key}"
        if key.endswith(".json"):
            uses += [(where, uid) for uid in _dashboard_uids(json.loads(text))]
        elif "datasources:" in text and d["metadata"]["name"].startswith("grafana-datasource"):
            sources = yaml.safe_load(text)["datasources"]
            provisioned |= {s["uid"] for s in sources}
            uses += [(where, uid) for uid in _uids(sources, "datasourceUid")]
    for where, uid in uses:
        if uid not in provisioned:
            yield f"{where}: there is no data source {uid!r}"


def _dashboard_uids(dashboard: Any) -> Iterator[str]:
    """Yield the data sources of a dashboard, with variables replaced by their defaults."""
    defaults = _data_source_variables(dashboard)
    for uid in _uids(dashboard, "uid", inside="datasource"):
        yield defaults.get(uid, uid)


def _data_source_variables(dashboard: Any) -> dict[str, str]:
    """Return the default of every data source variable, by the text that refers to it."""
    if not isinstance(dashboard, dict):
        return {}
    return {
        f"${{{variable['name']}}}": variable["current"]["value"]
        for variable in dashboard.get("templating", {}).get("list", [])
        if variable["type"] == "datasource"
    }


def _uids(node: Any, key: str, inside: str = "", here: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for k, v in node.items():
            if k == key and isinstance(v, str) and (not inside or here == inside):
                yield v
            yield from _uids(v, key, inside, k)
    elif isinstance(node, list):
        for v in node:
            yield from _uids(v, key, inside, here)
