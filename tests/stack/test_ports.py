"""Ports: free ones, or the user's."""

from __future__ import annotations

import socket

import pytest

from lab.errors import SettingsError
from lab.stack.ports import HOST, WISHED, choose, is_free


def _hold() -> socket.socket:
    s = socket.socket()
    s.bind((HOST, 0))
    s.listen()
    return s


def test_every_name_gets_a_port_of_its_own_that_is_free():
    """Two parts never share a port, and each could listen at once."""
    chosen = choose()
    assert list(chosen) == list(WISHED)
    assert len(set(chosen.values())) == len(chosen)
    assert all(is_free(port) for port in chosen.values())


def test_a_taken_port_moves_on(monkeypatch):
    """A port that another program holds is not chosen."""
    with _hold() as s:
        monkeypatch.setitem(WISHED, "vllm", s.getsockname()[1])
        assert choose()["vllm"] != s.getsockname()[1]


def test_a_fixed_port_is_taken_as_it_is():
    """LAB_PORTS decides."""
    with _hold() as s:
        port = s.getsockname()[1]
    assert choose({"prometheus": port})["prometheus"] == port


def test_a_fixed_port_that_is_taken_is_refused_by_name():
    """The error names the part and the port, before anything is started."""
    with _hold() as s:
        port = s.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port}, fixed for prometheus, is taken"):
            choose({"prometheus": port})


def test_an_unknown_port_name_is_refused():
    """A misspelt name is not silently ignored."""
    with pytest.raises(SettingsError, match="no port named promtheus"):
        choose({"promtheus": 9090})
