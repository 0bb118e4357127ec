"""Check what Prometheus selects, whether scraped paths answer, and whether it accepts writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from scripts.check_cluster import metrics
from scripts.check_cluster.network import selects
from scripts.check_cluster.render import name
from scripts.check_cluster.workloads import answers

Document = dict[str, Any]
SELECTORS = {
    "ServiceMonitor": "serviceMonitor",
    "PodMonitor": "podMonitor",
    "PrometheusRule": "rule",
}


def check(documents: list[Document]) -> list[str]:
    """Return the problems of the monitoring in one overlay."""
    servers = [d for d in documents if d["kind"] == "Prometheus"]
    problems = [f"{name(s)}: {p}" for s in servers for p in _selection(documents, s)]
    problems += [f"{name(s)}: {p}" for s in servers for p in _receivers(documents, s)]
    problems += _paths(documents)
    problems += _scaling_queries(documents)
    return problems


def _selection(documents: list[Document], server: Document) -> Iterator[str]:
    """Yield monitors and rules that a Prometheus resource does not select."""
    labels_of = {
        d["metadata"]["name"]: d["metadata"].get("labels", {})
        for d in documents
        if d["kind"] == "Namespace"
    }
    for kind, field in SELECTORS.items():
        by_label = server["spec"].get(f"{field}Selector")
        by_namespace = server["spec"].get(f"{field}NamespaceSelector")
        for document in documents:
            if document["kind"] != kind:
                continue
            namespace = document["metadata"]["namespace"]
            own = by_namespace is None and namespace == server["metadata"]["namespace"]
            listed = by_namespace is not None and selects(
                by_namespace, labels_of.get(namespace, {})
            )
            chosen = by_label is not None and selects(by_label, document["metadata"]["labels"])
            if not (chosen and (own or listed)):
                yield f"it does not select {name(document)}"


def _receivers(documents: list[Document], server: Document) -> Iterator[str]:
    """Yield features that must be on because another component writes to this Prometheus."""
    address = f"prometheus.{server['metadata']['namespace']}.svc:9090/api/v1/write"
    written = any(address in json.dumps(d.get("data", {})) for d in documents)
    if not written:
        return
    if not server["spec"].get("enableRemoteWriteReceiver"):
        yield "something writes to it, but enableRemoteWriteReceiver is off"
    if "exemplar-storage" not in server["spec"].get("enableFeatures", []):
        yield "exemplars are written to it, but exemplar-storage is not enabled"


def _paths(documents: list[Document]) -> Iterator[str]:
    """Yield monitors that scrape a path that no selected pod answers."""
    for monitor in documents:
        if monitor["kind"] not in ("ServiceMonitor", "PodMonitor"):
            continue
        spec = monitor["spec"]
        own = monitor["metadata"]["namespace"]
        known: dict[int, set[str]] = {}
        for namespace in spec.get("namespaceSelector", {}).get("matchNames", [own]):
            for labels in _pod_labels(documents, monitor, namespace):
                known |= answers(documents, labels, namespace)
        paths = set().union(*known.values()) if known else set()
        for endpoint in spec.get("podMetricsEndpoints", spec.get("endpoints", [])):
            path = endpoint.get("path", "/metrics")
            if paths and path not in paths:
                yield f"{name(monitor)}: nothing that it selects answers {path!r}"


def _pod_labels(documents: list[Document], monitor: Document, namespace: str) -> Iterator[Document]:
    wanted = monitor["spec"]["selector"].get("matchLabels", {})
    if monitor["kind"] == "PodMonitor":
        yield wanted
        return
    for service in documents:
        if service["kind"] != "Service" or service["metadata"]["namespace"] != namespace:
            continue
        if wanted.items() <= service["metadata"].get("labels", {}).items():
            yield service["spec"].get("selector", {"": ""})


def _scaling_queries(documents: list[Document]) -> Iterator[str]:
    """Yield queries of KEDA's triggers with a metric or label that does not exist."""
    known = metrics.known()
    for scaler in documents:
        if scaler["kind"] == "ScaledObject":
            for trigger in scaler["spec"]["triggers"]:
                if trigger["type"] == "prometheus":
                    query = trigger["metadata"]["query"]
                    problems = metrics.check_expression(query, known)
                    yield from (f"{name(scaler)}: {p}: {query}" for p in problems)
