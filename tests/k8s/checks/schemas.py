"""Check built-in kinds against the schemas of three releases, custom resources against models.

kubernetes-validate brings the schemas (108 MB). The models of custom resources ignore fields that
they do not know, so each document is read and written again; what was lost on the way is a fault.
"""

import functools
import importlib
import json
from typing import Any

from tests.k8s.checks.render import name, versions

# Kinds without a schema in any package here: OpenShift's own, and the receiver's configuration.
WITHOUT_SCHEMA = {
    ("route.openshift.io/v1", "Route"),
    ("build.openshift.io/v1", "BuildConfig"),
    ("image.openshift.io/v1", "ImageStream"),
    ("monitoring.coreos.com/v1alpha1", "AlertmanagerConfig"),
}


def check(documents: list[dict[str, Any]], releases: tuple[str, ...] | None = None) -> list[str]:
    """Return the problems of the documents, per release.

    A kind that is neither built in nor one of the known custom resources is a problem.
    """
    releases = releases or tuple(versions()["KUBERNETES_SCHEMAS"].split(","))
    distinct = {
        json.dumps(d, sort_keys=True): d
        for d in documents
        if (d["apiVersion"], d["kind"]) not in CUSTOM.keys() | WITHOUT_SCHEMA
    }
    return [
        problem for release in releases for d in distinct.values() for problem in _one(d, release)
    ]


def _one(document: dict[str, Any], release: str) -> list[str]:
    import kubernetes_validate
    from kubernetes_validate import utils

    if not hasattr(utils.schema_contents, "cache_info"):
        # Without a cache it reads megabytes for every document.
        utils.schema_contents = functools.cache(utils.schema_contents)
    try:
        kubernetes_validate.validate(document, release, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        kind = f"{document['apiVersion']} {document['kind']}"
        return [f"{name(document)}: Kubernetes {release} has no {kind}"]
    except kubernetes_validate.ValidationError as e:
        where = ".".join(str(p) for p in e.path)
        return [f"{name(document)}: {where}: {e.message} (Kubernetes {release})"]
    return []


_MONITORING = "monitoring.coreos.com/v1"
CUSTOM = {
    (_MONITORING, kind): ("cloudcoil.models.prometheus_operator.v1", kind)
    for kind in ("Prometheus", "ServiceMonitor", "PodMonitor", "PrometheusRule", "Alertmanager")
} | {("keda.sh/v1alpha1", "ScaledObject"): ("cloudcoil.models.keda.v1alpha1", "ScaledObject")}

# {(kind, path): values} of fields newer than the models: KEDA 2.17, where the models are of 2.16.
NEWER = {
    ("ScaledObject", ".spec.fallback.behavior"): {
        "static",
        "currentReplicas",
        "currentReplicasIfHigher",
        "currentReplicasIfLower",
    }
}


def check_custom_resources(documents: list[dict[str, Any]]) -> list[str]:
    """Return the problems of the custom resources among the documents."""
    import pydantic

    problems = []
    for d in {json.dumps(d, sort_keys=True): d for d in documents}.values():
        model = CUSTOM.get((d["apiVersion"], d["kind"]))
        if model is None:
            continue
        kind = getattr(importlib.import_module(model[0]), model[1])
        try:
            read = kind.model_validate(d)
        except pydantic.ValidationError as e:
            problems += [
                f"{name(d)}: {'.'.join(map(str, x['loc']))}: {x['msg']}" for x in e.errors()
            ]
            continue
        written = read.model_dump(mode="json", by_alias=True, exclude_none=True)
        lost = [path for path in _lost(d, written) if not _is_newer(d, path)]
        problems += [f"{name(d)}: unknown field {path}" for path in lost]
    return problems


def _is_newer(document: dict[str, Any], path: str) -> bool:
    """Return whether a field that the models do not know has a value that a newer release takes."""
    value: Any = document
    for key in path.split(".")[1:]:
        value = value.get(key) if isinstance(value, dict) else None
    return value in NEWER.get((document["kind"], path), set())


def _lost(given: Any, kept: Any, path: str = "") -> list[str]:
    if isinstance(given, dict):
        if not isinstance(kept, dict):
            return [path]
        lost = []
        for key, value in given.items():
            lost += _lost(value, kept[key], f"{path}.{key}") if key in kept else [f"{path}.{key}"]
        return lost
    if isinstance(given, list):
        if not isinstance(kept, list) or len(kept) != len(given):
            return [path]
        return [
            x
            for i, (g, k) in enumerate(zip(given, kept, strict=True))
            for x in _lost(g, k, f"{path}[{i}]")
        ]
    return []
