"""Every check finds the kind of fault that it was written for: one planted fault per kind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.stack.toolbox import TOOLS_FILE
from tests.k8s.checks import (
    collector,
    image_build,
    network,
    rules,
    vllm_arguments,
)
from tests.k8s.checks.render import K8S, OVERLAYS
from tests.k8s.conftest import find_problems

Documents = list[dict[str, Any]]


class Plant:
    """The documents of an overlay, with shortcuts to the places where faults are planted."""

    def __init__(self, documents: Documents) -> None:
        self.documents = documents

    def find_object(self, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        """Return the first object of a kind whose name begins with `name`."""
        return next(
            d
            for d in self.documents
            if d["kind"] == kind
            and d["metadata"]["name"].startswith(name)
            and namespace in ("", d["metadata"].get("namespace"))
        )

    def spec(self, name: str, kind: str = "Deployment") -> dict[str, Any]:
        """Return the pod specification of a workload."""
        return self.find_object(kind, name)["spec"]["template"]["spec"]

    def container(self, name: str, kind: str = "Deployment") -> dict[str, Any]:
        """Return the first container of a workload."""
        return self.spec(name, kind)["containers"][0]


def _limit_below_request(plant: Plant) -> None:
    plant.container("lab-tools")["resources"]["requests"]["memory"] = "64Gi"


def _not_a_quantity(plant: Plant) -> None:
    plant.container("lab-tools")["resources"]["requests"]["memory"] = "a lot"


def _no_file_system_group(plant: Plant) -> None:
    plant.spec("llama-stack")["securityContext"].pop("fsGroup")


def _probe_port(plant: Plant) -> None:
    plant.container("grafana")["readinessProbe"]["httpGet"]["port"] = 3001


def _probe_path(plant: Plant) -> None:
    plant.container("vllm")["readinessProbe"]["httpGet"]["path"] = "/healthz"


def _probe_timeout(plant: Plant) -> None:
    plant.container("vllm")["readinessProbe"].update(timeoutSeconds=60, periodSeconds=5)


def _secret_key(plant: Plant) -> None:
    reference = plant.container("grafana")["env"]
    next(v for v in reference if "valueFrom" in v)["valueFrom"]["secretKeyRef"]["key"] = "pass"


def _config_map_key(plant: Plant) -> None:
    volume = next(v for v in plant.spec("llama-stack")["volumes"] if "configMap" in v)
    volume["configMap"]["items"] = [{"key": "run.yaml", "path": "config.yaml"}]


def _same_variable_twice(plant: Plant) -> None:
    plant.container("vllm")["env"].append(plant.container("vllm")["env"][0])


def _same_mount_twice(plant: Plant) -> None:
    mounts = plant.container("vllm")["volumeMounts"]
    mounts.append(dict(mounts[0]))


def _grace_period(plant: Plant) -> None:
    plant.spec("vllm")["terminationGracePeriodSeconds"] = 5
    plant.container("vllm")["lifecycle"] = {"preStop": {"sleep": {"seconds": 10}}}


def _namespace(plant: Plant) -> None:
    plant.find_object("Service", "model-server")["metadata"]["namespace"] = "llm-labs"


def _secret_in_git(plant: Plant) -> None:
    meta = {"name": "password", "namespace": "llm-lab"}
    plant.documents.append({"kind": "Secret", "metadata": meta, "stringData": {"password": "x"}})


def _node_port(plant: Plant) -> None:
    plant.find_object("Service", "grafana")["spec"]["type"] = "NodePort"


def _budget_of_all(plant: Plant) -> None:
    spec = plant.find_object("PodDisruptionBudget", "vllm")["spec"]
    spec.pop("maxUnavailable")
    spec["minAvailable"] = 1


def _budget_of_none(plant: Plant) -> None:
    plant.find_object("PodDisruptionBudget", "vllm")["spec"]["maxUnavailable"] = 0


def _exclusive_claim(plant: Plant) -> None:
    plant.find_object("Deployment", "llama-stack")["spec"]["replicas"] = 2
    plant.find_object("PersistentVolumeClaim", "llama-stack-state")["spec"]["accessModes"] = [
        "ReadWriteOnce"
    ]


def _stateful_set_service(plant: Plant) -> None:
    plant.find_object("StatefulSet", "tempo")["spec"]["serviceName"] = "tempos"


IN_WORKLOADS = {
    _limit_below_request: "above its limit",
    _not_a_quantity: "is not a quantity",
    _no_file_system_group: "has no fsGroup",
    _probe_port: "port 3001 is not a port",
    _probe_path: "nothing answers '/healthz'",
    _probe_timeout: "timeout is longer than its period",
    _secret_key: "nothing writes the key 'pass' of Secret grafana-admin",
    _config_map_key: "nothing writes the key 'run.yaml'",
    _same_variable_twice: "is defined 2 times",
    _same_mount_twice: "is defined 2 times",
    _grace_period: "is killed after 5 s",
    _namespace: "there is no Namespace llm-labs",
    _secret_in_git: "in git",
    _node_port: "reachable from outside",
    _budget_of_all: "blocks every drain",
    _budget_of_none: "blocks every drain",
    _exclusive_claim: "2 replicas mount llama-stack-state",
    _stateful_set_service: "there is no Service tempos",
}


@pytest.mark.parametrize("plant_fault", IN_WORKLOADS, ids=lambda f: f.__name__.strip("_"))
def test_workloads_finds(plant_fault: Callable[[Plant], None], overlay: Callable) -> None:
    """The check reports a workload that Kubernetes would reject or that would fail at run time."""
    documents = overlay("minikube-cpu")
    plant_fault(Plant(documents))
    assert any(IN_WORKLOADS[plant_fault] in p for p in find_problems(documents))


def _minimum_above_maximum(plant: Plant) -> None:
    plant.find_object("ScaledObject", "vllm")["spec"]["minReplicaCount"] = 9


def _fallback(plant: Plant) -> None:
    plant.find_object("ScaledObject", "vllm")["spec"]["fallback"]["replicas"] = 20


def _static_fallback(plant: Plant) -> None:
    plant.find_object("ScaledObject", "vllm")["spec"]["fallback"].pop("behavior")


def _threshold(plant: Plant) -> None:
    trigger = plant.find_object("ScaledObject", "vllm")["spec"]["triggers"][0]
    trigger["metadata"]["threshold"] = "four"


def _activation(plant: Plant) -> None:
    trigger = plant.find_object("ScaledObject", "vllm")["spec"]["triggers"][0]
    trigger["metadata"]["activationThreshold"] = "40"


IN_SCALING = {
    _minimum_above_maximum: "is above maxReplicaCount",
    _fallback: "fallback of 20 is not in",
    _static_fallback: "static fallback",
    _threshold: "is not a number",
    _activation: "scales nothing",
}


@pytest.mark.parametrize("plant_fault", IN_SCALING, ids=lambda f: f.__name__.strip("_"))
def test_workloads_finds_in_scaling(plant_fault: Callable, overlay: Callable) -> None:
    """The check reports a scaler that cannot scale, or that removes loaded replicas."""
    documents = overlay("cluster")
    plant_fault(Plant(documents))
    assert any(IN_SCALING[plant_fault] in p for p in find_problems(documents))


def _role_without_watch(plant: Plant) -> None:
    plant.find_object("Role", "otel-collector")["rules"][0]["verbs"].remove("watch")


def _role_without_resource(plant: Plant) -> None:
    plant.find_object("Role", "prometheus", "llm-lab-obs")["rules"][0]["resources"].remove(
        "endpoints"
    )
    plant.find_object("Role", "prometheus", "llm-lab")["rules"][0]["resources"].remove("endpoints")


def _no_token(plant: Plant) -> None:
    plant.spec("otel-collector")["automountServiceAccountToken"] = False


def _binding_of_another(plant: Plant) -> None:
    plant.find_object("RoleBinding", "otel-collector")["subjects"][0]["name"] = "grafana"


IN_PERMISSIONS = {
    _role_without_watch: "may not watch pods",
    _role_without_resource: "may not get, list, watch endpoints",
    _no_token: "mounts no token",
    _binding_of_another: "may not get, list, watch pods",
}


@pytest.mark.parametrize("plant_fault", IN_PERMISSIONS, ids=lambda f: f.__name__.strip("_"))
def test_permissions_finds(plant_fault: Callable, overlay: Callable) -> None:
    """The check reports a component that lacks a permission that it needs."""
    documents = overlay("minikube-cpu")
    plant_fault(Plant(documents))
    assert any(IN_PERMISSIONS[plant_fault] in p for p in find_problems(documents))


def _selects_nothing(plant: Plant) -> None:
    plant.find_object("Prometheus", "lab")["spec"]["podMonitorSelector"] = {
        "matchLabels": {"a": "b"}
    }


def _no_selector(plant: Plant) -> None:
    plant.find_object("Prometheus", "lab")["spec"].pop("ruleSelector")


def _own_namespace_only(plant: Plant) -> None:
    plant.find_object("Prometheus", "lab")["spec"].pop("serviceMonitorNamespaceSelector")


def _receiver_off(plant: Plant) -> None:
    plant.find_object("Prometheus", "lab")["spec"]["enableRemoteWriteReceiver"] = False


def _exemplars_off(plant: Plant) -> None:
    plant.find_object("Prometheus", "lab")["spec"]["enableFeatures"] = []


def _monitor_path(plant: Plant) -> None:
    endpoint = plant.find_object("PodMonitor", "vllm")["spec"]["podMetricsEndpoints"][0]
    endpoint["path"] = "/metricz"


def _service_monitor_path(plant: Plant) -> None:
    plant.find_object("ServiceMonitor", "tempo")["spec"]["endpoints"][0]["path"] = "/api/metrics"


IN_MONITORING = {
    _selects_nothing: "it does not select PodMonitor",
    _no_selector: "it does not select PrometheusRule",
    _own_namespace_only: "it does not select ServiceMonitor llm-lab/",
    _receiver_off: "enableRemoteWriteReceiver is off",
    _exemplars_off: "exemplar-storage is not enabled",
    _monitor_path: "answers '/metricz'",
    _service_monitor_path: "answers '/api/metrics'",
}


@pytest.mark.parametrize("plant_fault", IN_MONITORING, ids=lambda f: f.__name__.strip("_"))
def test_monitoring_finds(plant_fault: Callable, overlay: Callable) -> None:
    """The check reports a Prometheus that scrapes nothing, rejects writes or uses a wrong path."""
    documents = overlay("minikube-cpu")
    plant_fault(Plant(documents))
    assert any(IN_MONITORING[plant_fault] in p for p in find_problems(documents))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sum(vllm:requests_waiting)", "there is no metric vllm:requests_waiting"),
        ('sum(vllm:num_requests_waiting{model="lab"})', "has no label model"),
    ],
)
def test_monitoring_finds_in_scaling_queries(query: str, words: str, overlay: Callable) -> None:
    """A trigger on a metric or label that vLLM does not have is reported."""
    documents = overlay("cluster")
    trigger = Plant(documents).find_object("ScaledObject", "vllm")["spec"]["triggers"][0]
    trigger["metadata"]["query"] = query
    assert any(words in p for p in find_problems(documents))


def test_network_finds_a_component_open_to_every_namespace(overlay: Callable) -> None:
    """An empty namespace selector, which admits any pod of the cluster, is reported."""
    documents = overlay("minikube-cpu")
    rule = {"from": [{"namespaceSelector": {}}]}
    Plant(documents).find_object("NetworkPolicy", "vllm")["spec"]["ingress"].append(rule)
    assert "another-namespace can reach vllm:8000, and should not" in network.check(documents)


def test_network_finds_keda_cut_off_from_prometheus(overlay: Callable) -> None:
    """A missing policy for KEDA is reported, as its queries would fail."""
    documents = overlay("cluster")
    documents.remove(Plant(documents).find_object("NetworkPolicy", "keda-to-prometheus"))
    assert "keda-operator cannot reach prometheus:9090" in network.check(documents)


COLLECTOR = yaml.safe_load((K8S / "components/collector-two-tier/config/gateway.yaml").read_text())
COLLECTOR_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "option": (
        lambda c: c["processors"]["batch"].update(send_batch_sise=1),
        "'send_batch_sise' was unexpected",
    ),
    "nested option": (
        lambda c: c["exporters"]["otlp_grpc/tempo"]["sending_queue"].update(queue_len=1),
        "'queue_len' was unexpected",
    ),
    "policy type": (
        lambda c: c["processors"]["tail_sampling"]["policies"][0].update(type="status_codes"),
        "'status_codes' is not one of",
    ),
    "duration": (
        lambda c: c["processors"]["tail_sampling"].update(decision_wait="15"),
        "decision_wait",
    ),
    "number as text": (
        lambda c: c["processors"]["memory_limiter"].update(limit_percentage="80 %"),
        "is not of type 'integer'",
    ),
    "block": (lambda c: c.update(recievers={}), "recievers is not a block"),
    "telemetry": (
        lambda c: c["service"]["telemetry"]["metrics"].update(level="verbose"),
        "is not one of",
    ),
}


@pytest.mark.parametrize("fault", COLLECTOR_FAULTS)
def test_collector_finds_options_that_do_not_exist(fault: str) -> None:
    """A misspelt option or a value of the wrong type is reported at any depth."""
    spoil, words = COLLECTOR_FAULTS[fault]
    config = copy.deepcopy(COLLECTOR)
    assert list(collector.check_config(config)) == []
    spoil(config)
    assert any(words in p for p in collector.check_config(config))


TEMPO = yaml.safe_load((K8S / "base/tempo/config/tempo.yaml").read_text())
TEMPO_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "nested key": (
        lambda c: c["storage"]["trace"]["local"].update(paht="/x"),
        "'paht' was unexpected",
    ),
    "deeply nested key": (
        lambda c: c["backend_worker"]["compaction"].update(block_retentoin="1h"),
        "'block_retentoin' was unexpected",
    ),
    "log format": (lambda c: c["server"].update(log_format="jsonl"), "is not one of"),
    "retention": (lambda c: c.pop("backend_worker"), "its default of 336h"),
}


@pytest.mark.parametrize("fault", TEMPO_FAULTS)
def test_tempo_finds_keys_that_do_not_exist(fault: str) -> None:
    """A misspelt nested key is reported, and so is a retention that the worker does not know."""
    spoil, words = TEMPO_FAULTS[fault]
    config = copy.deepcopy(TEMPO)
    assert list(collector.check_tempo_config(config)) == []
    spoil(config)
    assert any(words in p for p in collector.check_tempo_config(config))


def test_image_build_finds_a_source_that_does_not_exist(tmp_path: Path) -> None:
    """A COPY of a file that is missing or that .dockerignore keeps out is reported."""
    assert image_build.check() == []
    (tmp_path / "data").mkdir()
    (tmp_path / "lab").mkdir()
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM x AS build\nCOPY data lab/ \\\n  /opt/\nCOPY --from=build /a /b\n")
    assert image_build.check(dockerfile, tmp_path) == []

    (tmp_path / ".dockerignore").write_text("*\n!data\n")
    assert image_build.check(dockerfile, tmp_path) == [
        "Dockerfile copies lab/, which .dockerignore keeps out"
    ]
    dockerfile.write_text("COPY assets /opt/\n")
    assert "does not exist" in image_build.check(dockerfile, tmp_path)[0]


@pytest.mark.slow
@pytest.mark.model
def test_vllm_arguments_finds_what_its_own_parser_rejects(overlay: Callable) -> None:
    """A flag that does not exist, and a context that is longer than the model's."""
    if not TOOLS_FILE.exists():
        pytest.skip("vLLM is not installed: make setup")
    faulty = overlay("minikube-cpu")
    arguments = Plant(faulty).container("vllm")["args"]
    arguments[arguments.index("--max-model-len") + 1] = "8192"
    arguments.append("--enable-turbo")
    # In one call with the manifests that are right, since each call imports vLLM.
    right = [document for name in OVERLAYS for document in overlay(name)]
    assert vllm_arguments.check([*right, *faulty]) == [
        "Deployment llm-lab/vllm: unrecognized arguments: --enable-turbo",
        "Deployment llm-lab/vllm: a context of 8192 tokens, but the model has 4096",
    ]


def test_promtool_reads_the_configuration_that_the_monitors_lead_to(overlay: Callable) -> None:
    """A relabelling action that does not exist is found before the monitor is applied."""
    for documents in map(overlay, OVERLAYS):
        if any(d["kind"] == "Prometheus" for d in documents):
            assert rules.check_scrape_configuration(documents) == []

    documents = overlay("minikube-cpu")
    endpoint = Plant(documents).find_object("PodMonitor", "vllm")["spec"]["podMetricsEndpoints"][0]
    endpoint["relabelings"] = [{"action": "replce", "targetLabel": "job", "replacement": "vllm"}]
    assert any("replce" in line for line in rules.check_scrape_configuration(documents))
