"""Render each overlay once for all tests; every test gets a copy that it may change."""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from tests.k8s.checks import references, render, workloads

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
    """Skip tests that render manifests when kubectl, which `make setup` does not install, is
    missing.
    """
    if request.node.path.name in RENDER and shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: https://kubernetes.io/docs/tasks/tools/")


def find_problems(documents: Documents) -> list[str]:
    """Return the problems of the pods and of all other objects."""
    return [*workloads.check(documents), *references.check(documents)]


@functools.cache
def _rendered(name: str) -> Documents:
    return render.overlay(name)


@pytest.fixture
def overlay() -> Callable[[str], Documents]:
    """Return a function: overlay("cluster") returns the documents of that overlay."""
    return lambda name: copy.deepcopy(_rendered(name))


@pytest.fixture
def find_object(overlay: Callable[[str], Documents]) -> Callable[..., dict[str, Any]]:
    """Return a function: find_object(documents, kind, name) returns the matching document."""

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
def container(find_object: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a function: container(documents, name) returns a workload's first container."""

    def find(documents: Documents, name: str, kind: str = "Deployment") -> dict[str, Any]:
        return find_object(documents, kind, name)["spec"]["template"]["spec"]["containers"][0]

    return find
