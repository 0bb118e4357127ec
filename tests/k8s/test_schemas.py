"""Schemas of the built-in kinds, models of the custom resources."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scripts.check_cluster import custom_resources, schemas
from scripts.check_cluster.paths import K8S, OVERLAYS
from scripts.check_cluster.render import folder


def test_all_overlays_fit_three_releases_of_kubernetes(overlay: Callable) -> None:
    """Strictly: no unknown field, no unknown kind, in any of the pinned releases."""
    documents = [d for name in OVERLAYS for d in overlay(name)] + folder(K8S / "load")
    assert schemas.check(documents) == []


def test_custom_resources_fit_their_models(overlay: Callable) -> None:
    """Prometheus operator and KEDA: right types, nothing missing, nothing unknown."""
    assert custom_resources.check([d for name in OVERLAYS for d in overlay(name)]) == []


SCHEMA_FAULTS = {
    "misspelt field": lambda c: c.update(imagePulPolicy="Always"),
    "wrong type": lambda c: c["ports"][0].update(containerPort="8000"),
    "missing field": lambda c: c.pop("name"),
}


@pytest.mark.parametrize("fault", SCHEMA_FAULTS)
def test_schemas_find(fault: str, overlay: Callable, one: Callable, container: Callable) -> None:
    """A field that the API server would drop or refuse."""
    documents = overlay("minikube-cpu")
    SCHEMA_FAULTS[fault](container(documents, "lab-tools"))
    assert schemas.check([one(documents, "Deployment", "lab-tools")], ("1.37",))


def test_schemas_find_a_kind_that_is_gone(overlay: Callable, one: Callable) -> None:
    """An API version that the release no longer serves."""
    budget = one(overlay("minikube-cpu"), "PodDisruptionBudget", "vllm")
    budget["apiVersion"] = "policy/v1beta1"
    assert "has no policy/v1beta1" in schemas.check([budget], ("1.37",))[0]


def test_models_find_faults_in_custom_resources(overlay: Callable, one: Callable) -> None:
    """A misspelt field, a bad duration, a threshold that is a number."""
    documents = overlay("cluster")
    one(documents, "PodMonitor", "vllm")["spec"]["podMetricsEndpoints"][0]["pathh"] = "/metrics"
    one(documents, "Prometheus", "lab")["spec"]["scrapeInterval"] = "five seconds"
    one(documents, "ScaledObject", "vllm")["spec"]["triggers"][0]["metadata"]["threshold"] = 4
    found = "\n".join(custom_resources.check(documents))
    assert "pathh" in found and "scrapeInterval" in found and "threshold" in found
