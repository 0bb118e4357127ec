"""Render an overlay with `kubectl kustomize`, which needs no cluster, and look things up in it."""

import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.doctor.kubernetes import pod_template, selects
from lab.settings import REPO
from lab.stack.cluster import OVERLAYS, kubectl
from lab.stack.cluster.kubectl import K8S, versions

Document = dict[str, Any]
OPERATED = {"Prometheus": 9090, "Alertmanager": 9093}  # kinds of which the operator makes pods


def overlay(name: str) -> list[Document]:
    """Return the documents of lab/k8s/overlays/<name>, a fresh copy each time."""
    return folder(K8S / "overlays" / name)


def folder(path: Path) -> list[Document]:
    """Return the documents of any kustomization, a fresh copy each time."""
    return copy.deepcopy(_rendered(path))


@functools.cache
def _rendered(path: Path) -> list[Document]:
    return kubectl.render(path.name, path.parent)


def name(document: Document) -> str:
    """Return `Kind namespace/name`, for messages."""
    meta = document["metadata"]
    return f"{document['kind']} {meta.get('namespace', '-')}/{meta['name']}"


def is_openshift(documents: list[Document]) -> bool:
    """Return whether an overlay is for OpenShift: only there are Routes."""
    return any(d["kind"] == "Route" for d in documents)


@dataclass(frozen=True)
class Pod:
    """A pod template, and the document that makes pods of it."""

    owner: Document
    template: Document

    @property
    def namespace(self) -> str:
        """Return the namespace of the pods."""
        return self.owner["metadata"]["namespace"]

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels of the pods."""
        return self.template["metadata"].get("labels", {})

    @property
    def component(self) -> str:
        """Return the name of the component that the pods are."""
        return self.labels.get("app.kubernetes.io/name", "")

    @property
    def spec(self) -> Document:
        """Return the specification of the pods."""
        return self.template["spec"]

    @property
    def containers(self) -> list[Document]:
        """Return the init containers, then the containers."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def security_of(self, container: Document) -> Document:
        """Return the security context of a container: its own values, else those of the pod."""
        pod = self.spec.get("securityContext", {})
        return {**pod, **container.get("securityContext", {})}

    @property
    def ports(self) -> list[Document]:
        """Return the ports of all containers."""
        return [port for container in self.containers for port in container.get("ports", [])]

    @property
    def targets(self) -> set[str | int]:
        """Return what a Service's targetPort may be: the names and numbers of the ports."""
        names = {port["name"] for port in self.ports if "name" in port}
        return names | {port["containerPort"] for port in self.ports}

    @property
    def sources(self) -> list[Document]:
        """Return the volumes, and the parts of projected ones."""
        volumes = self.spec.get("volumes", [])
        parts = [part for v in volumes for part in v.get("projected", {}).get("sources", [])]
        return [*volumes, *parts]


def pods(documents: list[Document]) -> list[Pod]:
    """Return the pods that the documents make themselves, which the API server's are made of."""
    templates = [(document, pod_template(document.get("spec"))) for document in documents]
    return [Pod(document, template) for document, template in templates if template]


def operated_pods(documents: list[Document]) -> list[Pod]:
    """Return the pods that the Prometheus operator makes of its resources, as it labels them."""
    found = []
    for d in documents:
        if d["kind"] not in OPERATED:
            continue
        component = d["kind"].lower()
        labels = {
            "app.kubernetes.io/name": component,
            "operator.prometheus.io/name": d["metadata"]["name"],
            component: d["metadata"]["name"],
            **d["spec"].get("podMetadata", {}).get("labels", {}),
        }
        container = {
            "name": component,
            "image": d["spec"].get("image", ""),
            "ports": [{"name": "web", "containerPort": OPERATED[d["kind"]]}],
        }
        spec = {"containers": [container], "automountServiceAccountToken": True}
        account = d["spec"].get("serviceAccountName", "default")
        template = {"metadata": {"labels": labels}, "spec": spec | {"serviceAccountName": account}}
        found.append(Pod(d, template))
    return found


__all__ = ["K8S", "OVERLAYS", "RECORDED_METRICS", "REPO", "versions"]

RECORDED_METRICS = REPO / "data" / "recorded" / "metrics"


Problems = Iterator[str]


class Overlay:
    """The documents of an overlay.

    - `pods` are made by the documents, `all_pods` also by the Prometheus operator.
    """

    def __init__(self, documents: list[Document]) -> None:
        self.documents = documents
        self.pods = pods(documents)
        self.all_pods = self.pods + operated_pods(documents)

    def kind(self, *kinds: str) -> list[Document]:
        """Return the documents of these kinds."""
        return [d for d in self.documents if d["kind"] in kinds]

    def get(self, kind: str, namespace: str | None, object_name: str) -> Document | None:
        """Return one document, or None."""
        for d in self.kind(kind):
            meta = d["metadata"]
            if (meta["name"], meta.get("namespace")) == (object_name, namespace):
                return d
        return None

    def selected(self, namespace: str, labels: dict[str, str] | None) -> list[Pod]:
        """Return the pods of a namespace that carry the labels; none for a missing selector."""
        return [
            pod
            for pod in self.all_pods
            if labels and pod.namespace == namespace and labels.items() <= pod.labels.items()
        ]

    def services(self, namespaces: list[str], selector: Document) -> list[Document]:
        """Return the Services of these namespaces that a selector selects and that select pods."""
        return [
            service
            for service in self.kind("Service")
            if service["metadata"]["namespace"] in namespaces
            and selects(selector, service["metadata"].get("labels", {}))
            and service["spec"].get("type") != "ExternalName"
        ]

    def replicas(self, workload: Document) -> tuple[int, int]:
        """Return the smallest and the largest number of pods of a workload."""
        meta = workload["metadata"]
        for scaler in self.kind("ScaledObject"):
            target = (scaler["metadata"]["namespace"], scaler["spec"]["scaleTargetRef"]["name"])
            if target == (meta["namespace"], meta["name"]):
                spec = scaler["spec"]
                return int(spec.get("minReplicaCount", 0)), int(spec.get("maxReplicaCount", 100))
        replicas = int(workload["spec"].get("replicas", 1))
        return replicas, replicas

    def access_modes(self, namespace: str, claim: str) -> list[str]:
        """Return the access modes of a claim; one that is not in the overlay may be shared."""
        document = self.get("PersistentVolumeClaim", namespace, claim)
        return document["spec"]["accessModes"] if document else ["ReadWriteMany"]

    def bound_role(self, binding: Document) -> Document | None:
        """Return the Role or ClusterRole of a binding, or None if the overlay lacks it."""
        role = binding["roleRef"]
        namespace = binding["metadata"].get("namespace") if role["kind"] == "Role" else None
        return self.get(role["kind"], namespace, role["name"])


def broken(subject: str, faults: dict[str, Any]) -> list[str]:
    """Return a sentence for each fault that holds, which begins with the subject."""
    return [f"{subject} {fault}".strip() for fault, holds in faults.items() if holds]
