"""OTLP over gRPC, for senders that speak nothing else.

Needs grpcio, which the lab does not install: an option.

The same promise as over HTTP: OK comes after the spans are durable; a full queue says UNAVAILABLE,
which OTLP senders retry; a body that is not OTLP gets INVALID_ARGUMENT.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from lab.tracestore.engine import Engine
from lab.tracestore.errors import BadRequest, StoreBroken, TooLarge, TraceStoreError

log = logging.getLogger("lab.tracestore.otlp_grpc")

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
METHOD = "Export"
MAX_MESSAGE_BYTES = 32 * 2**20
_WORKERS = 8


class GrpcServer:
    """Listens on `host:port`; port 0 takes a free one.

    Raises TraceStoreError without grpcio, or where the port is taken.
    """

    def __init__(self, engine: Engine, host: str, port: int) -> None:
        """Bind the port; calls are answered after `start`."""
        try:
            import grpc
        except ImportError as e:
            raise TraceStoreError(
                "OTLP over gRPC needs grpcio",
                got="it is not installed",
                fix="pip install grpcio, or send OTLP over HTTP",
            ) from e
        self._grpc = grpc
        self._engine = engine
        export = grpc.unary_unary_rpc_method_handler(
            self._export
        )  # bytes in, bytes out: the decoding is ours
        self._server = grpc.server(
            ThreadPoolExecutor(_WORKERS, thread_name_prefix="grpc"),
            handlers=[grpc.method_handlers_generic_handler(SERVICE, {METHOD: export})],
            maximum_concurrent_rpcs=2 * _WORKERS,  # each holds up to `MAX_MESSAGE_BYTES`
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ],
        )
        try:
            self.port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as e:
            raise TraceStoreError(
                f"gRPC port {port} on {host} cannot be opened",
                got=str(e),
                fix="stop what holds it, or give another port",
            ) from e

    def start(self) -> None:
        """Accept calls."""
        self._server.start()
        log.info("listening for gRPC", extra={"grpc_port": self.port})

    def stop(self) -> None:
        """Finish running calls for up to 2 s, then end."""
        self._server.stop(grace=2).wait()

    def _export(self, payload: bytes, context: Any) -> bytes:
        try:
            if not self._engine.ready:
                raise StoreBroken("the trace store is not ready yet", retry_after_s=1)
            accepted = self._engine.ingest.submit(payload).result()
        except TraceStoreError as e:
            code = (
                self._grpc.StatusCode.INVALID_ARGUMENT
                if isinstance(e, BadRequest | TooLarge)
                else self._grpc.StatusCode.UNAVAILABLE
            )
            context.abort(code, str(e))
        answer = ExportTraceServiceResponse()
        if accepted.rejected:
            answer.partial_success.rejected_spans = accepted.rejected
            answer.partial_success.error_message = accepted.why
        return answer.SerializeToString()
