"""Which parts a lab has, for these settings, on these ports. Reads model folders' headers, starts nothing."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from lab.schema import Service
from lab.settings import REPO, Settings
from lab.stack import llama_stack_config, prometheus_config, replay_plan, vllm_args
from lab.stack.model_folder import check_model_folder, joins_text_parts
from lab.stack.parts import Part, Probe
from lab.stack.ports import HOST
from lab.stack.toolbox import Toolbox

# macOS's frameworks do not survive a fork, nor does CUDA once it is initialised: there each server imports vLLM itself.
CAN_FORK = sys.platform == "linux"
CANARY = "lab-model-canary"  # a folder of data/, and the name under which it is served
LAB_MODULES = {"PYTHONPATH": str(REPO)}


@dataclass(frozen=True)
class Plan:
    """The parts, and the files that they read: {path: text}."""

    parts: tuple[Part, ...]
    files: dict[Path, str]
    endpoints: dict[str, str]
    own_endpoints: dict[
        str, str
    ]  # without those that the user runs elsewhere; the user's settings name those


@dataclass(frozen=True)
class _Lab:
    """What the parts are made from."""

    settings: Settings
    tools: Toolbox
    ports: dict[str, int]
    external: dict[str, str]  # endpoints that the user runs elsewhere: {name: URL}
    url: dict[str, str]  # of every endpoint, ours or not

    @property
    def state(self) -> Path:
        return self.settings.state_dir.resolve()

    def file(self, name: str) -> Path:
        """A file that is written for the parts to read."""
        return self.state / "run" / name


def make_plan(
    settings: Settings, tools: Toolbox, ports: dict[str, int], external: dict[str, str]
) -> Plan:
    """All parts; none in place of an endpoint in `external`; in the place `recorded`, the recording's stores.

    Raises ModelError for a model folder that is not whole, StackError for a recording that is not.
    """
    if settings.place == "recorded":
        config = settings.state_dir.resolve() / "run" / "prometheus.yml"
        parts = replay_plan.parts(settings, tools, ports, config)
        ours = {name: address for p in parts for name, address in p.endpoints.items()}
        return Plan(parts, {config: "global: {}\n"}, ours | external, ours)
    own = ("tempo", "otlp", "vllm", "vllm_embed", "mcp", "llama_stack", "prometheus", "vllm_canary")
    url = {name: f"http://{HOST}:{ports[name]}" for name in own} | external
    lab = _Lab(settings, tools, ports, external, url)
    parts = [*_tracestore(lab), *_prometheus(lab), *_vllm(lab), *_tools(lab), *_llama_stack(lab)]
    names = {p.name for p in parts}
    parts = [replace(p, needs=tuple(n for n in p.needs if n in names)) for p in parts]
    ours = {name: address for p in parts for name, address in p.endpoints.items()}
    return Plan(tuple(parts), _files(lab), ours | external, ours)


def chat_model(settings: Settings) -> tuple[str, int | None]:
    """(folder or hub name that vLLM should serve, its longest context if known).

    Raises ModelError if it is a folder that is missing or corrupt.
    """
    wanted = settings.model or str(settings.data_dir / "lab-model")
    if settings.model and not Path(wanted).exists() and not wanted.startswith((".", "/", "~")):
        return wanted, None  # a name on the model hub
    fix = (
        "correct LAB_MODEL, or leave it out to serve the lab's own model"
        if settings.model
        else "restore data/lab-model with git, or train it again (README of data/lab-model)"
    )
    folder = Path(wanted).expanduser().resolve()
    config = check_model_folder(folder, fix=fix)
    return str(folder), config.get("max_position_embeddings")


def chat_server(settings: Settings, port: int, otlp_url: str, build: str) -> vllm_args.VllmServer:
    """Describe the chat model's vLLM server; the cluster's manifests are generated from it too.

    Raises ModelError if the model is a folder that is missing or corrupt.
    """
    model, context = chat_model(settings)
    return vllm_args.VllmServer(
        model,
        settings.model_name,
        port,
        otlp_url,
        build,
        max_context=context,
        text_parts=joins_text_parts(Path(model)),
        extra=settings.vllm_args,
    )


def embed_server(model: str, port: int, otlp_url: str, build: str) -> vllm_args.VllmServer:
    """Describe the embedding model's vLLM server; the cluster's manifests are generated from it too."""
    return vllm_args.VllmServer(model, vllm_args.EMBED_MODEL, port, otlp_url, build)


def _files(lab: _Lab) -> dict[Path, str]:
    scraped = prometheus_config.targets(lab.ports, lab.url, lab.external)
    return {
        lab.file("vllm-logging.json"): vllm_args.logging_config(),
        lab.file("prometheus.yml"): prometheus_config.render(
            scraped, lab.file("on-demand-targets.json")
        ),
        lab.file("on-demand-targets.json"): "[]",
        lab.file("llama-stack.yaml"): llama_stack_config.render(
            lab.settings, lab.ports, lab.url, lab.state, CANARY if _has_canary(lab) else ""
        ),
    }


def _tracestore(lab: _Lab) -> list[Part]:
    if "tempo" in lab.external or "otlp" in lab.external:
        return []
    ports = ("--port", str(lab.ports["tempo"]), "--otlp-port", str(lab.ports["otlp"]))
    return [
        Part(
            name="tracestore",
            what="trace store: takes spans (OTLP), speaks Tempo's API",
            argv=(
                lab.tools.python_lab,
                "-m",
                "lab.tracestore",
                *ports,
                "--data",
                str(lab.state / "traces"),
            ),
            env=LAB_MODULES,
            port=lab.ports["tempo"],
            ready=Probe("http", {"url": f"{lab.url['tempo']}/ready"}),
            endpoints={"tempo": lab.url["tempo"], "otlp": lab.url["otlp"]},
            grace_s=10.0,
        )
    ]


def _prometheus(lab: _Lab) -> list[Part]:
    if "prometheus" in lab.external:
        return []
    prometheus = Part(
        name="prometheus",
        what="Prometheus: scrapes the metrics of all parts",
        argv=(
            lab.tools.prometheus,
            f"--config.file={lab.file('prometheus.yml')}",
            f"--storage.tsdb.path={lab.state / 'prometheus'}",
            f"--web.listen-address={HOST}:{lab.ports['prometheus']}",
            "--log.format=json",
            "--storage.tsdb.retention.time=7d",
        ),
        port=lab.ports["prometheus"],
        ready=Probe(
            "prometheus",
            {"url": lab.url["prometheus"], "jobs": prometheus_config.essential_jobs(lab.external)},
        ),
        startup_s=900.0,  # it waits for the others to be there to scrape, each of which has its own limit
        endpoints={"prometheus": lab.url["prometheus"]},
    )
    listen = f"{HOST}:{lab.ports['node']}"
    # stat: how many processes want to run; rapl: the energy of the processor, where the machine shows it.
    wanted = ("cpu", "meminfo", "loadavg", "stat", "rapl")
    collectors = ("--collector.disable-defaults", *(f"--collector.{name}" for name in wanted))
    node = Part(
        name="node",
        what="node-exporter: the machine's own CPU, memory and load",
        argv=(
            lab.tools.node_exporter,
            f"--web.listen-address={listen}",
            *collectors,
            "--log.format=json",
        ),
        port=lab.ports["node"],
        ready=Probe("http", {"url": f"http://{listen}/metrics"}),
        essential=False,
    )
    return [prometheus, node]


def _vllm(lab: _Lab) -> list[Part]:
    fork = CAN_FORK and lab.tools.vllm_build == "cpu"
    env = vllm_args.base_env(
        lab.tools.vllm_build, lab.tools.cache_dir, lab.file("vllm-logging.json")
    )
    servers = [_chat(lab)] if "vllm" not in lab.external else []
    servers += [_embeddings(lab)] if "vllm_embed" not in lab.external else []
    servers += [_canary(lab)] if _has_canary(lab) else []
    if not fork:
        command = (lab.tools.python_vllm, "-m", "vllm.entrypoints.openai.api_server")
        return [replace(s, argv=(*command, *s.argv), env=env | s.env) for s in servers]
    base = Part(
        name="vllm-base",
        what="vLLM, imported once: the vLLM servers are forked from it",
        argv=(lab.tools.python_vllm, "-m", "lab.stack.vllm_base"),
        env=env,
        ready=Probe("imported"),
    )
    forked = [replace(s, base=base.name, needs=(base.name, *s.needs)) for s in servers]
    return [base, *forked] if forked else []


def _chat(lab: _Lab) -> Part:
    server = chat_server(lab.settings, lab.ports["vllm"], lab.url["otlp"], lab.tools.vllm_build)
    return Part(
        name="vllm",
        what=f"vLLM: serves the chat model {server.model}",
        argv=tuple(vllm_args.chat_args(server)),
        env=vllm_args.server_env(Service.VLLM, server.model),
        port=server.port,
        ready=Probe("chat", {"url": lab.url["vllm"], "model": server.served_name}),
        startup_s=300.0
        if lab.tools.vllm_build != "cuda"
        else 900.0,  # a large model takes its time to load
        endpoints={"vllm": lab.url["vllm"]},
    )


def _has_canary(lab: _Lab) -> bool:
    """Whether there is a second model to compare with: only beside a vLLM and a Llama Stack of our own."""
    ours = not {"vllm", "llama_stack"} & set(lab.external)
    return ours and (lab.settings.data_dir / CANARY).is_dir()


def _canary(lab: _Lab) -> Part:
    """The chat model's earlier checkpoint, served beside it on demand and in just the same way."""
    folder = str((lab.settings.data_dir / CANARY).resolve())
    config = check_model_folder(Path(folder), fix=f"restore data/{CANARY} with git")
    server = vllm_args.VllmServer(
        folder,
        CANARY,
        lab.ports["vllm_canary"],
        lab.url["otlp"],
        lab.tools.vllm_build,
        max_context=config.get("max_position_embeddings"),
        text_parts=joins_text_parts(Path(folder)),
        extra=lab.settings.vllm_args,
    )
    return Part(
        name="vllm-canary",
        what=f"vLLM: serves the canary {folder}, on demand",
        argv=tuple(vllm_args.chat_args(server)),
        env=vllm_args.server_env(Service.VLLM_CANARY, folder),
        port=server.port,
        ready=Probe("chat", {"url": lab.url["vllm_canary"], "model": CANARY}),
        essential=False,
        on_demand=True,
    )


def _embeddings(lab: _Lab) -> Part:
    """It waits for the agent path: on two cores each start-up beside it would delay the first answer."""
    model = lab.tools.embedding_model_dir
    check_model_folder(Path(model), fix="run `make setup`")
    server = embed_server(model, lab.ports["vllm_embed"], lab.url["otlp"], lab.tools.vllm_build)
    return Part(
        name="vllm-embed",
        what="vLLM: serves the embedding model for document search",
        argv=tuple(vllm_args.embed_args(server)),
        env=vllm_args.server_env(Service.VLLM_EMBED, model),
        needs=("vllm", "llama-stack"),
        port=server.port,
        ready=Probe("embeddings", {"url": lab.url["vllm_embed"], "model": server.served_name}),
        essential=False,
        endpoints={"vllm_embed": lab.url["vllm_embed"]},
    )


def _tools(lab: _Lab) -> list[Part]:
    if "mcp" in lab.external:
        return []
    address = ("--host", HOST, "--port", str(lab.ports["mcp"]))
    data = ("--db", str(lab.state / "world.sqlite"), "--otlp-endpoint", lab.url["otlp"])
    return [
        Part(
            name="tools",
            what="MCP tool server over SQLite",
            argv=(lab.tools.python_lab, "-m", "lab.tools", *address, *data),
            env=LAB_MODULES | {"OTEL_SERVICE_NAME": Service.TOOLS},
            port=lab.ports["mcp"],
            ready=Probe("mcp", {"url": f"{lab.url['mcp']}/mcp"}),
            endpoints={"mcp": lab.url["mcp"]},
        )
    ]


def _llama_stack(lab: _Lab) -> list[Part]:
    if "llama_stack" in lab.external:
        return []
    url = lab.url["llama_stack"]
    server = Part(
        name="llama-stack",
        what="Llama Stack: runs the agent loop, finds documents",
        argv=(lab.tools.python_lab, "-m", "lab.stack.llama_stack_server"),
        env=LAB_MODULES
        | {
            "LLAMA_STACK_CONFIG": str(lab.file("llama-stack.yaml")),
            "LAB_LLAMA_STACK_PORT": str(lab.ports["llama_stack"]),
            "LAB_LLAMA_STACK_METRICS_PORT": str(lab.ports["llama_stack_metrics"]),
            "LAB_OTLP_ENDPOINT": lab.url["otlp"],
            "OTEL_SERVICE_NAME": Service.LLAMA_STACK,
            "TIKTOKEN_CACHE_DIR": lab.tools.tiktoken_cache_dir,
            "HF_HUB_OFFLINE": "1",
        },
        port=lab.ports["llama_stack"],
        ready=Probe(
            "models", {"url": url, "model": llama_stack_config.model_id(lab.settings.model_name)}
        ),
        endpoints={"llama_stack": url},
    )
    documents = (lab.settings.data_dir / "world" / "documents").resolve()
    arguments = (
        "--llama-stack",
        url,
        "--documents",
        str(documents),
        "--result",
        str(lab.file("documents.json")),
    )
    ingest = Part(
        name="documents",
        what="the help desk's documents, put into Llama Stack's vector store",
        argv=(lab.tools.python_lab, "-m", "lab.stack.rag", *arguments),
        env=LAB_MODULES,
        needs=("llama-stack", "vllm-embed"),
        ready=Probe("exit"),
        task=True,
        essential=False,
    )
    return [server, ingest]
