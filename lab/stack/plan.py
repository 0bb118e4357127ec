"""Which parts a lab has, for these settings, on these ports. Nothing is started here."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from lab.errors import SetupError
from lab.schema import Service
from lab.settings import REPO, Settings, split_login
from lab.stack import (
    grafana,
    llama_stack_config,
    parts,
    prometheus_config,
    replay,
    vllm_args,
)
from lab.stack.changes import NO_CHANGES, Changes
from lab.stack.model_folder import check_model_folder, joins_text_parts
from lab.stack.parts import Part, Probe
from lab.stack.ports import HOST
from lab.stack.toolbox import Toolbox

# macOS's frameworks do not survive a fork, nor does CUDA once it is initialised: there, each vLLM
# server imports vLLM itself.
CAN_FORK = sys.platform == "linux"
CANARY = "lab-model-canary"  # a folder of data/, and the name under which it is served
INCIDENT = "incident"
EXPORTERS = (Service.VLLM, Service.VLLM_CANARY, "vllm-embed", "tools", "llama-stack")  # of spans
LAB_MODULES = {"PYTHONPATH": str(REPO)}
OURS = ("tempo", "otlp", "vllm", "vllm_embed", "mcp", "llama_stack", "prometheus", "vllm_canary")


@dataclass(frozen=True)
class StackPlan:
    """The parts and the files that they read.

    Attributes:
        files: {path: text}
        endpoints: {name: base URL} of all endpoints
        own_endpoints: those of our own parts; the user's settings name the others
    """

    parts: tuple[Part, ...]
    files: dict[Path, str]
    endpoints: dict[str, str]
    own_endpoints: dict[str, str]


@dataclass(frozen=True)
class _Lab:
    """What the parts are made from.

    Attributes:
        external: endpoints that the user runs elsewhere, {name: URL}
        url: URLs of all endpoints, external or not
        changes: of an incident
    """

    settings: Settings
    tools: Toolbox
    ports: dict[str, int]
    external: dict[str, str]
    url: dict[str, str]
    changes: Changes

    @property
    def state(self) -> Path:
        return self.settings.state_dir.resolve()

    def file(self, name: str) -> Path:
        """Return the path of a file that is written for the parts to read."""
        return self.state / "run" / name

    def ports_of(self, *names: str) -> dict[str, int]:
        """Return these ports, as a Part lists them."""
        return {name: self.ports[name] for name in names}


def make_plan(
    settings: Settings,
    tools: Toolbox,
    ports: dict[str, int],
    external: dict[str, str],
    changes: Changes = NO_CHANGES,
) -> StackPlan:
    """Return all parts, without those whose endpoint is in `external`, with an incident's changes.

    In the place `recorded` they are the recording's stores. Raises ModelError for a model folder
    that is not complete, StackError for such a recording, SettingsError for a state folder that
    belongs to another place.
    """
    state = settings.state_dir.resolve()
    if settings.place == "recorded":
        config = state / "run" / "prometheus.yml"
        mark = replay.claim_state(state, settings.recording)
        recorded = replay.recorded_parts(settings, tools, ports, config)
        return _plan(recorded, {config: "global: {}\n"} | mark, external)

    url = {name: f"http://{HOST}:{ports[name]}" for name in OURS} | external
    url["otlp"], otlp_login = split_login(url["otlp"])
    lab = _Lab(settings, tools, ports, external, url, changes)
    ours = _live_parts(lab)
    if otlp_login:  # in the environment, because every user of the machine can read command lines
        header = {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": f"authorization={quote(otlp_login)}"}
        ours = [replace(p, env=p.env | header) if p.name in EXPORTERS else p for p in ours]
    return _plan(ours, _files(lab), external)


def _live_parts(lab: _Lab) -> list[Part]:
    """Return the parts of a live lab; each needs only those that are there."""
    ours: list[Part] = []
    if not {"tempo", "otlp"} & set(lab.external):
        what = "trace store: receives spans (OTLP), speaks Tempo's API"
        ours.append(parts.tracestore(what, lab.tools, lab.ports, lab.state))
    if "prometheus" not in lab.external:
        ours += _prometheus(lab)
    ours += _vllm(lab)
    if "mcp" not in lab.external:
        ours.append(_tools(lab))
    if "llama_stack" not in lab.external:
        ours += [_llama_stack_server(lab), _documents(lab)]
    if "view" not in lab.external:
        ours.append(parts.live_view(lab.settings, lab.tools, lab.ports))
    if lab.tools.grafana and "grafana" not in lab.external:
        ours.append(grafana.part(lab.tools.grafana, lab.ports["grafana"], lab.state))
    ours.append(_incident(lab))
    names = {p.name for p in ours}
    return [replace(p, needs=tuple(n for n in p.needs if n in names)) for p in ours]


def _plan(ours: Iterable[Part], files: dict[Path, str], external: dict[str, str]) -> StackPlan:
    ours = tuple(ours)
    own = {name: url for part in ours for name, url in part.endpoints.items()}
    return StackPlan(ours, files, own | external, own)


def chat_model(settings: Settings) -> tuple[str, int | None]:
    """Return (folder or hub name for vLLM to serve, its longest context if known).

    Raises ModelError if it is a folder that is missing or corrupt.
    """
    model = settings.model or str(settings.data_dir / "lab-model")
    if settings.model and not Path(model).exists() and not model.startswith((".", "/", "~")):
        return model, None  # a name on the model hub

    folder = Path(model).expanduser().resolve()
    fix = "restore data/lab-model with git, or train it again (README of data/lab-model)"
    if settings.model_name == CANARY:
        fix = f"restore data/{CANARY} with git"
    elif settings.model:
        fix = "correct LAB_MODEL, or leave it out to serve the lab's own model"
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
    """Describe the embedding model's vLLM server; the cluster's manifests use it too."""
    return vllm_args.VllmServer(model, vllm_args.EMBED_MODEL, port, otlp_url, build)


def _files(lab: _Lab) -> dict[Path, str]:
    on_demand = lab.file("on-demand-targets.json")
    rules = lab.file("prometheus-rules.yml")
    targets = prometheus_config.targets(lab.ports, lab.url, lab.external)
    if _has_gpu(lab):
        targets["gpu"] = f"{HOST}:{lab.ports['gpu']}"
    if lab.changes.unscraped in targets:
        # Not without the job: only a target that goes away makes its series stale at once.
        targets[lab.changes.unscraped] = ""
    url = lab.url | ({"vllm": lab.changes.chat_url} if lab.changes.chat_url else {})
    canary = CANARY if _has_canary(lab) else ""
    llama_stack = llama_stack_config.render(lab.settings, lab.ports, url, lab.state, canary)
    return {
        **(grafana.files(lab.state, lab.url) if lab.tools.grafana else {}),
        lab.file("vllm-logging.json"): vllm_args.logging_config(),
        lab.file("prometheus.yml"): prometheus_config.render(
            targets, on_demand, rules, alertmanager=_alertmanager(lab)
        ),
        lab.file("alertmanager.yml"): prometheus_config.alertmanager_config(),
        rules: prometheus_config.rules(),
        on_demand: "[]",
        lab.file("llama-stack.yaml"): llama_stack,
    }


def _prometheus(lab: _Lab) -> list[Part]:
    """Return Prometheus with the exporters of this machine and Alertmanager."""
    prometheus = parts.prometheus(
        "Prometheus: scrapes the metrics of all parts",
        lab.tools,
        lab.ports,
        lab.state,
        config=lab.file("prometheus.yml"),
        retention="7d",
    )
    jobs = prometheus_config.essential_jobs(lab.external)
    prometheus = replace(
        prometheus,
        ready=Probe("prometheus", {"url": lab.url["prometheus"], "jobs": jobs}),
        reloads=True,
        startup_s=900.0,  # it waits for the others to be scraped, each of which has its own limit
    )

    listen = f"{HOST}:{lab.ports['node']}"
    # stat: how many processes want to run; rapl: energy of the processor, where the machine has it
    collectors = ("cpu", "meminfo", "loadavg", "stat", "rapl")
    node = Part(
        name="node",
        what="node-exporter: the machine's own CPU, memory and load",
        argv=(
            lab.tools.node_exporter,
            f"--web.listen-address={listen}",
            "--collector.disable-defaults",
            *(f"--collector.{name}" for name in collectors),
            "--log.format=json",
        ),
        ports=lab.ports_of("node"),
        ready=Probe("http", {"url": f"http://{listen}/metrics"}),
        alive=f"http://{listen}/",
        essential=False,
    )
    ours = [prometheus, node]
    if _has_gpu(lab):
        ours.append(parts.gpu_exporter(lab.tools, lab.ports))
    if _alertmanager(lab):
        config = lab.file("alertmanager.yml")
        ours.append(parts.alertmanager(lab.tools, lab.ports, lab.state, config))
    return ours


def _has_gpu(lab: _Lab) -> bool:
    """Return whether there is a GPU to export, and our Prometheus to scrape it."""
    is_set_up = lab.tools.gpu_exporter and "prometheus" not in lab.external
    return bool(is_set_up) and parts.has_nvidia_driver()


def _alertmanager(lab: _Lab) -> str:
    """Return host:port of Alertmanager; empty where set-up could not fetch it."""
    return f"{HOST}:{lab.ports['alertmanager']}" if lab.tools.alertmanager else ""


def _vllm(lab: _Lab) -> list[Part]:
    servers = [_chat(lab)] if "vllm" not in lab.external else []
    servers += [_embeddings(lab)] if "vllm_embed" not in lab.external else []
    servers += [_canary(lab)] if _has_canary(lab) else []
    env = vllm_args.base_env(
        lab.tools.vllm_build, lab.tools.cache_dir, lab.file("vllm-logging.json")
    )

    if not (CAN_FORK and lab.tools.vllm_build == "cpu"):
        command = (lab.tools.python_vllm, "-m", "vllm.entrypoints.openai.api_server")
        return [replace(s, argv=(*command, *s.argv), env=env | s.env) for s in servers]

    base = Part(
        name="vllm-base",
        what="vLLM, imported once: the vLLM servers are forked from it",
        argv=(lab.tools.python_vllm, "-m", "lab.stack.vllm_zygote"),
        env=env,
        ready=Probe("imported"),
    )
    forked = [replace(s, base=base.name, needs=(base.name, *s.needs)) for s in servers]
    return [base, *forked] if forked else []


def _chat(lab: _Lab) -> Part:
    server = chat_server(lab.settings, lab.ports["vllm"], lab.url["otlp"], lab.tools.vllm_build)
    server = replace(server, extra=f"{server.extra} {lab.changes.vllm_args}".strip())
    return replace(
        _chat_part(lab, "vllm", Service.VLLM, server),
        what=f"vLLM: serves the chat model {server.model}",
        # A large model takes long to load.
        startup_s=300.0 if lab.tools.vllm_build != "cuda" else 900.0,
        endpoints={"vllm": lab.url["vllm"]},
    )


def _has_canary(lab: _Lab) -> bool:
    """Return whether there is a second model to compare with: only beside our own chat model."""
    ours = not {"vllm", "llama_stack"} & set(lab.external)
    return ours and (lab.settings.data_dir / CANARY).is_dir()


def _canary(lab: _Lab) -> Part:
    """Return the chat model's earlier checkpoint, on demand, served in just the same way."""
    settings = lab.settings.model_copy(
        update={"model": str((lab.settings.data_dir / CANARY).resolve()), "model_name": CANARY}
    )
    port = lab.ports["vllm_canary"]
    server = chat_server(settings, port, lab.url["otlp"], lab.tools.vllm_build)
    return replace(
        _chat_part(lab, "vllm_canary", Service.VLLM_CANARY, server),
        what=f"vLLM: serves the canary {server.model}, on demand",
        essential=False,
        on_demand=True,
    )


def _chat_part(lab: _Lab, endpoint: str, service: str, server: vllm_args.VllmServer) -> Part:
    """Return the part of a chat model's server, named after its service."""
    return Part(
        name=service,
        what="",
        argv=tuple(vllm_args.chat_args(server)),
        env=vllm_args.server_env(service, server.model),
        ports=lab.ports_of(endpoint),
        ready=Probe("chat", {"url": lab.url[endpoint], "model": server.served_name}),
        alive=f"{lab.url[endpoint]}/health",
    )


def _embeddings(lab: _Lab) -> Part:
    """Return the embedding server, which waits for the agent path.

    On two cores, each start-up beside the agent's parts would delay the first answer.
    """
    model = lab.tools.embedding_model_dir
    check_model_folder(Path(model), fix="run `make setup`")
    server = embed_server(model, lab.ports["vllm_embed"], lab.url["otlp"], lab.tools.vllm_build)
    return Part(
        name="vllm-embed",
        what="vLLM: serves the embedding model for document search",
        argv=tuple(vllm_args.embed_args(server)),
        env=vllm_args.server_env(Service.VLLM_EMBED, model),
        needs=("vllm", "llama-stack"),
        ports=lab.ports_of("vllm_embed"),
        ready=Probe("embeddings", {"url": lab.url["vllm_embed"], "model": server.served_name}),
        alive=f"{lab.url['vllm_embed']}/health",
        essential=False,
        endpoints={"vllm_embed": lab.url["vllm_embed"]},
    )


def _tools(lab: _Lab) -> Part:
    listen = ("--host", HOST, "--port", str(lab.ports["mcp"]))
    data = ("--db", str(lab.state / "world.sqlite"), "--otlp-endpoint", lab.url["otlp"])
    return Part(
        name="tools",
        what="MCP tool server over SQLite",
        argv=(lab.tools.python_lab, "-m", "lab.tools", *listen, *data),
        env=LAB_MODULES | {"OTEL_SERVICE_NAME": Service.TOOLS},
        ports=lab.ports_of("mcp"),
        ready=Probe("mcp", {"url": f"{lab.url['mcp']}/mcp"}),
        alive=f"{lab.url['mcp']}/healthz",
        endpoints={"mcp": lab.url["mcp"]},
    )


def _llama_stack_server(lab: _Lab) -> Part:
    url = lab.url["llama_stack"]
    model = llama_stack_config.model_id(lab.settings.model_name)
    env = {
        "LLAMA_STACK_CONFIG": str(lab.file("llama-stack.yaml")),
        "LAB_LLAMA_STACK_PORT": str(lab.ports["llama_stack"]),
        "LAB_LLAMA_STACK_METRICS_PORT": str(lab.ports["llama_stack_metrics"]),
        "LAB_OTLP_ENDPOINT": lab.url["otlp"],
        "OTEL_SERVICE_NAME": Service.LLAMA_STACK,
        "TIKTOKEN_CACHE_DIR": lab.tools.tiktoken_cache_dir,
        "HF_HUB_OFFLINE": "1",
    }
    python = lab.tools.python_lab
    product = "Llama Stack"
    if lab.settings.agent_server == "ogx":
        python = lab.tools.python_ogx
        product = "OGX (Llama Stack's newest name)"
        if not python:
            raise SetupError("OGX is not installed", fix="run `python3 -m scripts.setup ogx`")
    return Part(
        name="llama-stack",
        what=f"{product}: runs the agent loop, finds documents",
        argv=(python, "-m", "lab.stack.llama_stack_server"),
        env=LAB_MODULES | env,
        ports=lab.ports_of("llama_stack", "llama_stack_metrics"),
        ready=Probe("models", {"url": url, "model": model}),
        alive=f"{url}/v1/health",
        endpoints={"llama_stack": url},
    )


def _documents(lab: _Lab) -> Part:
    documents = (lab.settings.data_dir / "world" / "documents").resolve()
    return Part(
        name="documents",
        what="the help desk's documents, put into Llama Stack's vector store",
        argv=(
            *(lab.tools.python_lab, "-m", "lab.stack.ingest_documents"),
            *("--llama-stack", lab.url["llama_stack"]),
            *("--documents", str(documents)),
            *("--result", str(lab.file("documents.json"))),
        ),
        env=LAB_MODULES,
        needs=("llama-stack", "vllm-embed"),
        ready=Probe("exit"),
        task=True,
        essential=False,
    )


def _incident(lab: _Lab) -> Part:
    """Return the process of an incident, which makes its changes and undoes them as it ends."""
    return Part(
        name=INCIDENT,
        what="an incident on purpose, on demand (`lab incident`)",
        argv=(lab.tools.python_lab, "-m", "lab.incidents.worker", str(lab.state)),
        env=LAB_MODULES,
        ready=Probe("running"),
        essential=False,
        on_demand=True,
        temporary=True,
    )
