"""Rendered overlays, once for all tests; each test gets its own copy to spoil."""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from scripts.check_cluster import render

Documents = list[dict[str, Any]]
RENDER = {
    "test_manifests.py",
    "test_policies.py",
    "test_faults.py",
    "test_real_api.py",
    "test_schemas.py",
    "test_telemetry_configs.py",
}


@pytest.fixture(autouse=True)
def with_kubectl(request: pytest.FixtureRequest) -> None:
    """What renders needs kubectl, which `make setup` does not install."""
    if request.node.path.name in RENDER and shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: https://kubernetes.io/docs/tasks/tools/")


@functools.cache
def _rendered(name: str) -> Documents:
    return render.overlay(name)


@pytest.fixture
def overlay() -> Callable[[str], Documents]:
    """overlay("cluster"): its documents."""
    return lambda name: copy.deepcopy(_rendered(name))


@pytest.fixture
def one(overlay: Callable[[str], Documents]) -> Callable[..., dict[str, Any]]:
    """one(documents, kind, name): the document to spoil."""

    def find(documents: Documents, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        return next(
            d
            for d in documents
            if d["kind"] == kind
            and d["metadata"]["name"].startswith(name)
            and (not namespace or d["metadata"]["namespace"] == namespace)
        )

    return find


@pytest.fixture
def container(one: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """container(documents, name, kind="Deployment"): the first container of a workload."""

    def find(documents: Documents, name: str, kind: str = "Deployment") -> dict[str, Any]:
        return one(documents, kind, name)["spec"]["template"]["spec"]["containers"][0]

    return find
