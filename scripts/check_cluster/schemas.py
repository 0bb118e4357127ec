"""Check built-in kinds against the schemas of three Kubernetes releases, unknown fields included.

kubernetes-validate brings the schemas (108 MB).
"""

from __future__ import annotations

import functools
import json
from typing import Any

from scripts.check_cluster.custom_resources import CUSTOM
from scripts.check_cluster.paths import versions
from scripts.check_cluster.render import name

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
