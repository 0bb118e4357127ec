"""What a notebook does with a run: wait for its traces, join them with the client's record, judge, ask Prometheus.

Above the stages, like a notebook: each function is two or three calls to them that every notebook would repeat.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import numpy as np
import pandas as pd

from lab import stack
from lab.errors import NoData, NotUp
from lab.frames import histogram_frame, increase_exact, request_frame
from lab.kit import clusters
from lab.kit.arrived import wait_for_spans
from lab.kit.scrapes import of_vllm, scraped_until
from lab.kit.window import WindowRun
from lab.schema import PHASES, Metric
from lab.settings import Settings, load_settings
from lab.stores import Arrival, Prometheus
from lab.workload import Run
from lab.world import ActualCall, judge, scenario_of

VERDICTS = (
    "right_tool",
    "arguments_exact",
    "answer_states",
    "needless_call",
    "missing_call",
    "not_offered_call",
    "malformed",
)


@dataclass(frozen=True)
class Observation:
    """A run with its telemetry: `requests` (lab.schema.REQUEST_FRAME and the verdicts), `spans`, and what arrived."""

    requests: pd.DataFrame
    spans: pd.DataFrame
    arrival: Arrival


def stand_up(
    place: str = "local", wait_for: Literal["agent", "all"] = "all", *, window: str = ""
) -> Settings:
    """Settings of a lab that is up: started if it was not, with the ports that were free.

    'local' is the notebooks' default, for which `LAB_PLACE` or lab.toml may say another place. In the place `recorded`
    the recording's stores are started. With a `window` (see `drive`) nothing is sent, so in the place 'local' nothing
    is started: the stores are those of the settings, your own or a running lab's. `wait_for` as in `lab.stack.up`.
    Raises what `lab.stack.up` raises; for the place `cluster`, what `lab.kit.clusters.stand_up` raises.
    """
    if place == "cluster":
        settings = clusters.stand_up()
        logging.getLogger("httpx").setLevel(logging.WARNING)
        return settings
    chosen = {} if place == "local" else {"place": place}
    settings = load_settings(**chosen)
    if not (window and settings.place == "local"):
        stack.up(settings, wait_for=wait_for)
    # One line for every HTTP request would bury a notebook's own output: llama-stack-client's import switches them on.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return load_settings(**chosen)


def observe(run: Run, settings: Settings, wait_s: float = 30.0) -> Observation:
    """Wait (bounded) for the run's traces and make its request frame. Incomplete traces are kept and marked.

    A window's run was made of its traces, so of that nothing is waited for.
    """
    if isinstance(run, WindowRun):
        frame = request_frame(run.records, run.spans, judgements(run.records))
        return Observation(frame, run.spans, run.arrival())
    spans, arrival = wait_for_spans(settings, run.records, wait_s)
    return Observation(request_frame(run.records, spans, judgements(run.records)), spans, arrival)


def judgements(records: pd.DataFrame) -> pd.DataFrame:
    """Every request held against its scenario's ground truth: request_id and the VERDICTS (NA where it failed, or
    where nobody knows what was called and answered)."""
    rows = [{"request_id": r.request_id, **_verdict(r)} for r in records.itertuples()]
    frame = pd.DataFrame(rows, columns=["request_id", *VERDICTS])
    return frame.astype({name: "boolean" for name in VERDICTS})


def _verdict(record: Any) -> dict[str, bool]:
    if record.status != "ok" or pd.isna(record.scenario_id) or pd.isna(record.answer):
        return {}
    scenario = scenario_of(record.scenario_id)
    calls = [_actual(call) for call in listed(record.tool_calls)]
    verdict = judge(scenario.turns[record.turn_index], calls, record.answer or "", scenario.offered)
    return {name: getattr(verdict, name) for name in VERDICTS}


def listed(calls: Any) -> Iterable[dict[str, Any]]:
    """A record's tool calls as objects: they are JSON text in a saved run."""
    return json.loads(calls) if isinstance(calls, str) else calls


def _actual(call: dict[str, Any]) -> ActualCall:
    arguments = call["arguments"] if isinstance(call["arguments"], dict) else None
    output = call.get("output") or ""
    text = output if isinstance(output, str) else json.dumps(output)
    return ActualCall(
        call["tool"], arguments, text or str(call.get("error") or ""), bool(call.get("error"))
    )


def status_frame(settings: Settings) -> pd.DataFrame:
    """One row a part of the running lab (in a cluster, a pod): part, state, port, rss_mib, what. Raises NotUp."""
    if settings.place == "cluster":
        return clusters.status_frame(settings)
    parts = stack.status(settings)
    if not parts:
        raise NotUp(
            "no part of the lab runs", got=f"state folder {settings.state_dir}", fix="run `lab up`"
        )
    columns = {
        "part": [p.name for p in parts],
        "state": [p.state for p in parts],
        "port": [p.port or "" for p in parts],
        "rss_mib": [round((p.rss_bytes or 0) / 2**20) for p in parts],
        "what": [p.what for p in parts],
    }
    return pd.DataFrame(columns)


def tools_frame(settings: Settings) -> pd.DataFrame:
    """The tools that the MCP server offers, as it describes them: tool, description, parameters, writes."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"accept": "application/json, text/event-stream"}
    url = clusters.tools_url(settings) if settings.place == "cluster" else settings.endpoint("mcp")
    answer = httpx.post(f"{url}/mcp", json=message, headers=headers, timeout=settings.timeout_s)
    tools = answer.raise_for_status().json()["result"]["tools"]
    return pd.DataFrame(
        {
            "tool": [t["name"] for t in tools],
            "parameters": [", ".join(t["inputSchema"]["properties"]) for t in tools],
            "writes": [not t["annotations"]["readOnlyHint"] for t in tools],
            "description": [t["description"] for t in tools],
        }
    )


def durations_by_source(requests: pd.DataFrame) -> pd.DataFrame:
    """The same requests' duration as three processes saw it, in seconds: client, Llama Stack's span, vLLM's spans."""
    vllm = requests[["queue_s", "prefill_s", "decode_s", "engine_other_s"]].sum(axis=1, min_count=4)
    return pd.DataFrame(
        {
            "client": requests["e2e_s"],
            "Llama Stack": requests["e2e_s"]
            - requests["lag_s"]
            - requests["network_s"]
            - requests["unexplained_s"],
            "vLLM (all turns)": vllm,
        }
    )


def counter_totals(settings: Settings, run: Run) -> dict[str, float]:
    """Growth of vLLM's token counters over the run, exact: {prompt, cached, completion}; NaN for one that
    this version of vLLM does not have. Waits for a scrape."""
    prometheus = Prometheus(settings)
    start, end = run.window[0], scraped_until(settings, prometheus, run, settings.vllm_job)
    names = {
        "prompt": Metric.PROMPT_TOKENS,
        "cached": Metric.CACHED_TOKENS,
        "completion": Metric.GENERATION_TOKENS,
    }
    totals = {}
    for what, metric in names.items():
        try:
            answer = prometheus.samples(of_vllm(settings, prometheus.present(metric)), start, end)
            totals[what] = float(increase_exact(answer, start, end)["increase"].sum())
        except NoData:  # this version does not count them: not known is not 0
            totals[what] = float("nan")
    return totals


def histogram(settings: Settings, run: Run, metric: str) -> pd.DataFrame:
    """Buckets of one of vLLM's histograms over the run: lab.frames.histogram_frame."""
    prometheus = Prometheus(settings)
    start, end = run.window[0], scraped_until(settings, prometheus, run, settings.vllm_job)
    buckets = of_vllm(settings, prometheus.present(f"{metric}_bucket"))
    return histogram_frame(prometheus.samples(buckets, start, end).require(), start, end)


def output_items(response: Any) -> pd.DataFrame:
    """What an answer of the Responses API consists of, in order: item, name, arguments, output."""
    rows = []
    for item in response.output:
        found = item.model_dump()
        text = "".join(
            part.get("text") or "" for part in found.get("content") or [] if isinstance(part, dict)
        )
        tools = f"{len(found['tools'])} tools" if found.get("tools") else ""
        output = found.get("output") or found.get("error") or text or tools
        rows.append(
            (
                found["type"],
                found.get("name") or "",
                found.get("arguments") or "",
                str(output or ""),
            )
        )
    return pd.DataFrame(rows, columns=["item", "name", "arguments", "output"])


def outline(tree: pd.DataFrame) -> pd.DataFrame:
    """A trace's spans as an indented list: span, service, duration_ms, self_ms (time that no span inside explains)."""
    indented = [
        f"{'· ' * depth}{name}" for depth, name in zip(tree["depth"], tree["name"], strict=True)
    ]
    return pd.DataFrame(
        {
            "span": indented,
            "service": tree["service"].astype(str),
            "duration_ms": (tree["duration_s"] * 1e3).round(1),
            "self_ms": (tree["self_s"] * 1e3).round(1),
        }
    )


def phase_seconds(requests: pd.DataFrame) -> pd.Series:
    """Total seconds in each phase of these requests; they sum up to the total of their end-to-end times."""
    sums = requests[[*PHASES, "unexplained_s"]].sum()
    sums["overlap_s"] = -requests["overlap_s"].sum()
    return sums.rename("seconds")


def busy_s(spans: pd.DataFrame, service: str) -> float:
    """Seconds in which at least one span of a service was open: the union of their intervals."""
    mine = spans[spans["service"] == service].sort_values("start_at")
    start = mine["start_at"].dt.as_unit("ns").astype("int64").to_numpy() / 1e9
    end = start + mine["duration_s"].to_numpy()
    reach = np.maximum.accumulate(end)
    return float(
        np.maximum(0.0, end - np.maximum(start, np.concatenate(([-np.inf], reach[:-1])))).sum()
    )
