"""Faults of Kubernetes manifests, and the queries that manifests and dashboards contain."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lab.doctor.findings import Finding
from lab.doctor.queries import Query
from lab.doctor.secrets import secrets_in, strings_of
from lab.durations import parse_duration_s
from lab.engines import engines
from lab.errors import LabError

Document = dict[str, Any]
MONITORS = {"ServiceMonitor": "endpoints", "PodMonitor": "podMetricsEndpoints"}
NOT_METRICS_PATHS = ("/federate", "/probe")
NEEDED_LABELS = ("le", "engine", "model_name", "finished_reason")
SCALER_TYPES = ("AverageValue", "Value")
_METRIC_QUERY = re.compile(r"^\s*(label_values|query_result|metrics)\((.*)\)\s*$", re.DOTALL)


def name_of(document: Document) -> str:
    """Return KIND/NAME of a document."""
    metadata = document.get("metadata") or {}
    return f"{document.get('kind', 'document')}/{metadata.get('name', '')}".rstrip("/")


def flattened(documents: Sequence[Any]) -> list[Document]:
    """Return the documents, those of a List among them."""
    result: list[Document] = []
    for document in documents:
        if isinstance(document, list):
            result += flattened(document)
        elif isinstance(document, dict) and isinstance(document.get("items"), list):
            result += flattened(document["items"])
        elif isinstance(document, dict):
            result.append(document)
    return result


def check_manifests(documents: Sequence[Document], target: str) -> list[Finding]:
    """Return the faults of the monitors, scalers and secrets among manifests."""
    documents = _with_common_labels(documents)
    findings: list[Finding] = []
    for document in documents:
        kind = str(document.get("kind", ""))
        if kind in MONITORS:
            findings += _monitor(document, documents, target)
        for trigger in triggers_of(document):
            findings += _trigger(document, trigger, target)
        if kind in (*MONITORS, "ScaledObject", "ScaledJob", "TriggerAuthentication") or not kind:
            for key, (what, masked, _) in secrets_in(strings_of(document)).items():
                findings.append(Finding("secret", target, key, f"{what}: {masked}"))
    return findings


def _with_common_labels(documents: Sequence[Document]) -> list[Document]:
    """Return the documents with the labels that a kustomization among them adds."""
    common: dict[str, str] = {}
    for each in documents:
        if str(each.get("kind", "")) in ("Kustomization", "Component"):
            common |= each.get("commonLabels") or {}
            for entry in each.get("labels") or []:
                common |= entry.get("pairs") or {}
    if not common:
        return list(documents)
    result = []
    for each in documents:
        metadata = each.get("metadata") or {}
        labels = {**common, **(metadata.get("labels") or {})}
        result.append({**each, "metadata": {**metadata, "labels": labels}})
    return result


# Queries.


def queries_in(document: Document, target: str) -> list[Query]:
    """Return the queries of a document: a dashboard, rules, a KEDA trigger, or what holds them."""
    kind = document.get("kind", "")
    if kind == "ConfigMap":
        return [q for inner in _embedded(document) for q in queries_in(inner, target)]
    if kind == "GrafanaDashboard" and isinstance(document["spec"].get("json"), str):
        return queries_in(json.loads(document["spec"]["json"]), target)
    rules = [
        Query(target, _rule_name(rule), str(rule["expr"]), "alert" if "alert" in rule else "record")
        for rule in _rules(document)
    ]
    scalers = [
        Query(target, name_of(document), str(values["query"]), "scaler", "", _number(values))
        for values in (trigger.get("metadata") or {} for trigger in triggers_of(document))
        if values.get("query")
    ]
    return rules + scalers + list(_panels(document, target))


def _embedded(document: Document) -> Iterator[Document]:
    import yaml

    for text in (document.get("data") or {}).values():
        try:
            content = yaml.safe_load(str(text))
        except yaml.YAMLError:
            continue
        yield from flattened([content])


def _rules(document: Document) -> Iterator[Document]:
    groups = document.get("groups") or (document.get("spec") or {}).get("groups") or []
    for group in groups if isinstance(groups, list) else []:
        for rule in group.get("rules") or []:
            if "expr" in rule:
                yield rule


def _rule_name(rule: Document) -> str:
    return str(rule.get("alert") or rule.get("record") or "rule")


def _panels(node: Any, target: str, title: str = "", unit: str = "") -> Iterator[Query]:
    """Yield the PromQL of a dashboard's panels and variables, at any depth."""
    if isinstance(node, list):
        for value in node:
            yield from _panels(value, target, title, unit)
        return
    if not isinstance(node, dict) or _is_other_store(node):
        return
    title = str(node.get("title") or title)
    config = node.get("fieldConfig")
    if isinstance(config, dict):
        unit = str((config.get("defaults") or {}).get("unit") or "")
    expr = node.get("expr")
    is_rule = "alert" in node or "record" in node
    if isinstance(expr, str) and expr.strip() and not is_rule:
        yield Query(target, title, expr, "panel", unit)
    for query in (node.get("query"), node.get("definition")):
        match = _METRIC_QUERY.match(query) if isinstance(query, str) else None
        if match and match[1] != "metrics" and (selector := _selector(match[1], match[2])):
            yield Query(
                target, f"variable {node.get('name', '')}", f"count({selector})", "variable"
            )
            break
    for key, value in node.items():
        if key not in ("groups", "metadata") and isinstance(value, dict | list):
            yield from _panels(value, target, title, unit)


def _is_other_store(node: Document) -> bool:
    source = node.get("datasource")
    kind = source.get("type") if isinstance(source, dict) else ""
    return bool(kind) and "expr" in node and kind not in ("prometheus", "grafana", "mixed")


def _selector(function: str, arguments: str) -> str:
    """Return the selector of label_values(SELECTOR, LABEL), '' of label_values(LABEL)."""
    if function == "query_result":
        return arguments
    selector, comma, _ = arguments.rpartition(",")
    return selector if comma else ""


# Scalers.


def triggers_of(document: Document) -> list[Document]:
    """Return the Prometheus triggers of a ScaledObject, or of a trigger alone."""
    triggers = (document.get("spec") or {}).get("triggers") or document.get("triggers") or []
    if document.get("type") == "prometheus" and "metadata" in document:
        triggers = [document]
    return [each for each in triggers if each.get("type") == "prometheus"]


def _number(values: Document) -> float | None:
    try:
        return float(values["threshold"])
    except (KeyError, TypeError, ValueError):
        return None


def _trigger(document: Document, trigger: Document, target: str) -> Iterator[Finding]:
    values = trigger.get("metadata") or {}
    missing = [name for name in ("serverAddress", "query", "threshold") if not values.get(name)]
    if missing:
        evidence = f"the trigger has no {', '.join(missing)}"
        yield Finding("scaler-incomplete", target, name_of(document), evidence)
    elif _number(values) is None:
        evidence = f"threshold {values['threshold']!r} is not a number"
        yield Finding("scaler-incomplete", target, name_of(document), evidence)
    kind = trigger.get("metricType")
    if kind and kind not in SCALER_TYPES:
        evidence = f"metricType {kind!r} is not possible with Prometheus"
        yield Finding("scaler-incomplete", target, name_of(document), evidence)


# Monitors.


def _monitor(monitor: Document, documents: Sequence[Document], target: str) -> Iterator[Finding]:
    def found(check: str, evidence: str) -> Finding:
        return Finding(check, target, name_of(monitor), evidence)

    spec = monitor.get("spec") or {}
    endpoints_key = MONITORS[monitor["kind"]]
    endpoints = spec.get(endpoints_key)
    if not isinstance(spec.get("selector"), dict):
        yield found("monitor-invalid", "spec.selector is missing")
    if not endpoints:
        yield found("monitor-invalid", f"spec.{endpoints_key} is missing or empty")
        return
    for endpoint in endpoints:
        for check, evidence in _endpoint(endpoint):
            yield found(check, evidence)
    for check, evidence in _selection(monitor, documents):
        yield found(check, evidence)


def _endpoint(endpoint: Document) -> Iterator[tuple[str, str]]:
    port = endpoint.get("port")
    if port is None and endpoint.get("targetPort") is None and endpoint.get("portNumber") is None:
        yield "monitor-invalid", "an endpoint names no port"
    elif port is not None and (not isinstance(port, str) or port.isdigit()):
        yield "monitor-invalid", f"port is {port!r}: it must be the name of a port"
    path = str(endpoint.get("path", "/metrics"))
    if not path.endswith("metrics") and path not in NOT_METRICS_PATHS:
        yield "monitor-path", f"path is {path}"
    times = {name: endpoint.get(name) for name in ("interval", "scrapeTimeout")}
    seconds = {name: _seconds(text) for name, text in times.items() if text}
    if len(seconds) == 2 and seconds["scrapeTimeout"] > seconds["interval"]:
        yield "monitor-invalid", f"scrapeTimeout {times['scrapeTimeout']} > {times['interval']}"
    for rule in endpoint.get("metricRelabelings") or []:
        yield from _relabelling(rule)


def _seconds(text: str) -> float:
    try:
        return parse_duration_s(str(text))
    except LabError:
        return 0.0


def _relabelling(rule: Document) -> Iterator[tuple[str, str]]:
    """Yield a rule that loses needed labels, or metrics of a model server."""
    action = str(rule.get("action", "replace")).lower()
    pattern = str(rule.get("regex", "(.*)"))
    try:
        regex = re.compile(pattern)
    except re.error as e:
        yield "monitor-invalid", f"regex {pattern!r}: {e}"
        return
    if action in ("labeldrop", "labelkeep"):
        lost = [
            label
            for label in NEEDED_LABELS
            if (regex.fullmatch(label) is not None) == (action == "labeldrop")
        ]
        if lost:
            yield "monitor-drops", f"{action} {pattern!r} removes the label {', '.join(lost)}"
    if action not in ("drop", "keep") or rule.get("sourceLabels") != ["__name__"]:
        return
    for engine in engines().values():
        if engine.mark not in pattern:
            continue
        names = [f"{engine.mark}:{each[0]}" for each in engine.names.values()]
        kept = [name for name in names if (regex.fullmatch(name) is None) == (action == "drop")]
        parts = ("_bucket", "_sum", "_count")
        kept += [
            n for n in names for p in parts if (not regex.fullmatch(n + p)) == (action == "drop")
        ]
        if not kept:
            yield "monitor-drops", f"{action} {pattern!r} leaves no metric {engine.mark}:..."
    if action == "drop" and any(
        regex.fullmatch(f"vllm:time_to_first_token_seconds{part}") for part in ("_bucket", "_count")
    ):
        yield "monitor-drops", f"drop {pattern!r} removes parts of histograms"


def _selection(monitor: Document, documents: Sequence[Document]) -> Iterator[tuple[str, str]]:
    """Yield why a monitor finds nothing among the manifests that are there."""
    spec = monitor["spec"]
    selector = spec.get("selector") or {}
    is_service = monitor["kind"] == "ServiceMonitor"
    everything = _services(documents) if is_service else _pods(documents)
    candidates = [each for each in everything if _is_in_scope(each, monitor)]
    what = "Service" if is_service else "pod"
    yield from _prometheus_reads(monitor, documents)
    if not candidates:
        if everything and spec.get("namespaceSelector") is None:
            namespaces = sorted({each[0] for each in everything})
            own = _namespace(monitor)
            if own and all(namespaces) and _any_matches(selector, everything):
                text = (
                    f"the monitor selects in {own} only; the {what}s are in {', '.join(namespaces)}"
                )
                yield "monitor-empty", text
        return
    chosen = [each for each in candidates if _matches(selector, each[1])]
    if not chosen:
        labels = "; ".join(str(dict(each[1])) for each in candidates[:3])
        yield "monitor-empty", f"selector {selector} fits no {what} (labels: {labels})"
        return
    for endpoint in spec.get(MONITORS[monitor["kind"]]) or []:
        port = endpoint.get("port")
        ports = sorted({name for each in chosen for name in each[2]})
        if isinstance(port, str) and not port.isdigit() and port not in ports:
            yield "monitor-port", f"no port {port!r}: the {what} has {', '.join(ports) or 'none'}"
    if is_service:
        yield from _behind(chosen, documents)


Object = tuple[str, Mapping[str, str], tuple[str, ...], Document]


def _namespace(document: Document) -> str:
    return str((document.get("metadata") or {}).get("namespace") or "")


def _services(documents: Sequence[Document]) -> list[Object]:
    return [
        (
            _namespace(each),
            (each.get("metadata") or {}).get("labels") or {},
            tuple(str(p.get("name", "")) for p in (each.get("spec") or {}).get("ports") or []),
            each,
        )
        for each in documents
        if each.get("kind") == "Service"
    ]


def _pods(documents: Sequence[Document]) -> list[Object]:
    """Return the pods of every document that has a template of one, or is one."""
    pods = []
    for each in documents:
        template = each if each.get("kind") == "Pod" else _template(each.get("spec"))
        if template is None:
            continue
        spec = template.get("spec") or {}
        containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
        ports = [str(p.get("name", "")) for c in containers for p in c.get("ports") or []]
        labels = (template.get("metadata") or {}).get("labels") or {}
        pods.append((_namespace(each), labels, tuple(ports), template))
    return pods


def _template(spec: Any) -> Document | None:
    if not isinstance(spec, dict):
        return None
    template = spec.get("template")
    if isinstance(template, dict) and "containers" in (template.get("spec") or {}):
        return template
    for value in spec.values():
        if isinstance(value, dict) and (inner := _template(value)):
            return inner
    return None


def _is_in_scope(each: Object, monitor: Document) -> bool:
    """Return whether a monitor looks into an object's namespace, as far as both are given."""
    selected = (monitor.get("spec") or {}).get("namespaceSelector") or {}
    if selected.get("any"):
        return True
    namespaces = selected.get("matchNames") or [_namespace(monitor)]
    return not each[0] or not any(namespaces) or each[0] in namespaces


def _any_matches(selector: Document, objects: Sequence[Object]) -> bool:
    return any(_matches(selector, each[1]) for each in objects)


def _matches(selector: Document, labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels") or {}
    if any(str(labels.get(name)) != str(value) for name, value in wanted.items()):
        return False
    for rule in selector.get("matchExpressions") or []:
        value = labels.get(rule.get("key"))
        fits = {
            "In": value in (rule.get("values") or []),
            "NotIn": value not in (rule.get("values") or []),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not fits.get(str(rule.get("operator")), True):
            return False
    return True


def _behind(services: Sequence[Object], documents: Sequence[Document]) -> Iterator[tuple[str, str]]:
    """Yield Services that find no pod, or name a port that their pods lack.

    The pods of an operator's Prometheus are in no manifest.
    """
    pods = _pods(documents)
    for namespace, _, _, service in services:
        spec = service.get("spec") or {}
        selector = {"matchLabels": spec.get("selector") or {}}
        near = [pod for pod in pods if not namespace or not pod[0] or pod[0] == namespace]
        operated = any("prometheus" in name for name in selector["matchLabels"])
        if not near or not selector["matchLabels"] or operated:
            continue
        chosen = [pod for pod in near if _matches(selector, pod[1])]
        if not chosen:
            labels = "; ".join(str(dict(pod[1])) for pod in near[:3])
            yield "monitor-empty", f"{name_of(service)} selects no pod (labels: {labels})"
            continue
        named = {name for pod in chosen for name in pod[2]}
        for port in spec.get("ports") or []:
            wanted = port.get("targetPort")
            if isinstance(wanted, str) and not wanted.isdigit() and wanted not in named:
                yield "monitor-port", f"{name_of(service)}: no container has a port {wanted!r}"


def _prometheus_reads(
    monitor: Document, documents: Sequence[Document]
) -> Iterator[tuple[str, str]]:
    servers = [each for each in documents if each.get("kind") == "Prometheus"]
    field = (
        "serviceMonitorSelector" if monitor["kind"] == "ServiceMonitor" else "podMonitorSelector"
    )
    labels = (monitor.get("metadata") or {}).get("labels") or {}
    selectors = [(each.get("spec") or {}).get(field) for each in servers]
    if servers and not any(s is not None and _matches(s, labels) for s in selectors):
        yield "monitor-unselected", f"{field} {selectors[0]} does not fit its labels {labels}"
