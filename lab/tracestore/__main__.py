"""`python -m lab.tracestore`: run the trace store alone."""

from __future__ import annotations

import argparse
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
    parser = argparse.ArgumentParser(prog="lab tracestore", description="The embedded Tempo: OTLP in, TraceQL out.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the database and its log")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=3200, help="Tempo's HTTP API; 0 takes a free port")
    parser.add_argument("--otlp-port", type=int, default=4318, help="OTLP/HTTP; 0 takes a free port")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    args = parser.parse_args(argv)

    sys.meta_path.insert(0, _NoPandas)

    from lab.tracestore.jsonlog import set_up
    from lab.tracestore.server import run

    set_up(args.log_level)
    try:
        run(args.data, host=args.host, port=args.port, otlp_port=args.otlp_port)
    except LabError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
