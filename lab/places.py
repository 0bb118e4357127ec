"""The places that the lab can be in: this machine, a Kubernetes cluster, or a recording.

A notebook calls `lab.stand_up(place)` and never asks again where it is. What differs between the
places is in the classes here; `place_of(settings)` returns the one that the settings name.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import pandas as pd

from lab import notebook, stack
from lab.errors import NotUp, SettingsError
from lab.runs import RUNS, Conditions, recorded_run, save_conditions
from lab.settings import Settings, load_settings
from lab.stack import cluster
from lab.stack.cluster.port_forwards import Connection
from lab.stack.control import LineProgress
from lab.stores import Prometheus
from lab.stores.http import HttpClient
from lab.workload import Plan, Run, join_shards, run_plan

NOTEBOOK = "this notebook (the load)"
ENDPOINT_OF = {  # part of a pod -> the endpoint that its port forward serves
    "vllm": "vllm",
    "vllm-embed": "vllm_embed",
    "llama-stack": "llama_stack",
    "lab-tools": "mcp",
    "tempo": "tempo",
    "prometheus": "prometheus",
    "grafana": "grafana",
    "otel-collector": "otlp",
}

WaitFor = Literal["agent", "all"]


class LocalPlace:
    """The whole stack as processes on this machine."""

    live = True  # requests can be sent, and telemetry still arrives
    runs_here = True  # the parts are processes of this machine
    max_trace_wait_s = math.inf

    def stand_up(self, settings: Settings, wait_for: WaitFor, window: str) -> None:
        """Start what is not running; nothing for a window, whose telemetry is there already."""
        if not (window and self.live):
            waiting = notebook.WaitingLine()
            stack.up(settings, waiting, wait_for)
            waiting.end()

    def run(self, settings: Settings, conditions: Conditions, plan: PlanMaker, **play: Any) -> Run:
        """Drive the plan and return the run, which is saved with its conditions.

        Raises what `run_plan` raises.
        """
        run = run_plan(plan(), settings, out_dir=settings.state_dir / RUNS, **play)
        save_conditions(run.folder, conditions)
        return run

    def tools_url(self, settings: Settings) -> str:
        """Return the address of the tool server, as this machine reaches it."""
        return settings.endpoint("mcp")

    def processes(self, settings: Settings) -> dict[int, str]:
        """Return {process id: part}, this process included; {} where no part runs here."""
        if not self.runs_here:
            return {}
        parts = {part.pid: part.name for part in stack.status(settings) if part.pid}
        return parts | {os.getpid(): NOTEBOOK} if parts else {}

    def status_frame(self, settings: Settings) -> pd.DataFrame:
        """Return one row per part. Raises NotUp where none runs."""
        parts = stack.status(settings)
        if not parts:
            raise NotUp(
                "no part of the lab is running",
                got=f"state folder {settings.state_dir}",
                fix="run `lab up`",
            )
        return pd.DataFrame(
            {
                "part": [part.name for part in parts],
                "state": [part.state for part in parts],
                "port": [part.port or "" for part in parts],
                "rss_mib": [round((part.rss_bytes or 0) / 2**20) for part in parts],
                "what": [part.what for part in parts],
            }
        )


PlanMaker = Callable[[], Plan]


class RecordedPlace(LocalPlace):
    """The telemetry and the runs of an earlier lab; only the two stores are started."""

    live = False
    runs_here = False
    max_trace_wait_s = 2.0  # a recording holds a trace from the beginning, or never

    def run(self, settings: Settings, conditions: Conditions, plan: PlanMaker, **play: Any) -> Run:
        """Return the recorded run of these conditions.

        Raises WorkloadError where the recording has none.
        """
        return recorded_run(settings, conditions)


class ClusterPlace(LocalPlace):
    """The same parts on Kubernetes, in the context and with the overlay that the user named."""

    runs_here = False

    def stand_up(self, settings: Settings, wait_for: WaitFor, window: str) -> None:
        """Apply the overlay unless all of it is ready, and connect to it.

        The cluster is the one that `lab up --place cluster` was last given, or LAB_CLUSTER_CONTEXT
        and LAB_CLUSTER_OVERLAY (lab.toml). Raises SettingsError where neither is set, and what
        `lab.stack.cluster.up` raises.
        """
        before = cluster.connection(settings)
        context, overlay = _named_cluster(settings, before)
        same = before and before.alive and (before.context, before.overlay) == (context, overlay)
        workloads = cluster.status(settings, context) if same else []
        if not (workloads and all(workload.ready for workload in workloads)):
            cluster.up(settings, context, overlay, LineProgress())

    def tools_url(self, settings: Settings) -> str:
        """Return the forwarded address; the settings' `mcp` is the one inside of the cluster."""
        return _connection(settings).reachable["mcp"]

    def status_frame(self, settings: Settings) -> pd.DataFrame:
        """Return one row per pod: the columns of a local lab, and `restarts`.

        `port` is the forwarded port on this machine. `rss_mib` is metrics-server's working set,
        otherwise what the part's own process exports to Prometheus (one process per part),
        otherwise missing. Raises NotUp where no pod of the lab exists.
        """
        connection = _connection(settings)
        pods = cluster.pods(settings, connection.context)
        if not pods:
            raise NotUp(
                "no pod of the lab is in the cluster",
                got=f"context {connection.context}",
                fix="stand it up with `lab up --place cluster`",
            )

        exported = {} if any(pod.memory_bytes for pod in pods) else _exported_memory(settings)
        ports = {name: url.rpartition(":")[2] for name, url in connection.reachable.items()}
        rows = []
        for pod in pods:
            port = ports.get(ENDPOINT_OF.get(pod.part, ""), "")
            memory = pod.memory_bytes or exported.get((pod.part, pod.name))
            rss_mib = None if memory is None else round(memory / 2**20)
            rows.append((pod.part, pod.state, port, rss_mib, pod.restarts, pod.why or pod.name))
        columns = ["part", "state", "port", "rss_mib", "restarts", "what"]
        return pd.DataFrame(rows, columns=columns).astype({"rss_mib": "Int64"})


_PLACES = {"local": LocalPlace(), "cluster": ClusterPlace(), "recorded": RecordedPlace()}


def place_of(settings: Settings) -> LocalPlace:
    """Return the place that the settings name."""
    return _PLACES[settings.place]


def stand_up(place: str = "local", wait_for: WaitFor = "all", *, window: str = "") -> Settings:
    """Return the settings of a lab that is up; it is started if it was not.

    `place` is `local`, `cluster` or `recorded`. `local` is the default of the notebooks, so
    LAB_PLACE and lab.toml can replace it. With a `window` (see `lab.drive`) nothing is sent, so in
    the place `local` nothing is started: the stores are those of the settings. `wait_for` is that
    of `lab.stack.up`. Raises what the place's `stand_up` raises.
    """
    chosen: dict[str, Any] = {} if place == "local" else {"place": place}
    settings = load_settings(**chosen)
    place_of(settings).stand_up(settings, wait_for, window)

    # llama-stack-client switches on one log line per HTTP request, which would bury the output.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    notebook.align_text_columns()
    return load_settings(**chosen)


def status_frame(settings: Settings) -> pd.DataFrame:
    """Return the parts of the running lab: part, state, port, rss_mib, what.

    Raises NotUp.
    """
    return place_of(settings).status_frame(settings)


def tools_frame(settings: Settings) -> pd.DataFrame:
    """Return the MCP server's tools: tool, parameters, writes, description.

    Raises StoreError where the server does not answer, or not as an MCP server.
    """
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accept = "application/json, text/event-stream"
    url = place_of(settings).tools_url(settings)
    client = HttpClient("the tool server", url, settings.timeout_s)
    try:
        reply = client.request("/mcp", accept=accept, json=message)
        if reply.status >= 300:
            raise client.refusal(reply, "tools/list")
        tools = msgspec.json.decode(reply.content)["result"]["tools"]
        return pd.DataFrame(
            {
                "tool": [tool["name"] for tool in tools],
                "parameters": [", ".join(tool["inputSchema"]["properties"]) for tool in tools],
                "writes": [not tool["annotations"]["readOnlyHint"] for tool in tools],
                "description": [tool["description"] for tool in tools],
            }
        )
    except (msgspec.DecodeError, LookupError, TypeError, ValueError, RecursionError) as e:
        raise client.not_its_api(reply, "tools/list", e) from e
    finally:
        client.close()


def run_shards(plan: Plan, settings: Settings, shards: int, lead_s: float = 60.0) -> Run:
    """Drive a plan from `shards` pods of the cluster; return the run, which is saved.

    All pods begin in `lead_s` seconds.

    Raises WorkloadError and StackError as `lab.stack.cluster.load` and `collect` do.
    """
    context = _connection(settings).context
    with tempfile.TemporaryDirectory() as folder:
        plan_file = plan.save(Path(folder) / "plan.jsonl")
        run_id = cluster.load(settings, context, Path(plan_file), shards, lead_s)
        parts = []
        for index, part in enumerate(
            cluster.collect(settings, context, run_id, Path(folder) / run_id)
        ):
            plan.shard(index, shards).save(part / "plan.jsonl")
            parts.append(Run.load(part))
        run = join_shards(plan, parts, run_id)

    run.save(settings.state_dir / RUNS)
    return run


def _named_cluster(settings: Settings, before: Connection | None) -> tuple[str, str]:
    """Return the context and the overlay that the user named. Raises SettingsError."""
    context = settings.cluster_context or (before.context if before else "")
    overlay = settings.cluster_overlay or (before.overlay if before else "")
    if not (context and overlay):
        raise SettingsError(
            "no cluster was named, and the lab never chooses one",
            got=f"cluster_context {context!r}, cluster_overlay {overlay!r}, "
            f"nothing in {settings.state_dir}",
            fix="`lab up --place cluster --context NAME --overlay NAME`, or set "
            "LAB_CLUSTER_CONTEXT and LAB_CLUSTER_OVERLAY",
        )
    return context, overlay


def _connection(settings: Settings) -> Connection:
    connection = cluster.connection(settings)
    if connection is None:
        raise NotUp(
            "no cluster is connected", got=f"{settings.state_dir}", fix="`lab up --place cluster`"
        )
    return connection


def _exported_memory(settings: Settings) -> dict[tuple[str, str], float]:
    """Return {(job, pod): bytes} of the processes that export their own memory."""
    answer = Prometheus(settings).query("process_resident_memory_bytes")
    return {
        (s["metric"].get("job", ""), s["metric"].get("pod", "")): float(s["value"][1])
        for s in answer.metrics
    }
