"""Choose ports on loopback, and keep other labs of this machine from choosing the same ones."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from lab.errors import SettingsError

HOST = "127.0.0.1"
# The first choice. Links from a workshop stay valid from run to run while these are free.
PREFERRED = {
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
    "gpu": 19101,
    "view": 19001,
    "grafana": 13000,
    "alertmanager": 19093,
}
STEP = 20  # between the ports that are tried for a name
ATTEMPTS = 20
LOCKS = Path(tempfile.gettempdir()) / "llm-observability-lab-ports"


class PortLocks:
    """Ports that this process has reserved. The kernel frees them when the process ends.

    A lock is a file per port in a folder that all users of this machine share. It bridges the
    seconds between the choice of a port and the moment at which the part listens on it.
    """

    def __init__(self) -> None:
        self._files: dict[int, int] = {}

    def hold(self, port: int) -> bool:
        """Reserve a port; False if another lab has reserved it.

        Where lock files cannot be made (a read-only temporary folder), no port counts as reserved.
        """
        if port in self._files:
            return True

        try:
            fd = _open_lock(port)
        except OSError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return False

        self._files[port] = fd
        return True

    def release(self, *ports: int) -> None:
        """Give up these ports, or all if none is named."""
        for port in ports or tuple(self._files):
            if port in self._files:
                os.close(self._files.pop(port))

    def __enter__(self) -> PortLocks:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _open_lock(port: int) -> int:
    """Open a port's lock file for reading, which flock allows and other users' files permit."""
    if not LOCKS.is_dir():
        with contextlib.suppress(FileExistsError):
            LOCKS.mkdir()
            LOCKS.chmod(0o1777)

    path = LOCKS / str(port)
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o444)
        os.fchmod(fd, 0o444)
        return fd


def is_free(port: int) -> bool:
    """Return whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket() as s:
        # As servers do: connections in TIME_WAIT do not matter.
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((HOST, port))
        except OSError:
            return False
    return True


def choose(
    fixed: Mapping[str, int] | None = None,
    locks: PortLocks | None = None,
    keep: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return {name: port} for every name in PREFERRED.

    `fixed` ports (LAB_PORTS) are used or refused; `keep` are this lab's own, in use already; all
    others are free ones. With `locks` the ports stay reserved for this process.
    Raises SettingsError for an unknown name, and for a fixed port that another program uses.
    """
    if locks is None:
        with PortLocks() as temporary:
            return choose(fixed, temporary, keep)

    fixed = dict(fixed or {})
    chosen = dict(keep or {})
    if unknown := set(fixed) - set(PREFERRED):
        raise SettingsError(
            f"there is no port named {', '.join(sorted(unknown))}",
            got=f"ports = {fixed}",
            fix=f"use the names {', '.join(PREFERRED)}",
        )
    for name, port in fixed.items():
        if name not in chosen and not (locks.hold(port) and is_free(port)):
            raise SettingsError(
                f"port {port}, fixed for {name}, is taken by another program",
                got=f"ports = {fixed}",
                fix=f"stop that program, choose another port, or leave {name} out of LAB_PORTS",
            )
        chosen.setdefault(name, port)

    for name, preferred in PREFERRED.items():
        if name not in chosen:
            chosen[name] = _reserve(preferred, set(chosen.values()), locks)
    return {name: chosen[name] for name in PREFERRED}


def _reserve(preferred: int, taken: set[int], locks: PortLocks) -> int:
    """Return the first candidate that is free, reserved in `locks`."""
    for port in _candidates(preferred):
        if port in taken or not locks.hold(port):
            continue
        if is_free(port):
            return port
        locks.release(port)

    raise SettingsError(
        "this machine has no free port on 127.0.0.1", fix="close programs that listen on ports"
    )


def _candidates(preferred: int) -> Iterator[int]:
    yield from range(preferred, preferred + STEP * ATTEMPTS, STEP)
    for _ in range(ATTEMPTS):
        with socket.socket() as s:
            s.bind((HOST, 0))
            port: int = s.getsockname()[1]
        yield port
