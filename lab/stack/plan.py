"""Which parts a lab has, for these settings, on these ports. Pure but for reading the model's config."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from lab.schema import Service
from lab.settings import REPO, Settings
from lab.stack import llama_stack_config, prometheus_config, vllm_args
from lab.stack.model_folder import check_model_folder
from lab.stack.parts import Part, Probe
from lab.stack.ports import HOST
from lab.stack.toolbox import Toolbox

# macOS's frameworks do not survive a fork, nor does CUDA once it is initialised: there each server imports vLLM itself.
CAN_FORK = sys.platform == "linux"


@dataclass(frozen=True)
class Plan:
    """The parts, and the files that they read: {path: text}."""

    parts: tuple[Part, ...]
    files: dict[Path, str]
    endpoints: dict[str, str]
    own_endpoints: dict[str, str]  # without those that the user runs elsewhere; the user's settings name those


def chat_model(settings: Settings) -> tuple[str, int | None]:
    """(folder or hub name that vLLM should serve, its longest context if known).

    Raises ModelError if it is a folder that is missing or corrupt.
    """
    own = settings.data_dir / "lab-model"
    wanted = settings.model or str(own)
    if settings.model and not Path(wanted).exists() and not wanted.startswith((".", "/", "~")):
        return wanted, None  # a name on the model hub
    do = (
        "correct LAB_MODEL, or leave it out to serve the lab's own model"
        if settings.model
        else "restore data/lab-model with git, or train it again (README of data/lab-model)"
    )
    folder = Path(wanted).expanduser().resolve()
    config = check_model_folder(folder, do=do)
    return str(folder), config.get("max_position_embeddings")


def make_plan(settings: Settings, tools: Toolbox, ports: dict[str, int], external: dict[str, str]) -> Plan:
    """All parts. `external` are endpoints that the user runs elsewhere: {name: URL}; nothing is started for them."""
    state = settings.state_dir.resolve()
    own = {n: f"http://{HOST}:{ports[n]}" for n in ("vllm", "vllm_embed", "mcp", "llama_stack", "prometheus")}
    own |= {n: f"http://{HOST}:{ports[n]}" for n in ("tempo", "otlp")}
    url = {**own, **external}
    parts = [
        *([] if "tempo" in external or "otlp" in external else [_tracestore(tools, state, ports, url)]),
        *([] if "prometheus" in external else _prometheus(tools, state, ports, url, external)),
        *_vllm(settings, tools, state, ports, url, external),
        *([] if "mcp" in external else [_tools(tools, state, settings, ports, url)]),
        *([] if "llama_stack" in external else _llama_stack(settings, tools, state, ports, url, external)),
    ]
    names = {p.name for p in parts}
    parts = [_without_absent_needs(p, names) for p in parts]
    ours = {k: v for p in parts for k, v in p.endpoints.items()}
    files = {
        state / "run" / "vllm-logging.json": vllm_args.logging_config(),
        state / "run" / "prometheus.yml": prometheus_config.render(prometheus_config.targets(ports, url, external)),
        state / "run" / "llama-stack.yaml": llama_stack_config.render(settings, ports, url, state),
    }
    return Plan(tuple(parts), files, ours | external, ours)


def _without_absent_needs(part: Part, names: set[str]) -> Part:
    from dataclasses import replace

    return replace(part, needs=tuple(n for n in part.needs if n in names))


def _tracestore(tools: Toolbox, state: Path, ports: dict[str, int], url: dict[str, str]) -> Part:
    argv = (tools.python_lab, "-m", "lab.tracestore", "--port", str(ports["tempo"]), "--otlp-port", str(ports["otlp"]))
    return Part(
        name="tracestore",
        what="trace store: takes spans (OTLP), speaks Tempo's API",
        argv=(*argv, "--data", str(state / "traces")),
        env={"PYTHONPATH": str(REPO)},
        port=ports["tempo"],
        ready=Probe("http", {"url": f"{url['tempo']}/ready"}),
        endpoints={"tempo": url["tempo"], "otlp": url["otlp"]},
        grace_s=10.0,
    )


def _prometheus(
    tools: Toolbox, state: Path, ports: dict[str, int], url: dict[str, str], external: dict[str, str]
) -> list[Part]:
    listen = f"{HOST}:{ports['prometheus']}"
    essential = prometheus_config.essential_jobs(external)
    prometheus = Part(
        name="prometheus",
        what="Prometheus: scrapes the metrics of all parts",
        argv=(
            tools.prometheus,
            f"--config.file={state / 'run' / 'prometheus.yml'}",
            f"--storage.tsdb.path={state / 'prometheus'}",
            f"--web.listen-address={listen}",
            "--log.format=json",
            "--storage.tsdb.retention.time=7d",
        ),
        port=ports["prometheus"],
        ready=Probe("prometheus", {"url": url["prometheus"], "jobs": essential}),
        startup_s=900.0,  # it waits for the others to be there to scrape, each of which has its own limit
        endpoints={"prometheus": url["prometheus"]},
    )
    node = Part(
        name="node",
        what="node-exporter: the machine's own CPU, memory and load",
        argv=(
            tools.node_exporter,
            f"--web.listen-address={HOST}:{ports['node']}",
            "--collector.disable-defaults",
            *("--collector.cpu", "--collector.meminfo", "--collector.loadavg"),
            "--log.format=json",
        ),
        port=ports["node"],
        ready=Probe("http", {"url": f"http://{HOST}:{ports['node']}/metrics"}),
        essential=False,
    )
    return [prometheus, node]


def _vllm(
    settings: Settings,
    tools: Toolbox,
    state: Path,
    ports: dict[str, int],
    url: dict[str, str],
    external: dict[str, str],
) -> list[Part]:
    fork = CAN_FORK and tools.vllm_build == "cpu"
    env = vllm_args.base_env(tools.vllm_build, tools.cache_dir, state / "run" / "vllm-logging.json")
    otlp = url["otlp"]
    parts = []
    if fork and not {"vllm", "vllm_embed"} <= external.keys():
        parts.append(
            Part(
                name="vllm-base",
                what="vLLM, imported once: the two vLLM servers are forked from it",
                argv=(tools.python_vllm, "-m", "lab.stack.vllm_base"),
                env=env,
                ready=Probe("imported"),
            )
        )
    if "vllm" not in external:
        model, context = chat_model(settings)
        server = vllm_args.VllmServer(
            model, settings.model_name, ports["vllm"], otlp, tools.vllm_build, context, settings.vllm_args
        )
        probe = Probe("chat", {"url": url["vllm"], "model": settings.model_name})
        argv, what = vllm_args.chat_args(server), f"vLLM: serves the chat model {model}"
        parts.append(_vllm_server("vllm", what, model, argv, probe, tools, env, ports["vllm"], fork))
    if "vllm_embed" not in external:
        model = tools.embedding_model_dir
        check_model_folder(Path(model), do="run `make setup`")
        server = vllm_args.VllmServer(model, vllm_args.EMBED_MODEL, ports["vllm_embed"], otlp, tools.vllm_build)
        probe = Probe("embeddings", {"url": url["vllm_embed"], "model": vllm_args.EMBED_MODEL})
        argv, what = vllm_args.embed_args(server), "vLLM: serves the embedding model for document search"
        part = _vllm_server("vllm-embed", what, model, argv, probe, tools, env, ports["vllm_embed"], fork)
        parts.append(_later(part))
    return parts


def _vllm_server(
    name: str,
    what: str,
    model: str,
    args: list[str],
    probe: Probe,
    tools: Toolbox,
    env: dict[str, str],
    port: int,
    fork: bool,
) -> Part:
    own = vllm_args.server_env(vllm_args.SERVICES[name], model)
    return Part(
        name=name,
        what=what,
        argv=tuple(args) if fork else (tools.python_vllm, "-m", "vllm.entrypoints.openai.api_server", *args),
        env=own if fork else env | own,
        base="vllm-base" if fork else "",
        needs=("vllm-base",) if fork else (),
        port=port,
        ready=probe,
        startup_s=300.0 if tools.vllm_build != "cuda" else 900.0,  # a large model takes its time to load
        endpoints={name.replace("-", "_"): f"http://{HOST}:{port}"},
    )


def _later(part: Part) -> Part:
    """Embeddings wait for the agent path: on two cores each start-up beside it would delay the first answer."""
    from dataclasses import replace

    return replace(part, needs=(*part.needs, "vllm", "llama-stack"), essential=False)


def _tools(tools: Toolbox, state: Path, settings: Settings, ports: dict[str, int], url: dict[str, str]) -> Part:
    argv = (tools.python_lab, "-m", "lab.tools", "--host", HOST, "--port", str(ports["mcp"]))
    return Part(
        name="tools",
        what="MCP tool server over SQLite",
        argv=(*argv, "--db", str(state / "world.sqlite"), "--otlp-endpoint", url["otlp"]),
        env={
            "PYTHONPATH": str(REPO),
            "OTEL_SERVICE_NAME": Service.TOOLS,
            "LAB_DATA_DIR": str(settings.data_dir.resolve()),
        },
        port=ports["mcp"],
        ready=Probe("mcp", {"url": f"{url['mcp']}/mcp"}),
        endpoints={"mcp": url["mcp"]},
    )


def _llama_stack(
    settings: Settings,
    tools: Toolbox,
    state: Path,
    ports: dict[str, int],
    url: dict[str, str],
    external: dict[str, str],
) -> list[Part]:
    config = state / "run" / "llama-stack.yaml"
    server = Part(
        name="llama-stack",
        what="Llama Stack: runs the agent loop, finds documents",
        argv=(tools.python_lab, "-m", "lab.stack.llama_stack_server"),
        env={
            "PYTHONPATH": str(REPO),
            "LLAMA_STACK_CONFIG": str(config),
            "LAB_LLAMA_STACK_PORT": str(ports["llama_stack"]),
            "LAB_LLAMA_STACK_METRICS_PORT": str(ports["llama_stack_metrics"]),
            "LAB_OTLP_ENDPOINT": url["otlp"],
            "OTEL_SERVICE_NAME": Service.LLAMA_STACK,
            "TIKTOKEN_CACHE_DIR": tools.tiktoken_cache_dir,
            "HF_HUB_OFFLINE": "1",
            "SQLITE_STORE_DIR": str(state / "llama-stack"),
        },
        port=ports["llama_stack"],
        ready=Probe("models", {"url": url["llama_stack"], "model": llama_stack_config.model_id(settings.model_name)}),
        endpoints={"llama_stack": url["llama_stack"]},
    )
    documents = settings.data_dir / "world" / "documents"
    argv = (tools.python_lab, "-m", "lab.stack.rag", "--llama-stack", url["llama_stack"])
    ingest = Part(
        name="documents",
        what="the help desk's documents, put into Llama Stack's vector store",
        argv=(*argv, "--documents", str(documents.resolve()), "--result", str(state / "run" / "documents.json")),
        env={"PYTHONPATH": str(REPO)},
        needs=("llama-stack", "vllm-embed"),
        ready=Probe("exit"),
        task=True,
        essential=False,
    )
    return [server, ingest]
