"""The `lab` command. Each verb is imported when it is called, so that `lab --help` is quick."""

import os
import sys


def main() -> None:
    """Run a command.

    A LabError is printed without a traceback, with exit status 1; it is 2 for a wrong command line.
    """
    from lab.cli.app import app
    from lab.environment import bypass_proxies_on_loopback
    from lab.errors import LabError

    bypass_proxies_on_loopback()

    try:
        app(prog_name="lab")
    except LabError as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `lab logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
