"""`python -m lab.tools`: serve the tools until SIGTERM."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from lab.errors import LabError, SetupError
from lab.tools.calls import Calls, Database
from lab.tools.faults import Faults
from lab.tools.telemetry import Metrics, log_json_lines, tracer_provider

log = logging.getLogger("lab.tools")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lab.tools", description="Serve the help desk's tools until SIGTERM."
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, required=True, help="port to listen on; 0 chooses a free one")
    add(
        "--allowed-host",
        action="append",
        default=[],
        help="a further name that requests may use for this server, such as *.example.internal; "
        "may be repeated",
    )
    add("--db", type=Path, required=True, help="SQLite file; made from the world's seed if absent")
    add("--otlp-endpoint", default="", help="base URL of an OTLP/HTTP receiver for traces")
    add("--slow-s", type=float, default=1.5, help="seconds that the slow tool takes")
    add("--failure-ratio", type=float, default=0.3, help="share of failures of the flaky tool")
    add("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser.parse_args(argv)


def _without_iri_grammar() -> None:
    """Keep jsonschema, which MCP imports, from compiling a grammar of IRIs.

    It does so at every start if it can import that package, which takes seconds, for a format that
    no tool has.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def _leave(*_: object) -> None:
    """End in order when uvicorn raises the signal again after its shutdown.

    Without a handler the signal would end the process before the last spans were sent.
    """
    sys.exit(0)


def _socket(host: str, port: int) -> socket.socket:
    """Return a bound socket. Raises SetupError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as e:
        listening.close()
        raise SetupError(
            f"the tool server cannot listen on {host}:{port}", got=str(e), fix="use a free --port"
        ) from e
    return listening


def main(argv: list[str] | None = None) -> int:
    """Serve; return 1, with a clear message, if that is not possible."""
    args = _arguments(argv)
    log_json_lines(args.log_level)
    try:
        listening = _socket(args.host, args.port)
        database = Database(args.db)
        faults = Faults(slow_s=args.slow_s, failure_ratio=args.failure_ratio)
    except LabError as e:
        print(e, file=sys.stderr)
        return 1

    _without_iri_grammar()
    from lab.tools.app import make_app
    from lab.tools.origin import AllowedHosts

    provider = tracer_provider(args.otlp_endpoint or None, lease=faults.lease)
    calls = Calls(database, faults, Metrics(), provider)
    allowed = AllowedHosts.for_bind_address(args.host, args.allowed_host)
    config = uvicorn.Config(
        make_app(calls, provider, allowed),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=2,
        lifespan="on",
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    url = f"http://{args.host}:{listening.getsockname()[1]}/mcp"
    log.info("serving tools", extra={"url": url, "db": str(args.db)})
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        database.close()
        provider.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
