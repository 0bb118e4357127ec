"""Ports on loopback: free ones, or those that the user fixed (`LAB_PORTS='{"prometheus": 9090}'`)."""

from __future__ import annotations

import contextlib
import socket

from lab.errors import SettingsError

HOST = "127.0.0.1"
# Where one looks first. A workshop's links stay the same from run to run as long as these are free.
WISHED = {
    "tempo": 13200,
    "otlp": 14318,
    "vllm": 18000,
    "vllm_embed": 18001,
    "vllm_canary": 18002,
    "mcp": 18080,
    "llama_stack": 18321,
    "llama_stack_metrics": 19464,
    "prometheus": 19090,
    "node": 19100,
}


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket() as s:
        s.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do: TIME_WAIT is no obstacle
        try:
            s.bind((HOST, port))
        except OSError:
            return False
    return True


def choose(fixed: dict[str, int] | None = None) -> dict[str, int]:
    """{name: port} for every name in WISHED. A fixed port is taken or refused, any other moves on when it is taken.

    Raises SettingsError for a name that does not exist and for a fixed port that another program holds.
    """
    fixed = fixed or {}
    if unknown := set(fixed) - set(WISHED):
        raise SettingsError(
            f"there is no port named {', '.join(sorted(unknown))}",
            got=f"ports = {fixed}",
            fix=f"use the names {', '.join(WISHED)}",
        )
    for name, port in fixed.items():
        if not is_free(port):
            raise SettingsError(
                f"port {port}, fixed for {name}, is taken by another program",
                got=f"ports = {fixed}",
                fix=f"stop that program, choose another port, or leave {name} out of LAB_PORTS",
            )
    chosen = dict(fixed)
    with (
        contextlib.ExitStack() as held
    ):  # keep each until all are chosen, so that none is chosen twice
        for name, wish in WISHED.items():
            if name not in chosen:
                chosen[name] = _reserve(held, wish, set(chosen.values()))
    return {name: chosen[name] for name in WISHED}


def _reserve(held: contextlib.ExitStack, wish: int, taken: set[int]) -> int:
    for port in (*(wish + 20 * n for n in range(20)), 0):
        s = held.enter_context(socket.socket())
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            s.bind((HOST, port))
            if (got := s.getsockname()[1]) not in taken:
                return got
    raise SettingsError(
        "this machine has no free port on 127.0.0.1", fix="close programs that hold ports"
    )
