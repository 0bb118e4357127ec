"""What has no package to come from: replaced by a part of the lab, or left out, with a note."""

from __future__ import annotations

import copy

from lab.stack.cluster.kubectl import versions
from scripts.smoke_podman.pods import Document

# Kinds that only a cluster can act on.
CLUSTER_ONLY = {"NetworkPolicy", "Role", "RoleBinding", "ServiceAccount", "PodDisruptionBudget"}


def for_podman(documents: list[Document]) -> tuple[list[Document], list[str]]:
    """Return the documents without what podman cannot get, and a note for each change."""
    documents = copy.deepcopy(documents)
    kinds = sorted({d["kind"] for d in documents} & CLUSTER_ONLY)
    notes = [
        f"left out, a cluster's matter: {', '.join(kinds)}, Pod Security, scheduling, limits",
        "left out: Grafana (in no package registry); its panels' queries are run instead",
        "replaced: vLLM's image by one of the CPU build that make setup installed",
        "replaced: Prometheus by Debian's, with a configuration derived from the monitors",
    ]
    documents = [d for d in documents if not _is(d, "Deployment", "grafana")]
    notes.append(_trace_store_for_tempo(documents))
    documents, note = _trace_store_for_collector(documents)
    return documents, [*notes, note]


def _trace_store_for_tempo(documents: list[Document]) -> str:
    """Put the lab's trace store into Tempo's pod: same user, volumes, ports and probes."""
    tempo = next(d for d in documents if _is(d, "StatefulSet", "tempo"))
    container = tempo["spec"]["template"]["spec"]["containers"][0]
    container["image"] = versions()["LAB"]
    container["command"] = ["python", "-m", "lab.tracestore"]
    ports = ["--port=3200", "--otlp-port=4318"]  # no gRPC: only the collector uses it
    container["args"] = ["--data=/var/tempo", "--host=0.0.0.0", *ports]
    return "replaced: Tempo by the lab's trace store, in Tempo's pod and under its Service's name"


def _trace_store_for_collector(documents: list[Document]) -> tuple[list[Document], str]:
    """Let the collector's Service select Tempo's pod."""
    kept = [d for d in documents if not _is(d, "Deployment", "otel-collector")]
    service = next(d for d in kept if _is(d, "Service", "otel-collector"))
    service["spec"]["selector"] = {"app.kubernetes.io/name": "tempo"}
    note = (
        "replaced: the collector (in no package registry) by the trace store, which takes OTLP too"
    )
    return kept, note


def _is(document: Document, kind: str, name: str) -> bool:
    return (document["kind"], document["metadata"]["name"]) == (kind, name)
