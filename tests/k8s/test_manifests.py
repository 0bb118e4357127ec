"""Every overlay passes every check that needs only kubectl, and each check finds its fault."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from lab.errors import StackError
from lab.stack.cluster.preflight_checks import GPU, requested
from tests.k8s.checks import (
    collector,
    network,
    references,
    render,
    workloads,
)
from tests.k8s.checks.render import K8S, OVERLAYS
from tests.k8s.conftest import find_problems

CHECKS = (
    references,
    workloads,
    network,
    collector,
)


@pytest.mark.parametrize("name", OVERLAYS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda m: m.__name__.rpartition(".")[2])
def test_an_overlay_has_no_fault(name: str, check, overlay: Callable) -> None:
    """Every overlay that is shipped renders, and no check reports a problem."""
    assert check.check(overlay(name)) == []


def test_a_jobs_pods_are_checked_at_any_depth() -> None:
    """A CronJob has the template of its pods inside of the template of its Jobs."""
    template = {"metadata": {}, "spec": {"containers": [{"name": "nightly"}]}}
    job = {"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": template}}}}
    (pod,) = render.pods([job, {"kind": "ConfigMap", "data": {}}])
    assert pod.owner is job and pod.template is template


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_readme_states_what_an_overlay_requests(name: str, overlay: Callable) -> None:
    """The CPUs, GiB and GPUs in the README's table are those of the manifests."""
    rows = [
        line
        for line in (K8S / "README.md").read_text().splitlines()
        if line.startswith(f"| `{name}` |")
    ]
    documented = re.match(r" ([\d.]+) CPUs, ([\d.]+) GiB(?:, (\d+) GPU)?", rows[0].split("|")[4])
    totals = [sum(requested(d, r) for d in overlay(name)) for r in ("cpu", "memory", GPU)]
    assert [float(x or 0) for x in documented.groups()] == [
        round(totals[0], 1),
        round(totals[1] / 2**30, 1),
        totals[2],
    ]


def test_the_load_generator_has_no_fault(overlay: Callable) -> None:
    """The Job fits the policies, accounts and Secrets of the overlay that it is applied to."""
    documents = overlay("minikube-cpu") + render.folder(K8S / "load")
    assert [p for check in (workloads, references, network) for p in check.check(documents)] == []


def test_components_fit_on_top_of_each_other(tmp_path) -> None:
    """Optional components (logs, another backend) work with one collector and with two tiers."""
    for base in ("minikube-cpu", "cluster"):
        folder = tmp_path / base
        folder.mkdir()
        # Kustomize does not accept absolute paths to bases, so a relative path is built.
        up = "/".join([".."] * len(folder.resolve().parts[1:]))
        k8s = f"{up}{K8S}"
        # The overlay cluster includes the component already.
        alertmanager = f"{k8s}/components/alertmanager, " if base == "minikube-cpu" else ""
        text = (
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
            f"resources: [{k8s}/overlays/{base}]\n"
            f"components: [{k8s}/components/otlp-backend, {k8s}/components/logs-loki, "
            f"{alertmanager}{k8s}/versions]\n"
        )
        (folder / "kustomization.yaml").write_text(text)
        documents = render.folder(folder)
        assert [p for check in CHECKS for p in check.check(documents)] == []


# -- each check finds its fault --------------------------------------------------------------


def test_a_component_notices_a_changed_base(tmp_path) -> None:
    """A component tests what it patches, so a changed base fails at rendering, not at run time."""
    (tmp_path / "base").mkdir()
    deployment = (
        (K8S / "base/vllm/deployment.yaml")
        .read_text()
        .replace("- name: vllm\n", "- name: engine\n")
    )
    (tmp_path / "base/deployment.yaml").write_text(deployment)
    (tmp_path / "base/kustomization.yaml").write_text("resources: [deployment.yaml]\n")
    component = (
        (K8S / "components/vllm-gpu/kustomization.yaml")
        .read_text()
        .replace("  - path: args.yaml\n", "")
    )
    (tmp_path / "component").mkdir()
    (tmp_path / "component/kustomization.yaml").write_text(component)
    (tmp_path / "kustomization.yaml").write_text("resources: [base]\ncomponents: [component]\n")
    with pytest.raises(StackError, match="test"):
        render.folder(tmp_path)


POD_FAULTS = {
    "root": (lambda c: c["securityContext"].update(runAsUser=0), "no user other than root"),
    "privileged": (lambda c: c["securityContext"].update(privileged=True), "privileged"),
    "escalation": (lambda c: c["securityContext"].pop("allowPrivilegeEscalation"), "escalation"),
    "capabilities": (
        lambda c: c["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
        "adds capabilities",
    ),
    "host port": (lambda c: c["ports"][0].update(hostPort=80), "host port"),
    "memory": (lambda c: c["resources"].pop("limits"), "no memory limit"),
    "gpu": (lambda c: c["resources"]["limits"].update({"nvidia.com/gpu": "1"}), "GPUs"),
    "protocol": (lambda c: c["ports"][0].pop("protocol"), "protocol"),
    "startup probe": (lambda c: c.pop("startupProbe"), "startupProbe"),
}


@pytest.mark.parametrize("fault", POD_FAULTS)
def test_pod_security_finds(fault: str, overlay: Callable, container: Callable) -> None:
    """The check reports a container that the restricted standard or the lab does not allow."""
    spoil, words = POD_FAULTS[fault]
    documents = overlay("minikube-cpu")
    spoil(container(documents, "lab-tools"))
    assert any(words in p for p in find_problems(documents))


def test_pod_security_finds_service_links_and_host_paths(
    overlay: Callable, find_object: Callable
) -> None:
    """VLLM_PORT=tcp://... breaks vLLM, and a host path breaks the restricted standard."""
    documents = overlay("minikube-cpu")
    spec = find_object(documents, "Deployment", "vllm")["spec"]["template"]["spec"]
    spec["enableServiceLinks"] = True
    spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    problems = "\n".join(find_problems(documents))
    assert "enableServiceLinks" in problems and "volume host" in problems


def test_pod_security_finds_a_rollout_that_waits_for_its_own_gpu(
    overlay: Callable, find_object: Callable
) -> None:
    """A rolling update of a pod that holds the only GPU is reported, as it never ends."""
    documents = overlay("minikube-gpu")
    find_object(documents, "Deployment", "vllm")["spec"]["strategy"] = {"type": "RollingUpdate"}
    assert any("waits" in p or "would wait" in p for p in find_problems(documents))


@pytest.mark.parametrize("image", ["llm-lab/lab", "llm-lab/lab:latest", "llm-lab/lab:0.0.9"])
def test_images_finds(image: str, overlay: Callable, container: Callable) -> None:
    """An image without a version, or with one that is not in versions.env, is reported."""
    documents = overlay("minikube-cpu")
    container(documents, "lab-tools")["image"] = image
    assert len(find_problems(documents)) == 1


def _no_such_secret(documents, find_object, container):
    container(documents, "grafana")["env"][1]["valueFrom"]["secretKeyRef"]["name"] = (
        "grafana-admins"
    )


def _no_such_config_map(documents, find_object, container):
    documents.remove(find_object(documents, "ConfigMap", "tempo-config"))


def _no_such_claim(documents, find_object, container):
    documents.remove(find_object(documents, "PersistentVolumeClaim", "llama-stack-state"))


def _selector(documents, find_object, container):
    find_object(documents, "Service", "llama-stack")["spec"]["selector"] = {
        "app.kubernetes.io/name": "llamastack"
    }


def _target_port(documents, find_object, container):
    find_object(documents, "Service", "model-server")["spec"]["ports"][0]["targetPort"] = "htpp"


def _monitor_port(documents, find_object, container):
    find_object(documents, "PodMonitor", "vllm")["spec"]["podMetricsEndpoints"][0]["port"] = "8000"


def _monitor_selector(documents, find_object, container):
    find_object(documents, "ServiceMonitor", "lab-tools")["spec"]["selector"]["matchLabels"] = {
        "app": "lab-tools"
    }


def _probe(documents, find_object, container):
    container(documents, "vllm")["readinessProbe"]["httpGet"]["port"] = "metrics"


def _mount(documents, find_object, container):
    container(documents, "vllm")["volumeMounts"][0]["name"] = "weights"


def _account(documents, find_object, container):
    documents.remove(find_object(documents, "ServiceAccount", "tempo"))


def _address(documents, find_object, container):
    container(documents, "lab-tools")["args"][-1] = (
        "--otlp-endpoint=http://otel-collector.llm-lab-obs.svc:4319"
    )


def _data_source(documents, find_object, container):
    config = find_object(documents, "ConfigMap", "grafana-datasources")
    config["data"]["datasources.yaml"] = config["data"]["datasources.yaml"].replace(
        "uid: tempo", "uid: tempo2"
    )


def _role(documents, find_object, container):
    documents.remove(find_object(documents, "Role", "prometheus", "llm-lab"))


def _label(documents, find_object, container):
    find_object(documents, "Job", "documents")["metadata"]["labels"].pop(
        "app.kubernetes.io/part-of"
    )


def _label_of_pods(documents, find_object, container):
    find_object(documents, "Deployment", "vllm")["spec"]["template"]["metadata"]["labels"].pop(
        "app.kubernetes.io/part-of"
    )


def _too_large(documents, find_object, container):
    find_object(documents, "ConfigMap", "grafana-dashboards")["data"]["more.json"] = (
        '"' + "x" * 100_000 + '"'
    )


def _budget(documents, find_object, container):
    find_object(documents, "PodDisruptionBudget", "vllm")["spec"]["selector"]["matchLabels"] = {
        "app": "vllm"
    }


REFERENCE_FAULTS = {
    _no_such_secret: "no Secret grafana-admins",
    _no_such_config_map: "no ConfigMap",
    _no_such_claim: "no PersistentVolumeClaim",
    _selector: "selector finds no pod",
    _target_port: "no selected pod has port 'htpp'",
    _monitor_port: "port named '8000'",
    _monitor_selector: "selects nothing",
    _probe: "uses port 'metrics'",
    _mount: "is not a volume",
    _account: "no ServiceAccount tempo",
    _address: "has no port 4319",
    _data_source: "no data source 'tempo'",
    _label: "Job llm-lab/documents: no label",
    _label_of_pods: "its pods have no label",
    _too_large: "keeps a copy in an annotation",
    _role: "no Role prometheus",
    _budget: "its selector finds no pod",
}


@pytest.mark.parametrize("spoil", REFERENCE_FAULTS, ids=lambda f: f.__name__.strip("_"))
def test_references_finds(
    spoil, overlay: Callable, find_object: Callable, container: Callable
) -> None:
    """A reference to an object that does not exist is reported."""
    documents = overlay("minikube-cpu")
    spoil(documents, find_object, container)
    assert any(REFERENCE_FAULTS[spoil] in p for p in find_problems(documents))


def test_references_finds_scaling_that_each_apply_undoes(
    overlay: Callable, find_object: Callable
) -> None:
    """With KEDA, a Deployment that sets its number of replicas is reported."""
    documents = overlay("cluster")
    find_object(documents, "Deployment", "vllm")["spec"]["replicas"] = 1
    assert any("undo the scaling" in p for p in find_problems(documents))


def test_network_finds_a_closed_path_and_an_open_one(
    overlay: Callable, find_object: Callable
) -> None:
    """Llama Stack cut off from the tools is reported, and so are tools that can reach vLLM."""
    documents = overlay("minikube-cpu")
    find_object(documents, "NetworkPolicy", "lab-tools")["spec"]["ingress"].pop(0)
    assert "llama-stack cannot reach lab-tools:8200" in network.check(documents)

    documents = overlay("minikube-cpu")
    find_object(documents, "NetworkPolicy", "lab-tools")["spec"]["egress"].append({})
    find_object(documents, "NetworkPolicy", "vllm")["spec"]["ingress"].append({})
    assert "lab-tools can reach vllm:8000, and should not" in network.check(documents)


def test_network_finds_missing_dns_and_open_egress(
    overlay: Callable, find_object: Callable
) -> None:
    """A namespace without DNS is reported, and so is egress through which prompts can leave."""
    documents = overlay("minikube-cpu")
    documents.remove(find_object(documents, "NetworkPolicy", "dns", "llm-lab"))
    assert "llama-stack cannot resolve names" in network.check(documents)

    documents = overlay("minikube-cpu")
    outside = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}
    find_object(documents, "NetworkPolicy", "llama-stack")["spec"]["egress"].append(outside)
    assert "llama-stack can reach addresses outside the cluster" in network.check(documents)


def test_an_ip_block_does_not_permit_traffic_to_a_pod(
    overlay: Callable, find_object: Callable
) -> None:
    """A wide IP block does not make up for a missing pod selector."""
    documents = overlay("minikube-cpu")
    policy = find_object(documents, "NetworkPolicy", "otel-collector")
    policy["spec"]["egress"] = [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]
    assert "otel-collector cannot reach tempo:4317" in network.check(documents)
