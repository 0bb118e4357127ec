"""`python -m lab.liveview`: serve the live view until SIGTERM."""

import logging.config
import sys
from typing import Annotated

import typer
import uvicorn

from lab.command_line import as_main
from lab.json_logging import config
from lab.liveview.server import make_app
from lab.stack.ports import HOST


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


def main(port: Annotated[int, typer.Option(help="Port on loopback.")]) -> None:
    """Serve the live view on loopback until SIGTERM."""
    logging.config.dictConfig(config())
    logging.getLogger("uvicorn").setLevel("WARNING")
    serve(port)


if __name__ == "__main__":
    sys.exit(as_main(main, "python -m lab.liveview")())
