"""Tempo's configuration against the top-level blocks of 3.0, and against its pod. Tempo itself cannot run here.

Blocks: https://grafana.com/docs/tempo/v3.0.x/configuration/ ; those of 2.x that are gone are named with what to use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from scripts.check_cluster.render import name, pods

BLOCKS = {
    "target", "stream_over_http_enabled", "http_api_prefix", "server", "internal_server", "distributor",
    "live_store", "live_store_client", "block_builder", "backend_scheduler", "backend_scheduler_client",
    "backend_worker", "querier", "query_frontend", "metrics_generator", "storage", "overrides", "memberlist", "ingest",
    "usage_report", "cache",
}  # fmt: skip
GONE = {
    "ingester": "live_store",
    "ingester_client": "live_store_client",
    "compactor": "backend_scheduler and backend_worker",
    "metrics_generator_client": "nothing: it reads the ingest path",
}


def check(documents: list[dict[str, Any]]) -> list[str]:
    """Problems of the Tempo configuration in an overlay."""
    problems = []
    for d, template in pods(documents):
        if d["metadata"]["name"] != "tempo":
            continue
        container = template["spec"]["containers"][0]
        wanted = next(
            v["configMap"]["name"] for v in template["spec"]["volumes"] if v["name"] == "config"
        )
        for c in documents:
            if c["kind"] == "ConfigMap" and c["metadata"]["name"] == wanted:
                text = c["data"]["tempo.yaml"]
                problems += [
                    f"{name(d)}: {p}"
                    for p in (*check_config(yaml.safe_load(text)), *_pod(text, container))
                ]
    return problems


def check_config(config: dict[str, Any]) -> Iterator[str]:
    """Problems of one configuration."""
    for block in config:
        if block in GONE:
            yield f"{block} is gone in 3.0; use {GONE[block]}"
        elif block not in BLOCKS:
            yield f"{block} is no block of Tempo 3.0"
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


def _pod(text: str, container: dict[str, Any]) -> Iterator[str]:
    environment = {v["name"] for v in container.get("env", [])}
    for variable in sorted(set(re.findall(r"\$\{(\w+)\}", text))):
        if variable not in environment:
            yield f"{variable} is not in its environment"
    config = yaml.safe_load(text)
    ports = {p["containerPort"] for p in container["ports"]}
    if config["server"]["http_listen_port"] not in ports:
        yield "its HTTP port is no port of its container"
    for protocol, receiver in config["distributor"]["receivers"]["otlp"]["protocols"].items():
        host, _, port = receiver["endpoint"].rpartition(":")
        if host != "0.0.0.0" or int(port) not in ports:
            yield f"OTLP/{protocol} at {receiver['endpoint']} cannot be reached from outside its pod"
