"""Overlays suit real clusters: sizes, retention, routing, storage, names, platforms."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable

import pytest
import yaml

from lab.stack.cluster.preflight_checks import requested
from tests.k8s.checks import render
from tests.k8s.checks.render import K8S, OVERLAYS, versions

# What Minikube's pods request with Calico (API server, scheduler, controllers, etcd, CoreDNS, the
# Prometheus operator): CPUs and bytes.
MINIKUBE_OWN = {"cpu": 1.2, "memory": 1.0 * 2**30}


def test_the_readmes_minikube_has_room_for_the_lab_and_its_load(overlay: Callable) -> None:
    """Minikube has room for the overlay, two load pods and its own pods, with a tenth to spare."""
    text = (K8S / "README.md").read_text()
    size = re.search(r"minikube start .*--cpus=(\d+) --memory=(\d+)g", text)
    has = {"cpu": int(size[1]), "memory": int(size[2]) * 2**30}
    documents = overlay("minikube-cpu")
    load = next(d for d in render.folder(K8S / "load") if d["kind"] == "Job")
    for resource, room in has.items():
        lab = sum(requested(d, resource) for d in documents)
        shards = load["spec"]["completions"] * requested(load, resource)
        assert (lab + shards + MINIKUBE_OWN[resource]) * 1.1 <= room, resource


@pytest.mark.parametrize("name", OVERLAYS)
def test_tempos_retention_is_the_workers_that_deletes(name: str, overlay: Callable) -> None:
    """The worker, which deletes blocks, has the scheduler's retention instead of two weeks."""
    for text in _config_maps(overlay(name), "tempo-config"):
        config = yaml.safe_load(text)
        planned = config["backend_scheduler"]["provider"]["compaction"]["compaction"]
        done = config["backend_worker"]["compaction"]
        assert done["block_retention"] == planned["block_retention"]


# -- routing: the algorithms of production-stack's router, as in its source --------------------


def _prefixaware(prompts: list[str], replicas: list[str]) -> Counter[str]:
    """Route to the longest known prefix in chunks of 128 characters; any match decides."""
    trie: dict[tuple[str, ...], set[str]] = {}
    sent: Counter[str] = Counter()
    for prompt in prompts:
        chunks = tuple(prompt[i : i + 128] for i in range(0, len(prompt), 128))
        candidates = set(replicas)
        for n in range(1, len(chunks) + 1):
            known = trie.get(chunks[:n], set()) & candidates
            if not known:
                break
            candidates = known
        chosen = random.Random(len(prompt)).choice(sorted(candidates))
        for n in range(1, len(chunks) + 1):
            trie.setdefault(chunks[:n], set()).add(chosen)
        sent[chosen] += 1
    return sent


def _roundrobin(prompts: list[str], replicas: list[str]) -> Counter[str]:
    """Route to the sorted replicas in turn."""
    ordered = sorted(replicas)
    return Counter(ordered[i % len(ordered)] for i in range(len(prompts)))


ROUTING = {"prefixaware": _prefixaware, "roundrobin": _roundrobin}


def _agents(n: int) -> list[str]:
    """Return prompts of agents that share one long system prompt and differ in their question."""
    return ["You are the help desk's agent. " * 40 + f"Question {i}" for i in range(n)]


def test_agents_with_one_system_prompt_are_spread_over_the_replicas(overlay: Callable) -> None:
    """With the manifest's routing, each of four replicas gets about a quarter of 400 requests."""
    routers = [d for d in overlay("cluster") if d["metadata"]["name"] == "vllm-router"]
    deployment = next(d for d in routers if d["kind"] == "Deployment")
    args = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    logic = next(a.split("=")[1] for a in args if a.startswith("--routing-logic="))
    replicas = [f"http://10.0.0.{i}:8000" for i in range(4)]
    sent = ROUTING[logic](_agents(400), replicas)
    assert len(sent) == 4 and max(sent.values()) <= 120


def test_prefix_aware_routing_would_send_all_to_one_replica() -> None:
    """The simulation reproduces the measurement: one replica gets all 400 requests."""
    sent = _prefixaware(_agents(400), ["a", "b", "c", "d"])
    assert sorted(sent.values()) == [400]


# -- storage, scaling, names --------------------------------------------------------------------


def test_object_storage_needs_no_static_keys_and_may_be_plain_http(
    overlay: Callable, container: Callable
) -> None:
    """Only the endpoint and the bucket are required in the Secret; the rest has defaults."""
    documents = overlay("cluster")
    env = container(documents, "tempo", "StatefulSet")["env"]
    needed = {e["name"] for e in env if not e["valueFrom"]["secretKeyRef"].get("optional")}
    assert needed == {"S3_ENDPOINT", "S3_BUCKET"}
    text = next(iter(_config_maps(documents, "tempo-config")))
    used = dict(re.findall(r"\$\{(S3_\w+)(:-[^}]*)?\}", text))
    assert used.keys() == {e["name"] for e in env}
    assert {name for name, default in used.items() if not default} == needed
    s3 = yaml.safe_load(re.sub(r"\$\{S3_\w+:-([^}]*)\}", r"\1", text))["storage"]["trace"]["s3"]
    assert s3["insecure"] is False and s3["forcepathstyle"] is False and not s3["access_key"]


def test_a_fleet_under_load_is_not_scaled_down_when_prometheus_is_away(
    overlay: Callable, find_object: Callable
) -> None:
    """The fallback keeps the current replicas if there are more of them."""
    spec = find_object(overlay("cluster"), "ScaledObject", "vllm")["spec"]
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["minReplicaCount"] < spec["maxReplicaCount"]


def test_models_from_the_hub_are_a_commit(overlay: Callable, container: Callable) -> None:
    """The model's revision is a commit, as a branch would change the figures of a workshop."""
    env = {
        e["name"]: e.get("value")
        for e in container(overlay("cluster"), "fetch-model", "Job")["env"]
    }
    assert re.fullmatch(r"[0-9a-f]{40}", env["REVISION"])


@pytest.mark.parametrize("name", OVERLAYS)
def test_pod_attributes_are_looked_up_where_the_collector_may_look(
    name: str, overlay: Callable
) -> None:
    """k8s_attributes watches one namespace, in which the collector's account has a Role."""
    documents = overlay(name) + _on_top(name)
    allowed = {
        d["metadata"]["namespace"]
        for d in documents
        if d["kind"] == "RoleBinding" and any(s["name"] == "otel-collector" for s in d["subjects"])
    }
    configs = [yaml.safe_load(t) for t in _config_maps(documents, "otel-")]
    watching = [
        c["processors"]["k8s_attributes"]
        for c in configs
        if "k8s_attributes" in c.get("processors", {})
    ]
    assert watching or name == "openshift"
    assert all(w["filter"]["namespace"] in allowed for w in watching)


def _on_top(name: str) -> list[dict]:
    """Return the configuration that components/otlp-backend adds."""
    text = (K8S / "components/otlp-backend/config/backend.yaml").read_text()
    meta = {"name": "otel-collector-backend", "namespace": "llm-lab-obs"}
    return [{"kind": "ConfigMap", "metadata": meta, "data": {"backend.yaml": text}}]


def _config_maps(documents: list[dict], prefix: str):
    for d in documents:
        if d["kind"] == "ConfigMap" and d["metadata"]["name"].startswith(prefix):
            yield from d["data"].values()


def test_runbook_links_are_addresses(overlay: Callable, find_object: Callable) -> None:
    """Runbook links are absolute, as Alertmanager cannot open relative ones."""
    rules = find_object(overlay("minikube-cpu"), "PrometheusRule", "llm-lab")
    urls = [
        rule["annotations"]["runbook_url"]
        for group in rules["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    base = versions()["RUNBOOKS_URL"]
    assert urls and all(u.startswith(f"{base}/notebooks/") for u in urls)
    assert base.startswith(("http://", "https://"))


def test_the_gpu_exporter_knows_its_node(overlay: Callable, container: Callable) -> None:
    """The label Hostname is the node's name."""
    env = container(overlay("minikube-gpu"), "dcgm-exporter", "DaemonSet")["env"]
    node = next(e for e in env if e["name"] == "NODE_NAME")
    assert node["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
