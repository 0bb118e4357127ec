"""Look-ups among the documents of an overlay: by kind, by name, by label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lab.doctor.kubernetes import selects
from scripts.check_cluster.render import Document, Pod, operated_pods, pods

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
