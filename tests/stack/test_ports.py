"""Ports are free ones, or those that the user fixed."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from lab.errors import SettingsError
from lab.stack.ports import HOST, PREFERRED, PortLocks, choose, is_free


def _listening_socket() -> socket.socket:
    s = socket.socket()
    s.bind((HOST, 0))
    s.listen()
    return s


def test_every_name_gets_a_free_port():
    """No two parts share a port, and each port can be bound."""
    chosen = choose()
    assert list(chosen) == list(PREFERRED)
    assert len(set(chosen.values())) == len(chosen)
    assert all(is_free(port) for port in chosen.values())


def test_a_taken_port_is_skipped(monkeypatch):
    """A port that another program uses is not chosen."""
    with _listening_socket() as s:
        monkeypatch.setitem(PREFERRED, "vllm", s.getsockname()[1])
        assert choose()["vllm"] != s.getsockname()[1]


def test_a_fixed_port_is_used():
    """LAB_PORTS overrides the preferred port."""
    with _listening_socket() as s:
        port = s.getsockname()[1]
    assert choose({"prometheus": port})["prometheus"] == port


def test_a_fixed_port_that_is_taken_is_refused():
    """The error names the part and the port, before anything is started."""
    with _listening_socket() as s:
        port = s.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port}, fixed for prometheus, is taken"):
            choose({"prometheus": port})


CHOOSE = """
import sys
from lab.stack.ports import PortLocks, choose
locks = PortLocks()
sys.stdin.readline()
print(*choose(None, locks).values(), flush=True)
sys.stdin.readline()
"""


def test_labs_that_start_at_the_same_time_choose_different_ports():
    """Each lab reserves its ports until it ends."""
    pipe = subprocess.PIPE
    labs = [
        subprocess.Popen([sys.executable, "-c", CHOOSE], stdin=pipe, stdout=pipe, text=True)
        for _ in range(4)
    ]
    try:
        for lab in labs:
            lab.stdin.write("\n")
            lab.stdin.flush()
        ports = [port for lab in labs for port in lab.stdout.readline().split()]
    finally:
        for lab in labs:
            lab.communicate("\n", timeout=120)
    assert len(set(ports)) == len(labs) * len(PREFERRED)


def test_a_reservation_ends_with_its_lab():
    """The links of a workshop stay the same from run to run."""
    with PortLocks() as locks:
        first = choose(None, locks)
        assert not set(first.values()) & set(choose().values())
    assert choose() == first


def test_kept_ports_are_not_checked():
    """They belong to the running lab, whose parts listen on them."""
    with _listening_socket() as s:
        port = s.getsockname()[1]
        assert choose(keep={"node": port})["node"] == port


def test_an_unknown_port_name_is_refused():
    """A misspelt name is not silently ignored."""
    with pytest.raises(SettingsError, match="no port named promtheus"):
        choose({"promtheus": 9090})
