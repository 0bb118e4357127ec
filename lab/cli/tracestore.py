"""`lab tracestore`: the trace store's own command line, with help like that of every verb."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lab.command_line import as_main


def tracestore(
    data: Annotated[Path, typer.Option(help="Folder of the database and its log.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Tempo's HTTP API; 0: a free port.")] = 3200,
    otlp_port: Annotated[int, typer.Option(help="OTLP over HTTP; 0: a free port.")] = 4318,
    grpc_port: Annotated[
        int | None, typer.Option(help="OTLP over gRPC too (4317 is usual); needs grpcio.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="Further name that requests may address; repeatable.")
    ] = None,
    max_age_hours: Annotated[
        float | None, typer.Option(help="Delete spans older than this. Default: keep all.")
    ] = None,
    max_gib: Annotated[
        float | None, typer.Option(help="Delete the oldest spans where the database is larger.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write all traces to this folder as Parquet, then end.")
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", help="Add the traces of an export, then end.")
    ] = None,
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], typer.Option(help="Lowest level to log.")
    ] = "INFO",
) -> int:
    """Run the embedded trace store alone: OTLP in, TraceQL out."""
    from lab.tracestore.__main__ import main as serve

    values = {
        "data": data,
        "host": host,
        "port": port,
        "otlp-port": otlp_port,
        "grpc-port": grpc_port,
        "max-age-hours": max_age_hours,
        "max-gib": max_gib,
        "export": export,
        "import": import_,
        "log-level": log_level,
    }
    arguments = [f"--{name}={value}" for name, value in values.items() if value is not None]
    return serve([*arguments, *(f"--allowed-host={name}" for name in allowed_host or [])])


main = as_main(tracestore, "lab tracestore")
