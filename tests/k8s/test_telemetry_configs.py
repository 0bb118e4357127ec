"""The checks find faults in the configurations of the collector and of Tempo."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.k8s.checks import collector
from tests.k8s.checks.render import K8S

GATEWAY = yaml.safe_load((K8S / "base/otel-collector/config/gateway.yaml").read_text())
TIERED = yaml.safe_load((K8S / "components/collector-two-tier/config/gateway.yaml").read_text())


def _pipeline(config: dict[str, Any], name: str = "traces") -> dict[str, Any]:
    return config["service"]["pipelines"][name]


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "batch first": (lambda c: _pipeline(c)["processors"].reverse(), "memory_limiter is not first"),
    "batch in the middle": (
        lambda c: _pipeline(c).update(processors=["memory_limiter", "batch", "k8s_attributes"]),
        "batch is not last",
    ),
    "no such exporter": (
        lambda c: _pipeline(c)["exporters"].append("otlp_grpc/temp"),
        "is not defined",
    ),
    "never used": (lambda c: c["exporters"].update({"otlp_http/old": {}}), "defined and not used"),
    "old name": (lambda c: c["connectors"].update(spanmetrics={}), "is called span_metrics now"),
    "no such component": (
        lambda c: c["processors"].update(tail_smapling={}),
        "is not a known processor",
    ),
    "one-sided connector": (
        lambda c: _pipeline(c)["exporters"].remove("span_metrics"),
        "does not join two pipelines",
    ),
    "no such extension": (
        lambda c: c["service"]["extensions"].append("pprof"),
        "pprof is not defined",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_collector_finds(fault: str) -> None:
    """A pipeline that the collector would reject, or that would lose spans, is reported."""
    spoil, words = FAULTS[fault]
    config = copy.deepcopy(GATEWAY)
    spoil(config)
    assert any(words in p for p in collector.check_config(config))


def test_collector_finds_metrics_computed_from_sampled_spans() -> None:
    """Span metrics computed after tail sampling, where few spans are left, are reported."""
    config = copy.deepcopy(TIERED)
    _pipeline(config)["exporters"].remove("span_metrics")
    _pipeline(config, "traces/sampled")["exporters"].append("span_metrics")
    assert any("samples before" in p for p in collector.check_config(config))


def test_collector_finds_a_port_that_the_pod_does_not_open(
    overlay: Callable, find_object: Callable
) -> None:
    """A port that the collector listens on but its container does not declare is reported."""
    documents = overlay("minikube-cpu")
    config = find_object(documents, "ConfigMap", "otel-collector-config")
    config["data"]["gateway.yaml"] = config["data"]["gateway.yaml"].replace(
        "0.0.0.0:8889", "0.0.0.0:9999"
    )
    assert any("9999" in p for p in collector.check(documents))


def test_collector_finds_a_missing_variable(overlay: Callable, find_object: Callable) -> None:
    """An unset `${env:X}`, which is an empty string at run time, is reported."""
    documents = overlay("minikube-cpu")
    config = find_object(documents, "ConfigMap", "otel-collector-config")
    config["data"]["gateway.yaml"] = config["data"]["gateway.yaml"].replace(
        "tempo.llm-lab-obs.svc:4317", "${env:TEMPO_ADDRESS}"
    )
    assert any("TEMPO_ADDRESS" in p for p in collector.check(documents))


def test_later_config_files_merge_as_the_collector_does() -> None:
    """Maps are merged deeply and lists are replaced."""
    merged = collector._merge({"a": {"b": [1], "c": 1}}, {"a": {"b": [2], "d": 2}})
    assert merged == {"a": {"b": [2], "c": 1, "d": 2}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ingester": {}}, "ingester is gone in 3.0"),
        ({"compactor": {}}, "compactor is gone in 3.0"),
        ({"storrage": {}}, "'storrage' was unexpected"),
        ({"metrics_generator": {"traces_storage": {}}}, "traces_storage is gone"),
        ({"metrics_generator": {"storage": {}}}, "written nowhere"),
        (
            {"metrics_generator": {"storage": {"remote_write": [{"url": "x"}]}}},
            "sends no exemplars",
        ),
        (
            {"overrides": {"defaults": {"metrics_generator": {"processors": ["local-blocks"]}}}},
            "local-blocks is gone",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_tempo_finds(change: dict[str, Any], words: str) -> None:
    """A key of Tempo 2.x, a misspelt key and a generator whose output is lost are reported."""
    config = yaml.safe_load((K8S / "base/tempo/config/tempo.yaml").read_text()) | change
    assert any(words in p for p in collector.check_tempo_config(config))


def test_tempo_finds_a_receiver_on_loopback(overlay: Callable, find_object: Callable) -> None:
    """A receiver that listens on loopback only, and so accepts no span, is reported."""
    documents = overlay("minikube-cpu")
    config = find_object(documents, "ConfigMap", "tempo-config")
    config["data"]["tempo.yaml"] = config["data"]["tempo.yaml"].replace(
        "0.0.0.0:4317", "127.0.0.1:4317"
    )
    assert any("cannot be reached" in p for p in collector.check(documents))
