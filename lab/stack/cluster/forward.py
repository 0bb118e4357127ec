"""Supervised port forwards from this machine into the cluster, in a process of their own.

`kubectl port-forward` ends with the pod that it was tied to. Here each is started again, with
growing pauses, until told to end. `python -m lab.stack.cluster.forward` reads {"commands": {name:
argv}} from its standard input.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType

from lab.stack.processes import die_with_parent

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
STEADY_S = 30.0  # a forward that held so long starts its pauses from the beginning


class Forward(threading.Thread):
    """One port-forward, kept up until `stop`."""

    def __init__(self, name: str, command: list[str]) -> None:
        super().__init__(name=f"forward {name}", daemon=True)
        self.command = command
        self.starts = 0
        self._end = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Start the forward, and again whenever it ends, until `stop`."""
        pause_s = FIRST_PAUSE_S
        parent = os.getpid()
        while not self._end.is_set():
            begun = time.monotonic()
            self.starts += 1
            self._child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, preexec_fn=lambda: die_with_parent(parent)
            )
            self._child.wait()
            pause_s = (
                FIRST_PAUSE_S
                if time.monotonic() - begun > STEADY_S
                else min(2 * pause_s, LONGEST_PAUSE_S)
            )
            self._end.wait(pause_s)

    def stop(self) -> None:
        """End the child and the thread."""
        self._end.set()
        child = self._child
        if child and child.poll() is None:
            child.terminate()
            try:
                child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                child.kill()
        self.join(timeout=10)


def answers(port: int) -> bool:
    """Return whether something accepts connections on that port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def main() -> None:
    """Keep all forwards up until SIGTERM."""
    commands: Mapping[str, list[str]] = json.load(sys.stdin)["commands"]
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    forwards = [Forward(name, command) for name, command in commands.items()]
    for forward in forwards:
        forward.start()
    ended.wait()
    for forward in forwards:
        forward.stop()


if __name__ == "__main__":
    main()
