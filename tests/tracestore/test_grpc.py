"""OTLP over gRPC works if grpcio is installed, and is refused with a fix otherwise."""

from __future__ import annotations

import importlib.util
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from lab.tracestore.engine import Engine
from lab.tracestore.errors import TraceStoreError
from lab.tracestore.ingest import Accepted, Limits
from lab.tracestore.otlp_grpc import MAX_MESSAGE_BYTES, METHOD, SERVICE, GrpcServer
from tests.tracestore.corpus import random_spans, request_of
from tests.tracestore.test_faults import EXPANDING

HAS_GRPC = importlib.util.find_spec("grpc") is not None


@pytest.mark.skipif(HAS_GRPC, reason="grpcio is installed")
def test_without_grpcio_the_option_is_refused(tmp_path: Path) -> None:
    """The error explains what to install, without a traceback."""
    engine = Engine(tmp_path)
    with pytest.raises(TraceStoreError, match="pip install grpcio"):
        GrpcServer(engine, "127.0.0.1", 0)
    engine.store.close()


@pytest.mark.skipif(not HAS_GRPC, reason="grpcio is not installed")
def test_spans_come_in_over_grpc(tmp_path: Path) -> None:
    """OK means kept, wrong ids are a partial success, and errors have gRPC's status codes."""
    import grpc

    engine = Engine(tmp_path)
    engine.start()
    server = GrpcServer(engine, "127.0.0.1", 0)
    server.start()
    spans = random_spans(51, traces=3)
    request = request_of(spans)
    request.resource_spans[0].scope_spans[0].spans.add(trace_id=b"short", span_id=b"12345678")
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        export = channel.unary_unary(f"/{SERVICE}/{METHOD}")
        answer = ExportTraceServiceResponse.FromString(export(request.SerializeToString()))
        assert answer.partial_success.rejected_spans == 1
        assert engine.query(
            lambda con: con.execute("SELECT count(*) FROM spans").fetchone()[0]
        ) == len(spans)
        with pytest.raises(grpc.RpcError) as refused:
            export(b"\xff\xff\xff\xff")
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        engine.ingest.limits = Limits(pending_spans=-1)
        with pytest.raises(grpc.RpcError) as full:
            export(request.SerializeToString())
        assert full.value.code() is grpc.StatusCode.UNAVAILABLE
    server.stop()
    engine.stop()


@pytest.mark.skipif(not HAS_GRPC, reason="grpcio is not installed")
def test_the_limits_hold_over_grpc(tmp_path: Path) -> None:
    """Too large and expanding bodies are refused, and no more calls run at once than allowed."""
    import grpc

    engine = Engine(tmp_path)
    engine.start()
    server = GrpcServer(engine, "127.0.0.1", 0)
    server.start()
    waiting: list[Future] = []
    real = engine.ingest.submit
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        export = channel.unary_unary(f"/{SERVICE}/{METHOD}")
        for body, code in (
            (bytes(MAX_MESSAGE_BYTES + 1), grpc.StatusCode.RESOURCE_EXHAUSTED),
            (EXPANDING["attributes"], grpc.StatusCode.INVALID_ARGUMENT),
            (EXPANDING["spans"], grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                export(body)
            assert refused.value.code() is code

        def submit(payload: bytes) -> Future:
            waiting.append(Future())
            return waiting[-1]

        engine.ingest.submit = submit
        body = request_of(random_spans(52, traces=1)).SerializeToString()
        calls = [export.future(body) for _ in range(40)]
        refusals = 0
        for call in calls[16:]:
            with pytest.raises(grpc.RpcError) as refused:
                call.result(timeout=60)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            refusals += 1
        assert refusals == 24
        engine.ingest.submit = real
        deadline = time.monotonic() + 60
        while not all(call.done() for call in calls):
            for future in waiting:
                if not future.done():
                    future.set_result(Accepted(1, 0, ""))
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert all(call.code() is grpc.StatusCode.OK for call in calls[:16])
        export(body)
    server.stop()
    engine.stop()
