"""Prometheus as the operator would run it, from the monitors and the custom resource."""

from typing import Any

import yaml

from lab.doctor.kubernetes import MONITORS, selects
from tests.smoke_podman.pods import Document, Pod


def configuration(documents: list[Document], pods: list[Pod]) -> tuple[str, list[str]]:
    """Return (prometheus.yml, the monitors whose pods are left out)."""
    jobs = []
    left_out = []
    for monitor in (d for d in documents if d["kind"] in MONITORS):
        for index, endpoint in enumerate(monitor["spec"][MONITORS[monitor["kind"]]]):
            targets = _targets(monitor, endpoint["port"], documents, pods)
            if targets:
                jobs.append(_job(monitor, index, endpoint, targets))
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
    rule_file = config_map(documents, "prometheus-lab-rules", "llm-lab.yaml", rules(documents))
    return [rule_file, stateful_set]


def config_map(documents: list[Document], name: str, key: str, text: str) -> Document:
    """Return a ConfigMap of one file in the namespace of our Prometheus."""
    meta = {"name": name, "namespace": _prometheus(documents)["metadata"]["namespace"]}
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
    selector = monitor["spec"]["selector"]
    here = [p for p in pods if p.namespace == namespace]
    if monitor["kind"] == "PodMonitor":
        return [(p, p.ports[port]) for p in here if selects(selector, p.labels) and port in p.ports]

    pairs = []
    for service in (d for d in documents if d["kind"] == "Service"):
        meta = service["metadata"]
        if meta["namespace"] == namespace and selects(selector, meta.get("labels", {})):
            numbers = {p["port"] for p in service["spec"]["ports"] if p.get("name") == port}
            chosen = {"matchLabels": service["spec"].get("selector")}
            pairs += [(p, n) for p in here if selects(chosen, p.labels) for n in numbers]
    return pairs
