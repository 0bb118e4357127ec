"""Render an overlay with `kubectl kustomize`, which needs no cluster, and find pods in it."""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.doctor.kubernetes import pod_template
from lab.stack.cluster import kubectl
from scripts.check_cluster.paths import K8S

Document = dict[str, Any]
OPERATED = {"Prometheus": 9090, "Alertmanager": 9093}  # kinds of which the operator makes pods


class CannotRender(Exception):
    """Kustomize refused to render; the message is its own."""


def overlay(name: str) -> list[Document]:
    """Return the documents of lab/k8s/overlays/<name>, a fresh copy each time."""
    return list(yaml.load_all(_text(K8S / "overlays" / name), Loader=_LOADER))


def folder(path: Path) -> list[Document]:
    """Return the documents of any kustomization."""
    return list(yaml.load_all(_text(path), Loader=_LOADER))


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def _text(path: Path) -> str:
    done = subprocess.run(
        [kubectl.program(), "kustomize", str(path)], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        raise CannotRender(done.stderr.strip())
    return done.stdout


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
