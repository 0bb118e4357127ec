"""Tempo's answer to a trace by id, in either of its forms: `tempopb.TraceByIDResponse` as JSON or as protobuf."""

from __future__ import annotations

from typing import Any

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

JSON = "application/json"
PROTOBUF = "application/protobuf"  # exactly so: Tempo compares the whole of Accept


class _ById(msgspec.Struct):
    trace: msgspec.Raw = msgspec.Raw()
    status: str | int = ""


def _message() -> Any:
    """The class of the two fields that matter: trace = 1, left as the bytes that it is, and status = 3."""
    field = descriptor_pb2.FieldDescriptorProto
    one = field.LABEL_OPTIONAL
    fields = [
        field(name="trace", number=1, type=field.TYPE_BYTES, label=one),
        field(name="status", number=3, type=field.TYPE_INT32, label=one),
    ]
    message = descriptor_pb2.DescriptorProto(name="TraceByIDResponse", field=fields)
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(
        name="lab/stores/byid.proto", package="lab.stores", syntax="proto3"
    )
    file.message_type.append(message)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("lab.stores.TraceByIDResponse")
    )


_decode = msgspec.json.Decoder(_ById).decode
_from_string = _message().FromString


def of_json(body: bytes) -> tuple[bytes, bool]:
    """(the trace as OTLP JSON, b'' for none; whether Tempo calls it cut). Raises ValueError for another answer."""
    answer = _decode(body)
    trace = bytes(answer.trace)
    return trace if b'"spans"' in trace else b"", answer.status in ("PARTIAL", 1)


def of_protobuf(body: bytes) -> tuple[bytes, bool]:
    """(the trace as OTLP's TracesData, b'' for none; whether Tempo calls it cut). Raises ValueError."""
    try:
        answer = _from_string(body)
    except DecodeError as e:
        raise ValueError(str(e)) from e
    return answer.trace, answer.status == 1
