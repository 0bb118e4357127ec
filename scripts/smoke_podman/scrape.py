"""Prometheus as the operator would run it, from the monitors and the custom resource."""

from collections.abc import Iterator
from typing import Any

import yaml

from scripts.smoke_podman.pods import Document, Pod

ROLE = {"PodMonitor": "podMetricsEndpoints", "ServiceMonitor": "endpoints"}


def configuration(documents: list[Document], pods: list[Pod]) -> tuple[str, list[str]]:
    """Return (prometheus.yml, jobs of monitors whose pods are left out)."""
    jobs = []
    left_out = []
    for monitor in (d for d in documents if d["kind"] in ROLE):
        for index, endpoint in enumerate(monitor["spec"][ROLE[monitor["kind"]]]):
            targets = _targets(monitor, endpoint["port"], documents, pods)
            job = _job(monitor, index, endpoint, targets)
            if targets:
                jobs.append(job)
            else:
                left_out.append(monitor["metadata"]["name"])
    spec = _prometheus(documents)["spec"]
    document = {
        "global": {
            "scrape_interval": spec["scrapeInterval"],
            "scrape_timeout": spec["scrapeTimeout"],
            "evaluation_interval": spec["evaluationInterval"],
        },
        "storage": {"exemplars": {"max_exemplars": spec["exemplars"]["maxSize"]}},
        "rule_files": ["/etc/prometheus/rules/*.yaml"],
        "scrape_configs": jobs,
    }
    return yaml.safe_dump(document, sort_keys=False), left_out


def rules(documents: list[Document]) -> str:
    """Return the rule file that the operator makes of every PrometheusRule."""
    groups = [g for d in documents if d["kind"] == "PrometheusRule" for g in d["spec"]["groups"]]
    return yaml.safe_dump({"groups": groups}, sort_keys=False)


def deployment(documents: list[Document], image: str) -> list[Document]:
    """Return the operator's StatefulSet for our Prometheus and the ConfigMap of its rules."""
    resource = _prometheus(documents)
    spec = resource["spec"]
    meta = resource["metadata"]
    rule_file = _config_map(
        "prometheus-lab-rules", meta["namespace"], "llm-lab.yaml", rules(documents)
    )
    container = {
        "name": "prometheus",
        "image": image,
        "args": _flags(spec),
        "ports": [{"name": "web", "containerPort": 9090}],
        "startupProbe": {
            "httpGet": {"path": "/-/ready", "port": "web"},
            "periodSeconds": 15,
            "failureThreshold": 60,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/prometheus/config", "readOnly": True},
            {"name": "rules", "mountPath": "/etc/prometheus/rules", "readOnly": True},
            {"name": "data", "mountPath": "/prometheus"},
        ],
    }
    labels = {
        "app.kubernetes.io/name": "prometheus",
        "operator.prometheus.io/name": meta["name"],
        **spec.get("podMetadata", {}).get("labels", {}),
    }
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "securityContext": spec["securityContext"],
            "containers": [container],
            "volumes": [
                {"name": "config", "configMap": {"name": "prometheus-lab"}},
                {"name": "rules", "configMap": {"name": "prometheus-lab-rules"}},
                {"name": "data", "persistentVolumeClaim": {"claimName": "prometheus-lab-db"}},
            ],
        },
    }
    stateful_set = {
        "kind": "StatefulSet",
        "metadata": {"name": f"prometheus-{meta['name']}", "namespace": meta["namespace"]},
        "spec": {"replicas": spec["replicas"], "template": template},
    }
    return [rule_file, stateful_set]


def config_map(documents: list[Document], pods: list[Pod]) -> tuple[Document, list[str]]:
    """Return the ConfigMap with prometheus.yml, and the monitors whose pods are left out."""
    text, left_out = configuration(documents, pods)
    namespace = _prometheus(documents)["metadata"]["namespace"]
    return _config_map("prometheus-lab", namespace, "prometheus.yml", text), left_out


def _config_map(name: str, namespace: str, key: str, text: str) -> Document:
    meta = {"name": name, "namespace": namespace}
    return {"kind": "ConfigMap", "metadata": meta, "data": {key: text}}


def _flags(spec: dict[str, Any]) -> list[str]:
    flags = [
        "--config.file=/etc/prometheus/config/prometheus.yml",
        "--storage.tsdb.path=/prometheus",
        f"--storage.tsdb.retention.time={spec['retention']}",
        f"--storage.tsdb.retention.size={spec['retentionSize']}",
        "--web.listen-address=0.0.0.0:9090",
    ]
    if spec.get("enableRemoteWriteReceiver"):
        flags.append("--web.enable-remote-write-receiver")
    if spec.get("enableFeatures"):
        flags.append(f"--enable-feature={','.join(spec['enableFeatures'])}")
    return flags


def _prometheus(documents: list[Document]) -> Document:
    return next(d for d in documents if d["kind"] == "Prometheus")


def _job(
    monitor: Document, index: int, endpoint: dict[str, Any], targets: list[tuple[Pod, int]]
) -> dict[str, Any]:
    """Return the scrape job, with the target labels that the operator's relabelling adds."""
    meta = monitor["metadata"]
    static = [
        {
            "targets": [f"{pod.ip}:{port}"],
            "labels": {
                "namespace": pod.namespace,
                "pod": pod.name,
                "container": pod.spec["containers"][0]["name"],
                "endpoint": endpoint["port"],
            },
        }
        for pod, port in targets
    ]
    kind = "podMonitor" if monitor["kind"] == "PodMonitor" else "serviceMonitor"
    relabelings = [
        {"action": r["action"], "target_label": r["targetLabel"], "replacement": r["replacement"]}
        for r in endpoint.get("relabelings", [])
    ]
    return {
        "job_name": f"{kind}/{meta['namespace']}/{meta['name']}/{index}",
        "honor_labels": endpoint.get("honorLabels", False),
        "metrics_path": endpoint["path"],
        "scheme": endpoint["scheme"],
        "scrape_interval": endpoint["interval"],
        "scrape_timeout": endpoint["scrapeTimeout"],
        "static_configs": static,
        "relabel_configs": relabelings,
    }


def _targets(
    monitor: Document, port: str, documents: list[Document], pods: list[Pod]
) -> list[tuple[Pod, int]]:
    """Return the (pod, port number) pairs that a monitor's endpoint finds."""
    namespace = monitor["metadata"]["namespace"]
    labels = monitor["spec"]["selector"]["matchLabels"]
    here = [p for p in pods if p.namespace == namespace]
    if monitor["kind"] == "PodMonitor":
        pairs = [(p, _named_ports(p).get(port)) for p in _with_labels(here, labels)]
    else:
        pairs = []
        for spec in _service_specs(documents, namespace, labels):
            number = {p.get("name"): p["port"] for p in spec["ports"]}.get(port)
            pairs += [(p, number) for p in _with_labels(here, spec.get("selector", {}))]
    return [(p, number) for p, number in pairs if number]


def _with_labels(pods: list[Pod], labels: dict[str, str]) -> list[Pod]:
    return [pod for pod in pods if labels.items() <= pod.labels.items()]


def _service_specs(
    documents: list[Document], namespace: str, labels: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield the specs of the Services in a namespace that carry these labels."""
    for document in documents:
        meta = document["metadata"]
        is_there = document["kind"] == "Service" and meta["namespace"] == namespace
        if is_there and labels.items() <= meta.get("labels", {}).items():
            yield document["spec"]


def _named_ports(pod: Pod) -> dict[str, int]:
    ports = pod.spec["containers"][0].get("ports", [])
    return {p["name"]: p["containerPort"] for p in ports}
