"""Check that every component may do at the API server what it needs to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scripts.check_cluster.render import name, pods

Document = dict[str, Any]
READ = {"get", "list", "watch"}

# What each component asks the API server for: {API group: {resource: verbs}}, by the name of its
# pods. `prometheus` is the pod that the operator starts for a Prometheus resource.
NEEDS: dict[str, dict[str, dict[str, set[str]]]] = {
    "otel-collector": {"": {"pods": READ}, "apps": {"replicasets": READ}},
    "otel-agent": {"": {"pods": READ}, "apps": {"replicasets": READ}},
    "vllm-router": {"": {"pods": READ}},
    "prometheus": {
        "": {"pods": READ, "services": READ, "endpoints": READ},
        "discovery.k8s.io": {"endpointslices": READ},
    },
}


def check(documents: list[Document]) -> list[str]:
    """Return missing verbs, and tokens that are mounted without need or missing where needed."""
    problems: list[str] = []
    for document, template in pods(documents):
        component = template["metadata"].get("labels", {}).get("app.kubernetes.io/name", "")
        needs = NEEDS.get(component)
        spec = template["spec"]
        if needs is None or not _asks_api_server(documents, component):
            continue
        if not spec.get("automountServiceAccountToken"):
            problems.append(f"{name(document)}: it asks the API server, but mounts no token")
        account = (document["metadata"]["namespace"], spec.get("serviceAccountName", "default"))
        problems += [f"{name(document)}: {p}" for p in _missing(documents, account, needs)]
    for document in documents:
        if document["kind"] == "Prometheus":
            account = (document["metadata"]["namespace"], document["spec"]["serviceAccountName"])
            missing = _missing(documents, account, NEEDS["prometheus"])
            problems += [f"{name(document)}: {p}" for p in missing]
    return problems


def _asks_api_server(documents: list[Document], component: str) -> bool:
    """Return whether a collector is configured with k8s_attributes; others always ask."""
    if not component.startswith("otel"):
        return True
    return any(
        "k8s_attributes:" in text
        for document in documents
        if document["kind"] == "ConfigMap" and document["metadata"]["name"].startswith(component)
        for text in document.get("data", {}).values()
    )


def _missing(
    documents: list[Document], account: tuple[str, str], needs: dict[str, dict[str, set[str]]]
) -> Iterator[str]:
    rules = list(_rules(documents, account))
    for group, resources in needs.items():
        for resource, verbs in resources.items():
            granted: set[str] = set()
            for rule in rules:
                if group in rule["apiGroups"] and resource in rule["resources"]:
                    granted |= set(rule["verbs"])
            lacking = verbs - granted if "*" not in granted else set()
            if lacking:
                yield f"its account may not {', '.join(sorted(lacking))} {resource}"


def _rules(documents: list[Document], account: tuple[str, str]) -> Iterator[Document]:
    """Yield the rules of every role that is bound to a service account."""
    roles = {
        (d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]): d["rules"]
        for d in documents
        if d["kind"] in ("Role", "ClusterRole")
    }
    for binding in documents:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        subjects = [(s.get("namespace"), s["name"]) for s in binding["subjects"]]
        reference = binding["roleRef"]
        namespace = binding["metadata"].get("namespace")
        key = (reference["kind"], namespace if reference["kind"] == "Role" else None)
        if account in subjects:
            yield from roles.get((*key, reference["name"]), [])
