"""Check the configurations of the collectors and of Tempo against their releases and their pods.

Neither is in any package registry, so their own parsers cannot run here. `options/` lists the
options of the pinned releases.
"""

import re
from collections.abc import Iterator

import yaml

from tests.k8s.checks import options
from tests.k8s.checks.render import Document, Pod, name, pods

RENAMED = {
    "otlp": "otlp_grpc",  # the exporter; the receiver keeps its name
    "otlphttp": "otlp_http",
    "loadbalancing": "load_balancing",
    "k8sattributes": "k8s_attributes",
    "spanmetrics": "span_metrics",
    "filelog": "file_log",
    "cumulativetodelta": "cumulative_to_delta",
}
PIPELINE_KINDS = ("receivers", "processors", "exporters")
KINDS = (*PIPELINE_KINDS, "connectors", "extensions")
# Blocks of Tempo 2.x that were removed, with what replaces them.
REMOVED = {
    "ingester": "live_store",
    "ingester_client": "live_store_client",
    "compactor": "backend_scheduler and backend_worker",
    "metrics_generator_client": "nothing: it reads the ingest path",
}


def check(documents: list[Document]) -> list[str]:
    """Return the problems of every collector in an overlay, and of its Tempo."""
    return [
        f"{name(pod.owner)}: {problem}"
        for pod in pods(documents)
        for container in pod.spec["containers"]
        for problem in _problems(documents, pod, container)
    ]


def _problems(documents: list[Document], pod: Pod, container: Document) -> Iterator[str]:
    if "opentelemetry-collector" in container["image"]:
        config = merged(documents, pod, container)
        yield from check_config(config)
        yield from _against_pod(config, container)
    elif pod.component == "tempo":
        files = mounted(documents, pod, container)
        text = next(text for path, text in files.items() if path.endswith("/tempo.yaml"))
        # As Tempo replaces it at start.
        expanded = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
        yield from check_tempo_config(expanded)
        yield from _tempo_against_pod(text, container)


def mounted(documents: list[Document], pod: Pod, container: Document) -> dict[str, str]:
    """Return {path: text} of the files that a container has from ConfigMaps."""
    maps = {d["metadata"]["name"]: d.get("data", {}) for d in documents if d["kind"] == "ConfigMap"}
    volumes = {v["name"]: v for v in pod.spec.get("volumes", [])}
    files: dict[str, str] = {}
    for mount in container["volumeMounts"]:
        volume = volumes.get(mount["name"], {})
        for source in (volume, *volume.get("projected", {}).get("sources", [])):
            texts = maps.get(source.get("configMap", {}).get("name"), {})
            files |= {f"{mount['mountPath']}/{file}": text for file, text in texts.items()}
    return files


def merged(documents: list[Document], pod: Pod, container: Document) -> Document:
    """Return the configuration that the collector reads from its --config files.

    Maps are merged, and everything else is replaced by the later file.
    """
    files = mounted(documents, pod, container)
    config: Document = {}
    for argument in container["args"]:
        path = argument.removeprefix("--config=")
        if path not in files:
            raise ValueError(f"{name(pod.owner)}: {path} is not mounted")
        config = _merge(config, yaml.safe_load(files[path]))
    return config


def _merge(a: Document, b: Document) -> Document:
    out = dict(a)
    for key, value in b.items():
        both = isinstance(out.get(key), dict) and isinstance(value, dict)
        out[key] = _merge(out[key], value) if both else value
    return out


def check_config(config: Document) -> Iterator[str]:
    """Yield the problems of one configuration."""
    pipelines = config["service"]["pipelines"]
    yield from _unknown_options(config)
    for pipeline, parts in pipelines.items():
        for component in _undefined(config, parts):
            yield f"pipeline {pipeline} uses {component}, which is not defined"
        yield from (f"pipeline {pipeline}: {p}" for p in _order(parts))

    used: dict[str, set[str]] = {}
    for kind in PIPELINE_KINDS:
        used[kind] = set().union(*(parts.get(kind, []) for parts in pipelines.values()))
        for component in set(config.get(kind, {})) - used[kind]:
            yield f"{component} is defined and not used"
    for connector in set(config.get("connectors", {})) - (used["exporters"] & used["receivers"]):
        yield f"connector {connector} does not join two pipelines"
    for extension in config["service"].get("extensions", []):
        if extension not in config.get("extensions", {}):
            yield f"extension {extension} is not defined"
    yield from _sampling(pipelines)


def _undefined(config: Document, pipeline: Document) -> Iterator[str]:
    """Yield the components that a pipeline uses and the configuration does not define."""
    for kind in PIPELINE_KINDS:
        defined = config.get(kind, {}).keys() | config.get("connectors", {}).keys()
        for component in pipeline.get(kind, []):
            if component not in defined:
                yield component


def _unknown_options(config: Document) -> Iterator[str]:
    known = options.known_options("collector")
    for block in config.keys() - known.keys():
        yield f"{block} is not a block of a collector's configuration"
    for kind in KINDS:
        for component, settings in (config.get(kind) or {}).items():
            base = component.partition("/")[0]
            if base in known[kind]:
                yield from (
                    f"{component}: {p}" for p in options.problems(settings, known[kind][base])
                )
            elif base in RENAMED:
                yield f"{component} is called {RENAMED[base]} now"
            else:
                yield f"{component} is not a known {kind[:-1]}"
    yield from (f"service: {p}" for p in options.problems(config["service"], known["service"]))


def _order(parts: Document) -> Iterator[str]:
    processors = parts.get("processors", [])
    if not processors or processors[0] != "memory_limiter":
        yield "memory_limiter is not first"
    batches = [p for p in processors if p.partition("/")[0] == "batch"]
    if batches and processors[-1] not in batches:
        yield "batch is not last"


def _sampling(pipelines: Document) -> Iterator[str]:
    """Yield pipelines that sample before span metrics are counted."""
    for pipeline, parts in pipelines.items():
        if "tail_sampling" in parts.get("processors", []) and "span_metrics" in parts["exporters"]:
            yield f"pipeline {pipeline} samples before span_metrics counts"


def _against_pod(config: Document, container: Document) -> Iterator[str]:
    open_ports = {p["containerPort"] for p in container["ports"]}
    for port in _listening(config):
        if port not in open_ports:
            yield f"it listens on {port}, which is not a port of its container"
    yield from _unset_variables(r"\$\{env:(\w+)\}", yaml.safe_dump(config), container)


def _unset_variables(pattern: str, text: str, container: Document) -> Iterator[str]:
    environment = {v["name"] for v in container.get("env", [])}
    for variable in sorted(set(re.findall(pattern, text)) - environment):
        yield f"{variable} is not in its environment"


def _listening(config: Document) -> set[int]:
    parts = [
        config.get("receivers", {}),
        config.get("extensions", {}),
        config.get("exporters", {}).get("prometheus"),
    ]
    ports = {int(p) for p in re.findall(r"0\.0\.0\.0:(\d+)", yaml.safe_dump(parts))}
    for reader in config["service"].get("telemetry", {}).get("metrics", {}).get("readers", []):
        ports.add(reader["pull"]["exporter"]["prometheus"]["port"])
    return ports


def check_tempo_config(config: Document) -> Iterator[str]:
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


def _retention(config: Document) -> Iterator[str]:
    """Yield a retention that the scheduler has and the worker, which deletes, does not."""
    provider = config.get("backend_scheduler", {}).get("provider", {}).get("compaction", {})
    planned = provider.get("compaction", {}).get("block_retention")
    deleted = config.get("backend_worker", {}).get("compaction", {}).get("block_retention")
    if planned != deleted:
        yield (
            f"backend_scheduler plans a retention of {planned}, but backend_worker, which deletes "
            f"blocks, has {deleted or 'its default of 336h'}"
        )


def _tempo_against_pod(text: str, container: Document) -> Iterator[str]:
    yield from _unset_variables(r"\$\{(\w+)\}", text, container)
    config = yaml.safe_load(text)
    ports = {p["containerPort"] for p in container["ports"]}
    if config["server"]["http_listen_port"] not in ports:
        yield "its HTTP port is not a port of its container"
    for protocol, receiver in config["distributor"]["receivers"]["otlp"]["protocols"].items():
        host, _, port = receiver["endpoint"].rpartition(":")
        if host != "0.0.0.0" or int(port) not in ports:
            address = receiver["endpoint"]
            yield f"OTLP/{protocol} at {address} cannot be reached from outside its pod"
