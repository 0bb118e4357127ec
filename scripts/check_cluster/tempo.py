"""Check Tempo's configuration against the options of the pinned release, and against its pod.

Tempo is not in any package registry, so its own parser cannot run here; `options/` lists its
options.
Blocks of 2.x that were removed are named with their replacement.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from scripts.check_cluster import options
from scripts.check_cluster.render import name, pods

REMOVED = {
    "ingester": "live_store",
    "ingester_client": "live_store_client",
    "compactor": "backend_scheduler and backend_worker",
    "metrics_generator_client": "nothing: it reads the ingest path",
}


def check(documents: list[dict[str, Any]]) -> list[str]:
    """Return the problems of the Tempo configuration in an overlay."""
    problems = []
    configs = [d for d in documents if d["metadata"]["name"].startswith("tempo-config")]
    for pod in pods(documents):
        volumes = {v["name"]: v.get("configMap", {}) for v in pod.spec.get("volumes", [])}
        for config in configs if pod.component == "tempo" else ():
            if config["metadata"]["name"] == volumes["config"]["name"]:
                text = config["data"]["tempo.yaml"]
                found = (*check_config(_expanded(text)), *_pod(text, pod.spec["containers"][0]))
                problems += [f"{name(pod.owner)}: {p}" for p in found]
    return problems


def _expanded(text: str) -> dict[str, Any]:
    """Return the configuration with `${NAME:-default}` replaced, as Tempo does at start."""
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))


def check_config(config: dict[str, Any]) -> Iterator[str]:
    """Yield the problems of one configuration."""
    for block in config.keys() & REMOVED.keys():
        yield f"{block} is gone in 3.0; use {REMOVED[block]}"
    current = {block: value for block, value in config.items() if block not in REMOVED}
    yield from options.problems(current, options.known_options("tempo"))
    yield from _retention(config)
    generator = config.get("metrics_generator", {})
    if "traces_storage" in generator:
        yield "metrics_generator.traces_storage is gone in 3.0"
    processors = (
        config.get("overrides", {})
        .get("defaults", {})
        .get("metrics_generator", {})
        .get("processors", [])
    )
    if "local-blocks" in processors:
        yield "the processor local-blocks is gone in 3.0"
    writes = generator.get("storage", {}).get("remote_write", [])
    if writes and not all(w.get("send_exemplars") for w in writes):
        yield "a remote write sends no exemplars"
    if processors and not writes:
        yield "metrics are generated and written nowhere"


def _retention(config: dict[str, Any]) -> Iterator[str]:
    """Yield a retention that the scheduler has and the worker, which deletes, does not."""
    provider = config.get("backend_scheduler", {}).get("provider", {}).get("compaction", {})
    planned = provider.get("compaction", {}).get("block_retention")
    deleted = config.get("backend_worker", {}).get("compaction", {}).get("block_retention")
    if planned != deleted:
        yield (
            f"backend_scheduler plans a retention of {planned}, but backend_worker, which deletes "
            f"blocks, has {deleted or 'its default of 336h'}"
        )


def _pod(text: str, container: dict[str, Any]) -> Iterator[str]:
    environment = {v["name"] for v in container.get("env", [])}
    for variable in sorted(set(re.findall(r"\$\{(\w+)\}", text))):
        if variable not in environment:
            yield f"{variable} is not in its environment"
    config = yaml.safe_load(text)
    ports = {p["containerPort"] for p in container["ports"]}
    if config["server"]["http_listen_port"] not in ports:
        yield "its HTTP port is not a port of its container"
    for protocol, receiver in config["distributor"]["receivers"]["otlp"]["protocols"].items():
        host, _, port = receiver["endpoint"].rpartition(":")
        if host != "0.0.0.0" or int(port) not in ports:
            address = receiver["endpoint"]
            yield f"OTLP/{protocol} at {address} cannot be reached from outside its pod"
