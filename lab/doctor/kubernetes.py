"""Look-ups among Kubernetes documents: what selectors select, and the pods that documents make.

The checks of the lab's own manifests (tests/k8s/checks) use them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
# {kind: the field with its endpoints}
MONITORS = {"ServiceMonitor": "endpoints", "PodMonitor": "podMetricsEndpoints"}
# {kind: the beginning of the fields of a Prometheus resource that select it}
PROMETHEUS_SELECTS = {
    "ServiceMonitor": "serviceMonitor",
    "PodMonitor": "podMonitor",
    "PrometheusRule": "rule",
}


@dataclass(frozen=True)
class Selectable:
    """A Service or a pod, as selectors see it; `ports` are the names of its ports."""

    namespace: str
    labels: Mapping[str, str]
    ports: tuple[str, ...]
    document: Document


def nested(node: Any, *keys: str) -> Any:
    """Return the value under nested keys; {} where one is missing, or the value is empty."""
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node or {}


def name_of(document: Document) -> str:
    """Return KIND/NAME of a document."""
    name = nested(document, "metadata", "name") or ""
    return f"{document.get('kind', 'document')}/{name}".rstrip("/")


def of_kinds(documents: Sequence[Document], *kinds: str) -> list[Document]:
    """Return the documents of these kinds."""
    return [each for each in documents if str(each.get("kind", "")) in kinds]


def namespace_of(document: Document) -> str:
    """Return the namespace of a document, '' if it names none."""
    return str(nested(document, "metadata", "namespace") or "")


def flattened(documents: Sequence[Any]) -> list[Document]:
    """Return the documents, those of a List among them."""
    result: list[Document] = []
    for document in documents:
        if isinstance(document, list):
            result += flattened(document)
        elif isinstance(document, dict):
            items = document.get("items")
            result += flattened(items) if isinstance(items, list) else [document]
    return result


def selects(selector: Document | None, labels: Mapping[str, str]) -> bool:
    """Return whether a label selector selects these labels. None selects nothing."""
    if selector is None:
        return False
    pairs = nested(selector, "matchLabels").items()
    if any(str(labels.get(name)) != str(value) for name, value in pairs):
        return False
    return all(_fits(rule, labels) for rule in nested(selector, "matchExpressions"))


def _fits(rule: Document, labels: Mapping[str, str]) -> bool:
    value = labels.get(str(rule.get("key")))
    is_listed = value in nested(rule, "values")
    fits = {
        "In": is_listed,
        "NotIn": not is_listed,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }
    return fits.get(str(rule.get("operator")), True)


def services_in(documents: Sequence[Document]) -> list[Selectable]:
    """Return the Services among the documents."""
    return [
        _selectable(each, each, nested(each, "spec", "ports"))
        for each in of_kinds(documents, "Service")
    ]


def pods_in(documents: Sequence[Document]) -> list[Selectable]:
    """Return the pods of every document that has a template of one, or is one."""
    pods = []
    for each in documents:
        template = each if each.get("kind") == "Pod" else pod_template(each.get("spec"))
        if template is None:
            continue
        spec = template.get("spec")
        containers = [*nested(spec, "containers"), *nested(spec, "initContainers")]
        ports = [port for container in containers for port in nested(container, "ports")]
        pods.append(_selectable(each, template, ports))
    return pods


def pod_template(spec: Any) -> Document | None:
    """Return the template of a pod in a specification, at any depth (CronJob); None without one."""
    if not isinstance(spec, dict):
        return None
    template = spec.get("template")
    if isinstance(template, dict) and "containers" in nested(template, "spec"):
        return template
    inner = (pod_template(value) for value in spec.values())
    return next((each for each in inner if each), None)


def _selectable(owner: Document, document: Document, ports: Sequence[Document]) -> Selectable:
    names = tuple(str(port.get("name", "")) for port in ports)
    return Selectable(namespace_of(owner), nested(document, "metadata", "labels"), names, document)
