"""The manifests pass checkov, which `make check-cluster` installs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.k8s.checks import policies
from tests.k8s.checks.render import K8S, OVERLAYS, folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not policies.PROGRAM.exists(), reason="checkov is installed by `make check-cluster`"
    ),
]


def test_no_policy_fails_but_those_with_a_reason(overlay: Callable) -> None:
    """No policy fails in any overlay, and every exception is still needed."""
    documents = [d for name in OVERLAYS for d in overlay(name)] + folder(K8S / "load")
    assert policies.check(documents) == []
    assert policies.unused(documents) == []
    assert all(len(a.reason) > 20 for a in policies.ACCEPTED.values())


def test_policies_finds_faults_that_are_not_accepted(
    overlay: Callable, find_object: Callable, container: Callable
) -> None:
    """A secret in the environment, the host's network and the default namespace are reported."""
    documents = overlay("minikube-cpu")
    tools = find_object(documents, "Deployment", "lab-tools")
    reference = {"secretKeyRef": {"name": "grafana-admin", "key": "password"}}
    container(documents, "lab-tools")["env"].append({"name": "PASSWORD", "valueFrom": reference})
    tools["spec"]["template"]["spec"]["hostNetwork"] = True
    tools["metadata"]["namespace"] = "default"
    problems = "\n".join(policies.check([tools]))
    assert "CKV_K8S_35" in problems and "CKV_K8S_19" in problems and "CKV_K8S_21" in problems


def test_policies_finds_exceptions_that_nothing_needs(
    overlay: Callable, find_object: Callable
) -> None:
    """Without the exporter, its exceptions are reported as unused."""
    unused = policies.unused([find_object(overlay("minikube-cpu"), "Deployment", "lab-tools")])
    assert any("CKV_K8S_39 need not be accepted" in p for p in unused)
