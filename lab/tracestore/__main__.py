"""`python -m lab.tracestore`: run the trace store alone."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


class _NoPandas:
    """Hide pandas from pyarrow, which imports it (2 s, 60 MB) only for isinstance checks."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("the trace store works without pandas", name=name)


def _port(text: str) -> int:
    """Read a port number; argparse reports the ValueError."""
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: use 0 to 65535")
    return port


def _hours(text: str) -> float:
    """Read an age; one below a minute would delete spans as they arrive."""
    hours = float(text)
    if not 1 / 60 <= hours <= _MAX_HOURS:
        raise argparse.ArgumentTypeError(f"{text} would delete every span: use 0.1 or more hours")
    return hours


def _gib(text: str) -> float:
    """Read a size; an empty database takes some megabytes already."""
    gib = float(text)
    if not _MIN_GIB <= gib <= _MAX_GIB:
        raise argparse.ArgumentTypeError(
            f"{text} would delete every span: use {_MIN_GIB} or more GiB"
        )
    return gib


_MAX_HOURS = 24 * 366 * 100
_MIN_GIB = 0.05
_MAX_GIB = 2**20


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab tracestore", description="The embedded Tempo: OTLP in, TraceQL out."
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the database and its log")
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="host name under which clients reach the store, beside localhost; may be repeated",
    )
    add("--port", type=_port, default=3200, help="Tempo's HTTP API; 0 takes a free port")
    add("--otlp-port", type=_port, default=4318, help="OTLP/HTTP; 0 takes a free port")
    add("--grpc-port", type=_port, help="OTLP over gRPC as well (4317 is usual); needs grpcio")
    add("--max-age-hours", type=_hours, help="delete spans older than this; default: keep all")
    add("--max-gib", type=_gib, help="delete the oldest spans while the database is larger")
    add("--export", type=Path, metavar="FOLDER", help="write all traces as Parquet, then end")
    add(
        "--import",
        type=Path,
        metavar="FOLDER",
        dest="import_",
        help="add an export's traces, then end",
    )
    add("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the trace store until it is stopped; return the exit status."""
    args = _parser().parse_args(argv)

    sys.meta_path.insert(0, _NoPandas)
    # aiohttp's client is never used here, but reads every certificate of the machine on import.
    os.environ.setdefault("SSL_CERT_FILE", os.devnull)

    from lab.tracestore.errors import TraceStoreError
    from lab.tracestore.jsonlog import set_up
    from lab.tracestore.retention import Retention
    from lab.tracestore.server import run

    os.umask(0o077)  # spans hold prompts and answers: only their owner may read them
    set_up(args.log_level)
    try:
        if args.export or args.import_:
            return _move(args)
        retention = Retention(
            max_age_s=args.max_age_hours * 3600 if args.max_age_hours is not None else None,
            max_bytes=round(args.max_gib * 2**30) if args.max_gib is not None else None,
        )
        run(
            args.data,
            host=args.host,
            port=args.port,
            otlp_port=args.otlp_port,
            grpc_port=args.grpc_port,
            allowed_hosts=tuple(args.allowed_host),
            retention=retention,
        )
    except TraceStoreError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


def _move(args: argparse.Namespace) -> int:
    """Export or import without a server; spans that are only in the log are included."""
    from lab.tracestore.archive import export_window, import_folder
    from lab.tracestore.engine import Engine

    engine = Engine(args.data)
    engine.start()
    try:
        if args.export:
            count = engine.query(lambda con: export_window(con, args.export))
            print(f"{count} spans written to {args.export}")
        else:
            count = import_folder(engine.store, args.import_)
            print(f"{count} spans added to {args.data}")
    finally:
        engine.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
