"""Generate telemetry of any size for benchmarks/frames.py: series, traces and complete runs.

The data is synthetic but has the shape of real telemetry: a trace is an agent request of ten spans
with the attributes that the lab's parts record.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from lab.schema import CLIENT_RECORD, Attr, Service, Span

START_S = 1_760_000_000
STEP_S = 15
_STACK = Service.LLAMA_STACK
_VLLM = Service.VLLM
_TOOLS = Service.TOOLS

# (index of the parent, service, name, kind, start and duration as shares of the request)
SHAPE = (
    (-1, Service.CLIENT, Span.CLIENT, "CLIENT", 0.00, 1.00),
    (0, _STACK, Span.LLAMA_STACK_RESPONSES, "SERVER", 0.02, 0.96),
    (1, _STACK, Span.LIST_TOOLS, "INTERNAL", 0.03, 0.05),
    (1, _STACK, "chat lab-model", "CLIENT", 0.10, 0.30),
    (3, _VLLM, Span.VLLM, "SERVER", 0.12, 0.27),
    (1, _STACK, "invoke_mcp_tool", "INTERNAL", 0.42, 0.15),
    (5, _TOOLS, "execute_tool quote_price", "INTERNAL", 0.45, 0.10),
    (1, _STACK, "chat lab-model", "CLIENT", 0.60, 0.32),
    (7, _VLLM, Span.VLLM, "SERVER", 0.61, 0.30),
    (6, _TOOLS, "sqlite query", "CLIENT", 0.46, 0.02),
)


def write_openmetrics(path: Path, series: int, points: int) -> None:
    """Write growing series in the format of `promtool tsdb create-blocks-from openmetrics`."""
    rng = random.Random(1)
    with path.open("w") as out:
        out.write("# TYPE lab_bench gauge\n")
        for number in range(series):
            labels = (
                f'instance="127.0.0.1:{8000 + number % 20}",job="vllm",engine="{number % 4}",'
                f'series="{number}"'
            )
            value = 0.0
            for point in range(points):
                value += rng.random()
                out.write(f"lab_bench{{{labels}}} {value:.6f} {START_S + point * STEP_S}\n")
        out.write("# EOF\n")


def documents(traces: int) -> Iterator[bytes]:
    """Yield one v2 response of Tempo per trace: {"trace": {"resourceSpans": [...]}}."""
    rng = random.Random(2)
    for number in range(traces):
        spans_of: dict[str, list[dict]] = {}
        trace_id = base64.b64encode(rng.randbytes(16)).decode()
        ids = [base64.b64encode(rng.randbytes(8)).decode() for _ in SHAPE]
        start_ns = (START_S + number * 0.05) * 1e9
        duration_ns = rng.uniform(0.5, 3) * 1e9
        for index, (parent, service, name, kind, offset, share) in enumerate(SHAPE):
            attributes = _attributes(name, number, share * duration_ns / 1e9)
            span = {
                "traceId": trace_id,
                "spanId": ids[index],
                "name": name,
                "kind": f"SPAN_KIND_{kind}",
                "startTimeUnixNano": str(int(start_ns + offset * duration_ns)),
                "endTimeUnixNano": str(int(start_ns + (offset + share) * duration_ns)),
                "attributes": [{"key": key, "value": value} for key, value in attributes],
                "status": {},
            }
            if parent >= 0:
                span["parentSpanId"] = ids[parent]
            spans_of.setdefault(service, []).append(span)

        resource_spans = [_resource_spans(*item) for item in spans_of.items()]
        yield json.dumps({"trace": {"resourceSpans": resource_spans}}).encode()


def write_protobufs(folder: Path) -> None:
    """Convert the responses in `folder`/traces.jsonl to protobuf; `protobufs` reads them."""
    from google.protobuf import json_format
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

    from lab.tracestore.rebuild import trace_by_id_response

    responses = []
    with (folder / "traces.jsonl").open("rb") as lines:
        for line in lines:
            trace = json_format.ParseDict(json.loads(line)["trace"], TracesData())
            responses.append(trace_by_id_response(trace))
    (folder / "traces.msgpack").write_bytes(msgspec.msgpack.encode(responses))


def protobufs(folder: Path) -> list[bytes]:
    """Return one v2 response of Tempo per trace, as protobuf."""
    return msgspec.msgpack.decode((folder / "traces.msgpack").read_bytes(), type=list[bytes])


def _resource_spans(service: str, spans: list[dict]) -> dict:
    resource = [{"key": Attr.SERVICE, "value": {"stringValue": service}}]
    return {
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": {"name": "x"}, "spans": spans}],
    }


def _attributes(name: str, number: int, duration_s: float) -> Iterator[tuple[str, dict]]:
    if name == Span.VLLM:
        yield "gen_ai.request.id", {"stringValue": f"chatcmpl-{number}"}
        yield Attr.VLLM_PROMPT_TOKENS, {"intValue": str(200 + number % 100)}
        yield Attr.VLLM_COMPLETION_TOKENS, {"intValue": "20"}
        shares = (
            (Attr.VLLM_QUEUE_S, 0.05),
            (Attr.VLLM_PREFILL_S, 0.2),
            (Attr.VLLM_DECODE_S, 0.7),
            (Attr.VLLM_E2E_S, 0.99),
            (Attr.VLLM_TTFT_S, 0.27),
            (Attr.VLLM_INFERENCE_S, 0.9),
        )
        for key, share in shares:
            yield key, {"doubleValue": duration_s * share}
        return

    yield Attr.TENANT, {"stringValue": f"tenant-{number % 5}"}
    yield Attr.RUN, {"stringValue": "run"}
    yield Attr.REQUEST, {"stringValue": f"r{number}"}
    yield Attr.SESSION, {"stringValue": f"s{number % 1000}"}
    if name.startswith(Span.CHAT_PREFIX):
        yield Attr.OPERATION, {"stringValue": "chat"}
        yield Attr.REQUEST_MODEL, {"stringValue": "lab-model"}
        yield Attr.INPUT_TOKENS, {"intValue": str(200 + number % 100)}
        yield Attr.CACHE_READ_TOKENS, {"intValue": "64"}
    if name == "invoke_mcp_tool":
        yield Attr.LLAMA_STACK_TOOL_NAME, {"stringValue": "quote_price"}


def run_frames(requests: int, seed: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the records and spans of a run, with ten spans per request.

    Both have the columns and dtypes of lab.frames. The spans are in random order.
    """
    rng = np.random.default_rng(seed)
    size = len(SHAPE)
    count = requests * size
    trace_ids = np.array([f"{n:032x}" for n in rng.integers(1, 2**62, requests)], dtype=object)
    span_ids = np.array([f"{n:016x}" for n in rng.integers(1, 2**62, count)], dtype=object)
    parent, service, name, kind, offset, share = zip(*SHAPE, strict=True)
    parent_index = np.tile(parent, requests)
    first_span = np.arange(count) // size * size
    parents = np.where(parent_index < 0, "", span_ids[first_span + parent_index])

    duration_s = np.repeat(rng.uniform(0.5, 3, requests), size)
    request_start = np.repeat(START_S + np.arange(requests) * 0.05, size)
    start = request_start + np.tile(offset, requests) * duration_s
    start_at = (start * 1e9).astype("int64").view("datetime64[ns]")
    spans = {
        "trace_id": pd.array(np.repeat(trace_ids, size), dtype="str"),
        "span_id": pd.array(span_ids, dtype="str"),
        "parent_id": pd.array(parents, dtype="str"),
        "service": pd.Categorical(np.tile(np.array(service, dtype=object), requests)),
        "name": pd.Categorical(np.tile(np.array(name, dtype=object), requests)),
        "kind": pd.Categorical(np.tile(np.char.lower(kind).astype(object), requests)),
        "start_at": pd.DatetimeIndex(start_at, tz="UTC"),
        "duration_s": np.tile(share, requests) * duration_s,
        "status": pd.Categorical(
            np.full(count, "unset", dtype=object), categories=["unset", "ok", "error"]
        ),
        "status_message": pd.array(np.full(count, "", dtype=object), dtype="str"),
    }

    is_vllm = np.tile(np.array(name) == Span.VLLM, requests)
    shares = {Attr.VLLM_QUEUE_S: 0.05, Attr.VLLM_PREFILL_S: 0.2, Attr.VLLM_DECODE_S: 0.7}
    for key, part in shares.items():
        spans[key] = np.where(is_vllm, spans["duration_s"] * part, np.nan)
    for key in (Attr.VLLM_PROMPT_TOKENS, Attr.VLLM_COMPLETION_TOKENS):
        spans[key] = np.where(is_vllm, 100.0, np.nan)

    frame = pd.DataFrame(spans, copy=False)
    shuffled = frame.iloc[rng.permutation(count)].reset_index(drop=True)
    return _records(trace_ids, duration_s[::size]), shuffled


def _records(trace_ids: np.ndarray, duration_s: np.ndarray) -> pd.DataFrame:
    size = len(trace_ids)
    numbers = np.arange(size)
    blank = {
        "string": pd.array(np.full(size, "", dtype=object), dtype="string"),
        "int64": 0,
        "float64": 0.0,
    }
    kinds = np.array(["single", "chain", "rag"], dtype=object)[numbers % 3]
    columns = {c.name: blank["string" if c.dtype == "json" else c.dtype] for c in CLIENT_RECORD}
    columns |= {
        "request_id": pd.array(numbers.astype(str), dtype="string"),
        "trace_id": pd.array(trace_ids, dtype="string"),
        "kind": pd.array(kinds, dtype="string"),
        "api": pd.array(np.full(size, "responses", dtype=object), dtype="string"),
        "status": pd.array(np.full(size, "ok", dtype=object), dtype="string"),
        "scheduled_at": START_S + numbers * 0.05,
        "done_at": START_S + numbers * 0.05 + duration_s,
        "e2e_s": duration_s,
        "ttft_s": duration_s * 0.3,
        "lag_s": 0.001,
        "prompt_tokens": 200,
        "completion_tokens": 200,
    }
    return pd.DataFrame(columns)
