"""The little of Tempo's own protobuf that is needed.

A Trace is OTLP's TracesData on the wire; the response wraps it.
"""

from __future__ import annotations

from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

_TRACE_FIELD = 0x0A  # field 1, length-delimited
_STATUS_FIELD = 0x18  # field 3, varint


def trace_by_id_response(trace: TracesData, *, partial: bool = False) -> bytes:
    """tempopb.TraceByIDResponse: trace = 1, status = 3 (1: PARTIAL.

    COMPLETE is the default and is not written).
    """
    body = trace.SerializeToString()
    head = bytes([_TRACE_FIELD]) + _varint(len(body))
    return head + body + (bytes([_STATUS_FIELD, 1]) if partial else b"")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
