"""Who reaches whom, by the network policies: what must be open is, and what must be closed is.

A connection needs the sender's egress and the receiver's ingress to allow it; a pod that no policy selects allows all.
https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from scripts.check_cluster.render import is_openshift, pods

# (from, to, port): what the lab needs. Parts that an overlay does not have are left out.
FLOWS = (
    ("llama-stack", "vllm", 8000),
    ("llama-stack", "vllm-embed", 8000),
    ("llama-stack", "lab-tools", 8200),
    ("documents", "llama-stack", 8321),
    ("load", "llama-stack", 8321),
    ("load", "vllm", 8000),
    ("load", "otel-collector", 4318),
    ("vllm", "otel-collector", 4318),
    ("vllm-embed", "otel-collector", 4318),
    ("llama-stack", "otel-collector", 4318),
    ("lab-tools", "otel-collector", 4318),
    ("otel-collector", "tempo", 4317),
    ("tempo", "prometheus", 9090),
    ("grafana", "prometheus", 9090),
    ("grafana", "tempo", 3200),
    ("grafana", "thanos-query", 9091),
    ("prometheus", "alertmanager", 9093),
    ("prometheus", "vllm", 8000),
    ("prometheus", "vllm-embed", 8000),
    ("prometheus", "llama-stack", 9464),
    ("prometheus", "lab-tools", 8200),
    ("prometheus", "otel-collector", 8888),
    ("prometheus", "otel-collector", 8889),
    ("prometheus", "tempo", 3200),
    ("prometheus", "grafana", 3000),
    ("prometheus", "dcgm-exporter", 9400),
    ("prometheus", "vllm-router", 8000),
    ("prometheus", "otel-agent", 8888),
    ("llama-stack", "vllm-router", 8000),
    ("vllm-router", "vllm", 8000),
    ("vllm", "otel-agent", 4318),
    ("otel-agent", "otel-collector", 4317),
    ("log-agent", "loki", 3100),
    ("grafana", "loki", 3100),
)
# OpenShift's Prometheus is queried through Thanos, and takes no remote write.
TO_PROMETHEUS = {("tempo", "prometheus", 9090), ("grafana", "prometheus", 9090)}
FORBIDDEN = (
    ("lab-tools", "vllm", 8000),
    ("lab-tools", "tempo", 3200),
    ("vllm", "prometheus", 9090),
    ("documents", "vllm", 8000),
    ("grafana", "llama-stack", 8321),
    ("tempo", "llama-stack", 8321),
)
_OUTSIDE = ipaddress.ip_address("203.0.113.7")
MAY_LEAVE = {
    "fetch-model",
    "tempo",
    "prometheus",
    "otel-collector",
    "alertmanager",
}  # over 443, in overlays that need it


def check(documents: list[dict[str, Any]]) -> list[str]:
    """Flows that the policies of an overlay close, or leave open, against what is wanted."""
    net = _Net(documents)
    problems = []
    for source, target, port in FLOWS:
        if net.openshift and (source, target, port) in TO_PROMETHEUS:
            continue
        if {source, target} <= net.parts.keys() and not net.allowed(source, target, port):
            problems.append(f"{source} cannot reach {target}:{port}")
    for source, target, port in FORBIDDEN:
        if {source, target} <= net.parts.keys() and net.allowed(source, target, port):
            problems.append(f"{source} can reach {target}:{port}, and should not")
    for part in net.parts:
        if net.restricted(part):
            if net.sends(part) and not net.resolves(part):
                problems.append(f"{part} cannot resolve names")
            if part not in MAY_LEAVE and net.leaves(part):
                problems.append(f"{part} can reach addresses outside the cluster")
    return problems


class _Net:
    def __init__(self, documents: list[dict[str, Any]]) -> None:
        self.openshift = is_openshift(documents)
        self.policies = [d for d in documents if d["kind"] == "NetworkPolicy"]
        self.parts: dict[str, tuple[str, dict[str, str]]] = {}
        for d, template in pods(documents):
            labels = template["metadata"].get("labels", {})
            self.parts[labels["app.kubernetes.io/name"]] = (d["metadata"]["namespace"], labels)
        for d in documents:
            if d["kind"] == "Prometheus":
                labels = {
                    "app.kubernetes.io/name": "prometheus",
                    "app.kubernetes.io/part-of": "llm-lab",
                }
                self.parts["prometheus"] = (d["metadata"]["namespace"], labels)
            if d["kind"] == "Alertmanager":
                labels = {"app.kubernetes.io/name": "alertmanager", "alertmanager": "lab"}
                self.parts["alertmanager"] = (d["metadata"]["namespace"], labels)
        self.parts.setdefault("load", ("llm-lab", {"app.kubernetes.io/name": "load"}))
        if (
            "prometheus" not in self.parts
        ):  # the cluster's: user workload monitoring, or kube-prometheus-stack
            namespace = "openshift-user-workload-monitoring" if self.openshift else "monitoring"
            self.parts["prometheus"] = (namespace, {"app.kubernetes.io/name": "prometheus"})
        if self.openshift:
            thanos = ("openshift-monitoring", {"app.kubernetes.io/name": "thanos-query"})
            self.parts["thanos-query"] = thanos

    def allowed(self, source: str, target: str, port: int) -> bool:
        a, b = self.parts[source], self.parts[target]
        return self._side("Egress", a, b, port) and self._side("Ingress", b, a, port)

    def restricted(self, part: str) -> bool:
        return any(True for _ in self._selecting("Egress", self.parts[part]))

    def sends(self, part: str) -> bool:
        """Whether it may open any connection at all."""
        return any(
            policy["spec"].get("egress") for policy in self._selecting("Egress", self.parts[part])
        )

    def resolves(self, part: str) -> bool:
        if self.openshift:
            dns = ("openshift-dns", {"dns.operator.openshift.io/daemonset-dns": "default"})
            return self._side("Egress", self.parts[part], dns, 5353, "UDP")
        dns = ("kube-system", {"k8s-app": "kube-dns"})
        return self._side("Egress", self.parts[part], dns, 53, "UDP")

    def leaves(self, part: str) -> bool:
        """Whether an address that is no pod may be reached by name of an address block (the API server's ports are
        open to those that need it without one)."""
        for policy in self._selecting("Egress", self.parts[part]):
            for rule in policy["spec"].get("egress", []):
                for peer in rule.get("to", []):
                    if "ipBlock" in peer and _OUTSIDE in ipaddress.ip_network(
                        peer["ipBlock"]["cidr"]
                    ):
                        return True
        return False

    def _selecting(
        self, direction: str, pod: tuple[str, dict[str, str]]
    ) -> Iterator[dict[str, Any]]:
        for policy in self.policies:
            if (
                direction in policy["spec"]["policyTypes"]
                and policy["metadata"]["namespace"] == pod[0]
                and _selects(policy["spec"]["podSelector"], pod[1])
            ):
                yield policy

    def _side(
        self, direction: str, pod: tuple, peer: tuple, port: int, protocol: str = "TCP"
    ) -> bool:
        policies = list(self._selecting(direction, pod))
        field, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
        return not policies or any(
            _port_fits(rule, port, protocol)
            and (not rule.get(peers) or any(_is(p, peer, pod[0]) for p in rule[peers]))
            for policy in policies
            for rule in policy["spec"].get(field, [])
        )


def _port_fits(rule: dict[str, Any], port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return not ports or any(
        p.get("protocol", "TCP") == protocol and p.get("port", port) == port for p in ports
    )


def _is(peer: dict[str, Any], pod: tuple[str, dict[str, str]], own_namespace: str) -> bool:
    if "ipBlock" in peer:
        return False  # pods are meant by selectors; blocks are for what is outside
    namespace_labels = {"kubernetes.io/metadata.name": pod[0]}
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], namespace_labels):
            return False
    elif pod[0] != own_namespace:
        return False
    return _selects(peer.get("podSelector", {}), pod[1])


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for e in selector.get("matchExpressions", []):
        value = labels.get(e["key"])
        fits = {
            "In": value in e.get("values", []),
            "NotIn": value not in e.get("values", []),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not fits[e["operator"]]:
            return False
    return True
