"""`python -m lab.tracestore`: run the trace store alone."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from lab.errors import LabError


class _NoPandas:
    """pyarrow imports pandas, 2 s and 60 MB, only to ask whether a list is a Series; in this process it never is."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("the trace store works without pandas", name=name)


def main(argv: list[str] | None = None) -> int:
    """Run the trace store until it is stopped; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="lab tracestore", description="The embedded Tempo: OTLP in, TraceQL out."
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of the database and its log"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=int, default=3200, help="Tempo's HTTP API; 0 takes a free port"
    )
    parser.add_argument(
        "--otlp-port", type=int, default=4318, help="OTLP/HTTP; 0 takes a free port"
    )
    parser.add_argument(
        "--grpc-port", type=int, help="OTLP over gRPC as well (4317 is usual); needs grpcio"
    )
    parser.add_argument(
        "--max-age-hours", type=float, help="forget spans older than this; default: keep all"
    )
    parser.add_argument(
        "--max-gib", type=float, help="forget the oldest spans where the database is larger"
    )
    parser.add_argument(
        "--export", type=Path, metavar="FOLDER", help="write all traces as Parquet, then end"
    )
    parser.add_argument(
        "--import",
        type=Path,
        metavar="FOLDER",
        dest="import_",
        help="add an export's traces, then end",
    )
    parser.add_argument(
        "--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"]
    )
    args = parser.parse_args(argv)

    sys.meta_path.insert(0, _NoPandas)
    # aiohttp's client, which is never used here, reads every certificate of the machine when it is imported.
    os.environ.setdefault("SSL_CERT_FILE", os.devnull)

    from lab.tracestore.jsonlog import set_up
    from lab.tracestore.retention import Retention
    from lab.tracestore.server import run

    set_up(args.log_level)
    try:
        if args.export or args.import_:
            return _move(args)
        retention = Retention(
            max_age_s=args.max_age_hours * 3600 if args.max_age_hours is not None else None,
            max_bytes=round(args.max_gib * 2**30) if args.max_gib is not None else None,
        )
        ports = {"port": args.port, "otlp_port": args.otlp_port, "grpc_port": args.grpc_port}
        run(args.data, host=args.host, **ports, retention=retention)
    except LabError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


def _move(args: argparse.Namespace) -> int:
    """Export or import, without a server; what waits in the log takes part."""
    from lab.tracestore.archive import export_window, import_folder
    from lab.tracestore.engine import Engine

    engine = Engine(args.data)
    engine.start()
    try:
        if args.export:
            print(
                f"{engine.query(lambda con: export_window(con, args.export))} spans written to {args.export}"
            )
        else:
            print(f"{import_folder(engine.store, args.import_)} spans added to {args.data}")
    finally:
        engine.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
