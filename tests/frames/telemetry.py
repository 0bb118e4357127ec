"""Build small telemetry with known answers: OTLP JSON documents and client records."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lab.schema import CLIENT_RECORD, Attr, Service, Span
from lab.stores import read_otlp_json

T0 = 1_800_000_000  # seconds since the epoch
SERVER = "SPAN_KIND_SERVER"
CLIENT = "SPAN_KIND_CLIENT"
INTERNAL = "SPAN_KIND_INTERNAL"


@dataclass(frozen=True)
class Answer:
    """An object with the fields of a SpansAnswer.

    Documents of OTLP JSON are converted to protobuf, as the store's client does it.
    """

    documents: tuple[bytes, ...] = ()
    protobufs: tuple[bytes, ...] = ()
    arrow: bytes | None = None

    def __post_init__(self) -> None:
        converted = read_otlp_json(*self.documents).protobufs
        object.__setattr__(self, "protobufs", self.protobufs or converted)


@dataclass(frozen=True)
class Metric:
    """An object with the fields of a Series."""

    labels: dict[str, str]
    pieces: tuple[bytes, ...]


@dataclass(frozen=True)
class Metrics:
    """An object with the fields of a MetricAnswer."""

    series: tuple[Metric, ...]


def metrics(*series: tuple[dict[str, str], list[tuple[float, str]]]) -> Metrics:
    """Return an answer with these series: ({label: value}, [(seconds, 'value')]) each."""
    return Metrics(tuple(Metric(labels, (_samples(samples),)) for labels, samples in series))


def _samples(samples: list[tuple[float, str]]) -> bytes:
    return json.dumps([[t, v] for t, v in samples], separators=(",", ":")).encode()


def span(
    number: int,
    parent: int,
    service: str,
    name: str,
    start_s: float,
    end_s: float,
    kind: str = INTERNAL,
    *,
    trace: int = 1,
    error: str = "",
    span_events: Sequence[tuple[str, dict[str, Any]]] = (),
    **attributes: Any,
) -> tuple[str, dict[str, Any]]:
    """Return (service, span in Tempo's JSON).

    Times are in seconds relative to T0; a `_` in an attribute's name is kept. `span_events` are
    (name, attributes).
    """
    status = {"code": "STATUS_CODE_ERROR", "message": error} if error else {}
    fields = {
        "traceId": _base64(trace, 16),
        "spanId": _base64(number, 8),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(round((T0 + start_s) * 1000) * 1_000_000),
        "endTimeUnixNano": str(round((T0 + end_s) * 1000) * 1_000_000),
        "attributes": _attributes(attributes),
        "events": [{"name": name, "attributes": _attributes(more)} for name, more in span_events],
        "status": status,
    }
    if parent:
        fields["parentSpanId"] = _base64(parent, 8)
    return service, fields


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value(plain)} for key, plain in values.items()]


def value(plain: Any) -> dict[str, Any]:
    """Return an attribute value in OTLP's JSON."""
    if isinstance(plain, bool):
        return {"boolValue": plain}
    if isinstance(plain, int):
        return {"intValue": str(plain)}
    if isinstance(plain, float):
        return {"doubleValue": plain}
    if isinstance(plain, list):
        return {"arrayValue": {"values": [value(v) for v in plain]}}
    return {"stringValue": plain}


def document(*spans: tuple[str, dict[str, Any]], key: str = "resourceSpans") -> bytes:
    """Return one trace as Tempo sends it, with the spans grouped by service."""
    by_service: dict[str, list[dict[str, Any]]] = {}
    for service, fields in spans:
        by_service.setdefault(service, []).append(fields)
    owners = [
        {
            "resource": {"attributes": [{"key": Attr.SERVICE, "value": {"stringValue": service}}]},
            "scopeSpans": [{"scope": {"name": "by hand"}, "spans": service_spans}],
        }
        for service, service_spans in by_service.items()
    ]
    return json.dumps({key: owners}).encode()


def agent_request(trace: int = 1, *, shift_s: float = 0.0) -> list[tuple[str, dict[str, Any]]]:
    """Return the spans of a complete agent request of 1.000 s.

    It has two turns, one tool call, 300 prompt tokens and 20 completion tokens. The phases in
    seconds: lag 0.010, network 0.040, stack 0.120, list 0.030, tool 0.200, model HTTP 0.100, queue
    0.050, prefill 0.150, decode 0.250, engine other 0.050.
    """
    base = trace * 100
    stack, vllm, tools = Service.LLAMA_STACK, Service.VLLM, Service.TOOLS

    def numbered_span(
        n: int,
        parent: int,
        service: str,
        name: str,
        a: float,
        b: float,
        kind: str = INTERNAL,
        **more: Any,
    ):
        return span(
            base + n,
            parent and base + parent,
            service,
            name,
            shift_s + a,
            shift_s + b,
            kind,
            trace=trace,
            **more,
        )

    return [
        numbered_span(1, 0, Service.CLIENT, Span.CLIENT, 0.0, 1.0, CLIENT),
        numbered_span(2, 1, stack, Span.LLAMA_STACK_RESPONSES, 0.030, 0.980, SERVER),
        numbered_span(3, 2, stack, Span.LIST_TOOLS, 0.050, 0.080),
        numbered_span(
            4, 2, stack, "chat lab-model", 0.100, 0.400, CLIENT, **{Attr.CACHE_READ_TOKENS: 16}
        ),
        numbered_span(5, 4, stack, "POST", 0.110, 0.390, CLIENT),
        numbered_span(
            6, 5, vllm, Span.VLLM, 0.120, 0.370, SERVER, **_engine(0.020, 0.080, 0.120, 100, 12)
        ),
        numbered_span(
            7,
            2,
            stack,
            "invoke_mcp_tool",
            0.420,
            0.620,
            **{Attr.LLAMA_STACK_TOOL_NAME: "gpu_price"},
        ),
        numbered_span(
            8, 7, tools, "execute_tool gpu_price", 0.450, 0.600, **{Attr.TOOL_NAME: "gpu_price"}
        ),
        numbered_span(
            9, 2, stack, "chat lab-model", 0.640, 0.940, CLIENT, **{Attr.CACHE_READ_TOKENS: 64}
        ),
        numbered_span(10, 9, stack, "POST", 0.650, 0.930, CLIENT),
        numbered_span(
            11, 10, vllm, Span.VLLM, 0.660, 0.910, SERVER, **_engine(0.030, 0.070, 0.130, 200, 8)
        ),
    ]


def _engine(
    queue_s: float, prefill_s: float, decode_s: float, prompt: int, completion: int
) -> dict[str, Any]:
    return {
        Attr.VLLM_QUEUE_S: queue_s,
        Attr.VLLM_PREFILL_S: prefill_s,
        Attr.VLLM_DECODE_S: decode_s,
        Attr.VLLM_PROMPT_TOKENS: prompt,
        Attr.VLLM_COMPLETION_TOKENS: completion,
    }


def records(*traces: int, **changes: Any) -> pd.DataFrame:
    """Return the client's records of agent requests: lag 10 ms, e2e 1 s, first token at 0.2 s."""
    rows = []
    for trace in traces:
        row: dict[str, Any] = {c.name: _ZERO[c.dtype] for c in CLIENT_RECORD}
        row.update(
            run_id="run",
            request_id=f"r{trace}",
            trace_id=f"{trace:032x}",
            api="responses",
            model="lab-model",
            scheduled_at=T0,
            sent_at=T0 + 0.010,
            first_token_at=T0 + 0.2,
            last_token_at=T0 + 0.9,
            done_at=T0 + 1.0,
            lag_s=0.010,
            ttft_s=0.2,
            e2e_s=1.0,
            status="ok",
            http_status=200,
            prompt_tokens=300,
            completion_tokens=20,
        )
        rows.append({**row, **changes})
    dtypes = {c.name: "string" if c.dtype == "json" else c.dtype for c in CLIENT_RECORD}
    return pd.DataFrame(rows, columns=list(dtypes)).astype(dtypes)


_ZERO = {"string": "", "json": "[]", "int64": 0, "float64": 0.0}


def _base64(number: int, size: int) -> str:
    return base64.b64encode(number.to_bytes(size, "big")).decode()
