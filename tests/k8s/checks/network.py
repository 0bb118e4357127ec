"""Check which connections the network policies allow: exactly those that the lab needs.

A connection needs the sender's egress and the receiver's ingress to allow it; a pod that no policy
selects allows all.
https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from lab.doctor.kubernetes import selects
from tests.k8s.checks.render import Document, Overlay, is_openshift

SENDERS = ("load", "vllm", "vllm-embed", "llama-stack", "lab-tools")
# What the lab needs, and nothing else: (from, to, ports). Components that an overlay does not have
# are left out. `keda-operator` stands for KEDA's own namespace, `load` for the load Job.
OTLP = (4317, 4318)
FLOWS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("llama-stack", "vllm", (8000,)),
    ("llama-stack", "vllm-embed", (8000,)),
    ("llama-stack", "vllm-router", (8000,)),
    ("llama-stack", "lab-tools", (8200,)),
    ("llama-stack", "postgres", (5432,)),
    ("vllm-router", "vllm", (8000,)),
    ("documents", "llama-stack", (8321,)),
    ("load", "llama-stack", (8321,)),
    ("load", "vllm", (8000,)),
    ("load", "vllm-router", (8000,)),
    *((sender, "otel-collector", OTLP) for sender in SENDERS),
    *(
        (sender, "otel-agent", OTLP)
        for sender in (*SENDERS, "vllm-router", "documents", "fetch-model")
    ),
    ("otel-agent", "otel-collector", OTLP),
    ("otel-collector", "tempo", OTLP),
    ("tempo", "prometheus", (9090,)),
    ("grafana", "prometheus", (9090,)),
    ("grafana", "tempo", (3200,)),
    ("grafana", "loki", (3100,)),
    ("log-agent", "loki", (3100,)),
    ("keda-operator", "prometheus", (9090,)),
    ("prometheus", "alertmanager", (9093,)),
    ("prometheus", "vllm", (8000,)),
    ("prometheus", "vllm-embed", (8000,)),
    ("prometheus", "vllm-router", (8000,)),
    ("prometheus", "llama-stack", (9464,)),
    ("prometheus", "lab-tools", (8200,)),
    ("prometheus", "otel-collector", (8888, 8889)),
    ("prometheus", "otel-agent", (8888,)),
    ("prometheus", "tempo", (3200,)),
    ("prometheus", "grafana", (3000,)),
    ("prometheus", "dcgm-exporter", (9400,)),
    ("grafana", "thanos-query", (9091,)),
)
# OpenShift's Prometheus is queried through Thanos, and accepts no remote write.
NOT_ON_OPENSHIFT = {("tempo", "prometheus"), ("grafana", "prometheus")}
# A flow may be closed although it is listed: the two OTLP ports carry the same, and one suffices.
EITHER_PORT = {"otel-collector", "otel-agent", "tempo"}
_OUTSIDE = ipaddress.ip_address("203.0.113.7")
MAY_LEAVE = {
    "fetch-model",
    "tempo",
    "prometheus",
    "otel-collector",
    "alertmanager",
}  # over 443, in overlays that need it


def check(documents: list[dict[str, Any]]) -> list[str]:
    """Return the needed flows that the policies close, and the open ones that are not needed."""
    net = _Net(documents)
    listed: dict[tuple[str, str], set[int]] = {}
    for source, target, ports in FLOWS:
        listed.setdefault((source, target), set()).update(ports)
    problems = []
    for (source, target), ports in listed.items():
        if net.openshift and (source, target) in NOT_ON_OPENSHIFT:
            continue
        if {source, target} <= net.parts.keys():
            problems += _closed(net, source, target, sorted(ports))
    for source, target, port in net.flows():
        if port not in listed.get((source, target), set()):
            problems.append(f"{source} can reach {target}:{port}, and should not")
    for part in net.parts:
        if net.restricted(part):
            problems += _outside(net, part)
    return problems


def _closed(net: _Net, source: str, target: str, ports: list[int]) -> list[str]:
    closed = [port for port in ports if not net.allowed(source, target, port)]
    if target in EITHER_PORT and set(ports) == set(OTLP) and len(closed) < len(ports):
        return []
    return [f"{source} cannot reach {target}:{port}" for port in closed]


def _outside(net: _Net, part: str) -> list[str]:
    problems = []
    if net.sends(part) and not net.resolves(part):
        problems.append(f"{part} cannot resolve names")
    if part not in MAY_LEAVE and net.leaves(part):
        problems.append(f"{part} can reach addresses outside the cluster")
    return problems


class _Net:
    """The pods of an overlay and of the cluster, and which of them may open a connection."""

    def __init__(self, documents: list[Document]) -> None:
        overlay = Overlay(documents)
        self.openshift = is_openshift(documents)
        self.policies = overlay.kind("NetworkPolicy")
        # The cluster's Prometheus: user workload monitoring, or kube-prometheus-stack.
        monitoring = "openshift-user-workload-monitoring" if self.openshift else "monitoring"
        namespaces = {
            "load": "llm-lab",
            "prometheus": monitoring,
            **({"keda-operator": "keda"} if overlay.kind("ScaledObject") else {}),
            **({"thanos-query": "openshift-monitoring"} if self.openshift else {}),
            "another-namespace": "default",
        }
        self.parts: dict[str, tuple[str, dict[str, str]]] = {
            part: (namespace, {"app.kubernetes.io/name": part})
            for part, namespace in namespaces.items()
        }
        self.ports: dict[str, set[int]] = {}
        for pod in overlay.all_pods:
            self.parts[pod.component] = (pod.namespace, pod.labels)
            ports = {port["containerPort"] for port in pod.ports}
            self.ports.setdefault(pod.component, set()).update(ports)

    def flows(self) -> Iterator[tuple[str, str, int]]:
        """Yield (source, target, port) of every connection that the policies allow."""
        for target, ports in self.ports.items():
            for source in self.parts:
                for port in sorted(ports):
                    if source != target and self.allowed(source, target, port):
                        yield source, target, port

    def allowed(self, source: str, target: str, port: int) -> bool:
        a, b = self.parts[source], self.parts[target]
        return self._side("Egress", a, b, port) and self._side("Ingress", b, a, port)

    def restricted(self, part: str) -> bool:
        return any(True for _ in self._selecting("Egress", self.parts[part]))

    def sends(self, part: str) -> bool:
        """Return whether it may open any connection at all."""
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
        """Return whether an address block opens the way to addresses outside the cluster.

        The API server's ports are open without a block to the components that need it.
        """
        policies = self._selecting("Egress", self.parts[part])
        rules = [rule for policy in policies for rule in policy["spec"].get("egress", [])]
        peers = [peer for rule in rules for peer in rule.get("to", [])]
        blocks = [peer["ipBlock"]["cidr"] for peer in peers if "ipBlock" in peer]
        return any(_OUTSIDE in ipaddress.ip_network(block) for block in blocks)

    def _selecting(
        self, direction: str, pod: tuple[str, dict[str, str]]
    ) -> Iterator[dict[str, Any]]:
        for policy in self.policies:
            if (
                direction in policy["spec"]["policyTypes"]
                and policy["metadata"]["namespace"] == pod[0]
                and selects(policy["spec"]["podSelector"], pod[1])
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
        if not selects(peer["namespaceSelector"], namespace_labels):
            return False
    elif pod[0] != own_namespace:
        return False
    return selects(peer.get("podSelector", {}), pod[1])
