"""`python -m lab.liveview`: serve the live view until SIGTERM."""

from __future__ import annotations

import argparse
import logging.config
import sys

import uvicorn

from lab.json_logging import config
from lab.liveview.server import make_app
from lab.stack.ports import HOST


def main(argv: list[str] | None = None) -> int:
    """Serve on loopback. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab.liveview", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="port on loopback")
    args = parser.parse_args(argv)
    logging.config.dictConfig(config())
    logging.getLogger("uvicorn").setLevel("WARNING")
    serve(args.port)
    return 0


def serve(port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    uvicorn.run(
        make_app(),
        host=HOST,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    sys.exit(main())
