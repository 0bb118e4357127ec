"""Faults of Kubernetes manifests, and the queries that manifests and dashboards contain."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import yaml

from lab.doctor.findings import Finding
from lab.doctor.kubernetes import (
    MONITORS,
    PROMETHEUS_SELECTS,
    Document,
    Selectable,
    flattened,
    name_of,
    namespace_of,
    nested,
    of_kinds,
    pods_in,
    selects,
    services_in,
)
from lab.doctor.queries import Query
from lab.doctor.secrets import check_secrets, strings_of
from lab.durations import parse_duration_s
from lab.engines import PARTS, engines
from lab.errors import LabError

Fault = tuple[str, str]  # (check, evidence)
WITH_SECRETS = (*MONITORS, "ScaledObject", "ScaledJob", "TriggerAuthentication", "")
# Prometheus, its probes, Envoy and Spring Boot have other paths than /metrics.
NOT_METRICS_PATHS = ("/federate", "/probe", "/stats/prometheus", "/actuator/prometheus")
NEEDED_LABELS = ("le", "engine", "model_name", "finished_reason")
SCALER_TYPES = ("AverageValue", "Value")
PROMETHEUS_SOURCES = ("", "prometheus", "grafana", "mixed")
_METRIC_QUERY = re.compile(r"^\s*(label_values|query_result)\((.*)\)\s*$", re.DOTALL)


def check_manifests(documents: Sequence[Document], target: str) -> list[Finding]:
    """Return the faults of the monitors, scalers and secrets among manifests."""
    documents = _with_common_labels(documents)
    findings: list[Finding] = []
    for document in documents:
        faults = [fault for trigger in triggers_of(document) for fault in _trigger(trigger)]
        if of_kinds([document], *MONITORS):
            faults += _monitor(document, documents)
        for check, evidence in faults:
            findings.append(Finding(check, target, name_of(document), evidence))
        if of_kinds([document], *WITH_SECRETS):
            findings += check_secrets(strings_of(document), target)
    return findings


def _with_common_labels(documents: Sequence[Document]) -> list[Document]:
    """Return the documents with the labels that a kustomization among them adds."""
    common: dict[str, str] = {}
    for each in of_kinds(documents, "Kustomization", "Component"):
        common |= nested(each, "commonLabels")
        for entry in nested(each, "labels"):
            common |= nested(entry, "pairs")
    if not common:
        return list(documents)
    result = []
    for each in documents:
        metadata = nested(each, "metadata")
        labels = {**common, **nested(metadata, "labels")}
        result.append({**each, "metadata": {**metadata, "labels": labels}})
    return result


# Queries.


def queries_in(document: Document, target: str) -> list[Query]:
    """Return the queries of a document: a dashboard, rules, a KEDA trigger, or what holds them."""
    embedded = _embedded(document)
    if embedded is not None:
        return [query for inner in embedded for query in queries_in(inner, target)]
    where = name_of(document)
    scalers = [nested(trigger, "metadata") for trigger in triggers_of(document)]
    return [
        *(_rule(rule, target) for rule in _rules(document)),
        *(
            Query(target, where, str(each["query"]), "scaler", "", _threshold(each))
            for each in scalers
            if each.get("query")
        ),
        *_panels(document, target),
    ]


def _embedded(document: Document) -> list[Document] | None:
    """Return the documents in the texts of a document; None for a kind that has none."""
    if document.get("kind") == "ConfigMap":
        return flattened([_yaml(text) for text in nested(document, "data").values()])
    text = nested(document, "spec", "json")
    if document.get("kind") == "GrafanaDashboard" and isinstance(text, str):
        return [json.loads(text)]
    return None


def _yaml(text: Any) -> Any:
    try:
        return yaml.safe_load(str(text))
    except yaml.YAMLError:
        return None


def _rules(document: Document) -> list[Document]:
    groups = document.get("groups") or nested(document, "spec", "groups")
    if not isinstance(groups, list):
        return []
    return [rule for group in groups for rule in nested(group, "rules") if "expr" in rule]


def _rule(rule: Document, target: str) -> Query:
    name = str(rule.get("alert") or rule.get("record") or "rule")
    return Query(target, name, str(rule["expr"]), "alert" if "alert" in rule else "record")


def _panels(node: Any, target: str, title: str = "", unit: str = "") -> Iterator[Query]:
    """Yield the PromQL of a dashboard's panels and variables, at any depth."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, dict) or _is_other_store(node):
        return

    title = str(node.get("title") or nested(node, "display", "name") or title)
    if isinstance(node.get("fieldConfig"), dict):
        unit = str(nested(node, "fieldConfig", "defaults", "unit") or "")
    yield from _queries_of(node, target, title, unit)
    for key, value in node.items():
        if key not in ("groups", "metadata"):
            yield from _panels(value, target, title, unit)


def _queries_of(node: Document, target: str, title: str, unit: str) -> Iterator[Query]:
    if expr := _expression(node):
        yield Query(target, title, expr, "panel", unit)
    if selector := _selector(node.get("query")) or _selector(node.get("definition")):
        where = f"variable {node.get('name', '')}"
        yield Query(target, where, f"count({selector})", "variable")


def _expression(node: Document) -> str:
    """Return the expression of a panel's target, '' for anything else; rules are read apart.

    Targets are those of Grafana, Google's Cloud Monitoring and Perses.
    """
    expr = node.get("expr") or node.get("prometheusQuery")
    if node.get("kind") == "PrometheusTimeSeriesQuery":
        expr = nested(node, "spec", "query")
    is_rule = "alert" in node or "record" in node
    return expr if isinstance(expr, str) and expr.strip() and not is_rule else ""


def _is_other_store(node: Document) -> bool:
    source = node.get("datasource")
    kind = source.get("type") if isinstance(source, dict) else ""
    return "expr" in node and (kind or "") not in PROMETHEUS_SOURCES


def _selector(query: Any) -> str:
    """Return the selector of label_values(SELECTOR, LABEL), '' of label_values(LABEL)."""
    match = _METRIC_QUERY.match(query) if isinstance(query, str) else None
    if match is None:
        return ""
    return match[2] if match[1] == "query_result" else match[2].rpartition(",")[0]


# Scalers.


def triggers_of(document: Document) -> list[Document]:
    """Return the Prometheus triggers of a ScaledObject, or of a trigger alone."""
    triggers = nested(document, "spec", "triggers") or document.get("triggers") or []
    if "metadata" in document:
        triggers = [document, *triggers]
    return [each for each in triggers if each.get("type") == "prometheus"]


def _threshold(values: Document) -> float | None:
    try:
        return float(values["threshold"])
    except (KeyError, TypeError, ValueError):
        return None


def _trigger(trigger: Document) -> Iterator[Fault]:
    values = nested(trigger, "metadata")
    missing = [name for name in ("serverAddress", "query", "threshold") if not values.get(name)]
    if missing:
        yield "scaler-incomplete", f"the trigger has no {', '.join(missing)}"
    elif _threshold(values) is None:
        yield "scaler-incomplete", f"threshold {values['threshold']!r} is not a number"
    kind = trigger.get("metricType")
    if kind and kind not in SCALER_TYPES:
        yield "scaler-incomplete", f"metricType {kind!r} is not possible with Prometheus"


# Monitors.


def _monitor(monitor: Document, documents: Sequence[Document]) -> Iterator[Fault]:
    field = MONITORS[monitor["kind"]]
    endpoints = nested(monitor, "spec", field)
    if not isinstance(nested(monitor, "spec").get("selector"), dict):
        yield "monitor-invalid", "spec.selector is missing"
    if not endpoints:
        yield "monitor-invalid", f"spec.{field} is missing or empty"
        return
    for endpoint in endpoints:
        yield from _endpoint(endpoint)
        for rule in nested(endpoint, "metricRelabelings"):
            yield from _relabelling(rule)
    yield from _unselected(monitor, documents)
    yield from _selection(monitor, documents)


def _endpoint(endpoint: Document) -> Iterator[Fault]:
    port = endpoint.get("port")
    if all(endpoint.get(name) is None for name in ("port", "targetPort", "portNumber")):
        yield "monitor-invalid", "an endpoint names no port"
    elif port is not None and not _is_name(port):
        yield "monitor-invalid", f"port is {port!r}: it must be the name of a port"

    path = str(endpoint.get("path", "/metrics"))
    if not path.endswith("metrics") and path not in NOT_METRICS_PATHS:
        yield "monitor-path", f"path is {path}"

    interval = endpoint.get("interval")
    timeout = endpoint.get("scrapeTimeout")
    if interval and timeout and _seconds(timeout) > _seconds(interval):
        yield "monitor-invalid", f"scrapeTimeout {timeout} > {interval}"


def _is_name(port: Any) -> bool:
    return isinstance(port, str) and not port.isdigit()


def _seconds(text: str) -> float:
    try:
        return parse_duration_s(str(text))
    except LabError:
        return 0.0


def _relabelling(rule: Document) -> Iterator[Fault]:
    """Yield a rule that loses needed labels, or metrics of a model server."""
    action = str(rule.get("action", "replace")).lower()
    pattern = str(rule.get("regex", "(.*)"))
    try:
        regex = re.compile(pattern)
    except re.error as e:
        yield "monitor-invalid", f"regex {pattern!r}: {e}"
        return

    def stays(name: str) -> bool:
        return (regex.fullmatch(name) is None) == action.endswith("drop")

    if action in ("labeldrop", "labelkeep"):
        lost = [label for label in NEEDED_LABELS if not stays(label)]
        if lost:
            yield "monitor-drops", f"{action} {pattern!r} removes the label {', '.join(lost)}"
    elif action in ("drop", "keep") and rule.get("sourceLabels") == ["__name__"]:
        yield from _lost_metrics(action, pattern, stays)


def _lost_metrics(action: str, pattern: str, stays: Callable[[str], bool]) -> Iterator[Fault]:
    for engine in engines().values():
        names = [f"{engine.mark}:{each[0]}" for each in engine.names.values()]
        kept = (stays(name + part) for name in names for part in ("", *PARTS))
        if engine.mark in pattern and not any(kept):
            yield "monitor-drops", f"{action} {pattern!r} leaves no metric {engine.mark}:..."
    first_token = "vllm:time_to_first_token_seconds"
    if action == "drop" and not (stays(f"{first_token}_bucket") and stays(f"{first_token}_count")):
        yield "monitor-drops", f"drop {pattern!r} removes parts of histograms"


def _unselected(monitor: Document, documents: Sequence[Document]) -> Iterator[Fault]:
    """Yield a monitor that no Prometheus among the manifests selects."""
    field = f"{PROMETHEUS_SELECTS[monitor['kind']]}Selector"
    labels = nested(monitor, "metadata", "labels")
    servers = of_kinds(documents, "Prometheus")
    selectors = [nested(each, "spec").get(field) for each in servers]
    if servers and not any(selects(selector, labels) for selector in selectors):
        yield "monitor-unselected", f"{field} {selectors[0]} does not fit its labels {labels}"


def _selection(monitor: Document, documents: Sequence[Document]) -> Iterator[Fault]:
    """Yield why a monitor finds nothing among the manifests that are there."""
    is_service = monitor["kind"] == "ServiceMonitor"
    what = "Service" if is_service else "pod"
    selector = nested(monitor, "spec", "selector")
    everything = services_in(documents) if is_service else pods_in(documents)
    candidates = [each for each in everything if _is_in_scope(each, monitor)]
    if not candidates:
        yield from _elsewhere(monitor, everything, what)
        return
    chosen = [each for each in candidates if selects(selector, each.labels)]
    if not chosen:
        yield (
            "monitor-empty",
            f"selector {selector} fits no {what} (labels: {_labels(candidates)})",
        )
        return

    for endpoint in nested(monitor, "spec", MONITORS[monitor["kind"]]):
        yield from _missing_port(endpoint, chosen, what)
    for service in chosen if is_service else []:
        yield from _behind(service, pods_in(documents))


def _missing_port(endpoint: Document, chosen: Sequence[Selectable], what: str) -> Iterator[Fault]:
    port = endpoint.get("port")
    ports = sorted({name for each in chosen for name in each.ports})
    if _is_name(port) and port not in ports:
        yield "monitor-port", f"no port {port!r}: the {what} has {', '.join(ports) or 'none'}"


def _labels(objects: Sequence[Selectable]) -> str:
    return "; ".join(str(dict(each.labels)) for each in objects[:3])


def _is_in_scope(each: Selectable, monitor: Document) -> bool:
    """Return whether a monitor looks into an object's namespace, as far as both are given."""
    selected = nested(monitor, "spec", "namespaceSelector")
    namespaces = selected.get("matchNames") or [namespace_of(monitor)]
    unknown = selected.get("any") or not each.namespace or not any(namespaces)
    return bool(unknown) or each.namespace in namespaces


def _share_namespace(one: Selectable, other: Selectable) -> bool:
    return "" in (one.namespace, other.namespace) or one.namespace == other.namespace


def _elsewhere(monitor: Document, objects: Sequence[Selectable], what: str) -> Iterator[Fault]:
    """Yield a monitor whose objects are in other namespaces than its own, the only one it reads."""
    own = namespace_of(monitor)
    spec = nested(monitor, "spec")
    namespaces = sorted({each.namespace for each in objects})
    if spec.get("namespaceSelector") is not None or not own or not all(namespaces):
        return
    if any(selects(nested(spec, "selector"), each.labels) for each in objects):
        text = f"the monitor selects in {own} only; the {what}s are in {', '.join(namespaces)}"
        yield "monitor-empty", text


def _behind(service: Selectable, pods: Sequence[Selectable]) -> Iterator[Fault]:
    """Yield a Service that finds no pod, or names a port that its pods lack.

    The pods of an operator's Prometheus are in no manifest.
    """
    labels = nested(service.document, "spec", "selector")
    near = [pod for pod in pods if _share_namespace(pod, service)]
    if not near or not labels or any("prometheus" in name for name in labels):
        return
    name = name_of(service.document)
    chosen = [pod for pod in near if selects({"matchLabels": labels}, pod.labels)]
    if not chosen:
        yield "monitor-empty", f"{name} selects no pod (labels: {_labels(near)})"
    for port in nested(service.document, "spec", "ports") if chosen else []:
        yield from _missing_target(port, chosen, name)


def _missing_target(port: Document, pods: Sequence[Selectable], name: str) -> Iterator[Fault]:
    target = port.get("targetPort")
    if _is_name(target) and not any(target in pod.ports for pod in pods):
        yield "monitor-port", f"{name}: no container has a port {target!r}"
