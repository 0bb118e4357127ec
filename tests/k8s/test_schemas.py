"""Documents fit the schemas of the built-in kinds and the models of the custom resources."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.k8s.checks import schemas
from tests.k8s.checks.render import K8S, OVERLAYS, folder


def test_all_overlays_fit_three_releases_of_kubernetes(overlay: Callable) -> None:
    """No overlay has an unknown field or kind in any of the pinned releases."""
    documents = [d for name in OVERLAYS for d in overlay(name)] + folder(K8S / "load")
    assert schemas.check(documents) == []


def test_custom_resources_fit_their_models(overlay: Callable) -> None:
    """The objects of the Prometheus operator and of KEDA have the right fields and types."""
    assert schemas.check_custom_resources([d for name in OVERLAYS for d in overlay(name)]) == []


SCHEMA_FAULTS = {
    "misspelt field": lambda c: c.update(imagePulPolicy="Always"),
    "wrong type": lambda c: c["ports"][0].update(containerPort="8000"),
    "missing field": lambda c: c.pop("name"),
}


@pytest.mark.parametrize("fault", SCHEMA_FAULTS)
def test_schemas_find(
    fault: str, overlay: Callable, find_object: Callable, container: Callable
) -> None:
    """A field that the API server would drop or reject is reported."""
    documents = overlay("minikube-cpu")
    SCHEMA_FAULTS[fault](container(documents, "lab-tools"))
    assert schemas.check([find_object(documents, "Deployment", "lab-tools")], ("1.37",))


def test_schemas_find_a_kind_that_is_gone(overlay: Callable, find_object: Callable) -> None:
    """An API version that the release no longer serves is reported."""
    budget = find_object(overlay("minikube-cpu"), "PodDisruptionBudget", "vllm")
    budget["apiVersion"] = "policy/v1beta1"
    assert "has no policy/v1beta1" in schemas.check([budget], ("1.37",))[0]


def test_models_find_faults_in_custom_resources(overlay: Callable, find_object: Callable) -> None:
    """A misspelt field, a bad duration and a threshold that is a number are reported."""
    documents = overlay("cluster")
    find_object(documents, "PodMonitor", "vllm")["spec"]["podMetricsEndpoints"][0]["pathh"] = (
        "/metrics"
    )
    find_object(documents, "Prometheus", "lab")["spec"]["scrapeInterval"] = "five seconds"
    find_object(documents, "ScaledObject", "vllm")["spec"]["triggers"][0]["metadata"][
        "threshold"
    ] = 4
    problems = "\n".join(schemas.check_custom_resources(documents))
    assert "pathh" in problems and "scrapeInterval" in problems and "threshold" in problems
