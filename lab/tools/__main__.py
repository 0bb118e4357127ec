"""`python -m lab.tools`: serve the tools until SIGTERM."""

import logging
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
import uvicorn

from lab.command_line import as_main
from lab.errors import SetupError
from lab.tools.calls import Calls, Database
from lab.tools.faults import Faults
from lab.tools.telemetry import Metrics, log_json_lines, tracer_provider

log = logging.getLogger("lab.tools")


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


def serve(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 chooses a free one.")],
    db: Annotated[
        Path, typer.Option(help="SQLite file; made from the world's seed if it is not there.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A further name that requests may use for this server, such as "
            "*.example.internal; repeatable."
        ),
    ] = None,
    otlp_endpoint: Annotated[
        str, typer.Option(help="Base URL of an OTLP/HTTP receiver for traces.")
    ] = "",
    slow_s: Annotated[float, typer.Option(help="Seconds that the slow tool takes.")] = 1.5,
    failure_ratio: Annotated[
        float, typer.Option(help="Share of failures of the flaky tool.")
    ] = 0.3,
    log_level: Literal["debug", "info", "warning", "error"] = "info",
) -> None:
    """Serve the help desk's tools until SIGTERM."""
    log_json_lines(log_level)
    listening = _socket(host, port)
    database = Database(db)
    faults = Faults(slow_s=slow_s, failure_ratio=failure_ratio)

    # Keep jsonschema, which MCP imports, from compiling a grammar of IRIs with this package: it
    # takes seconds, for a format that no tool has.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    from lab.tools.app import make_app
    from lab.tools.origin import AllowedHosts

    provider = tracer_provider(otlp_endpoint or None, lease=faults.lease)
    calls = Calls(database, faults, Metrics(), provider)
    allowed = AllowedHosts.for_bind_address(host, allowed_host or [])
    config = uvicorn.Config(
        make_app(calls, provider, allowed),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=2,
        lifespan="on",
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    url = f"http://{host}:{listening.getsockname()[1]}/mcp"
    log.info("serving tools", extra={"url": url, "db": str(db)})
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        provider.shutdown()


main = as_main(serve, "python -m lab.tools", prints_errors=True)


if __name__ == "__main__":
    sys.exit(main())
