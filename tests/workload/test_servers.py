"""Llama Stack's lists are read within a time limit, for any server at its address."""

from __future__ import annotations

import asyncio
import json

import pytest

from lab.errors import NotUp, WorkloadError
from lab.workload import apis
from lab.workload.apis import find_models, find_vector_store
from tests.workload.misbehaving import Peer, serving


def answer(value: object) -> bytes:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def _llama_stack(peer: Peer) -> None:
    if b"GET /v1/models " in peer.head:
        await peer.write(answer({"data": [{"id": "vllm/lab-model"}, {"id": "vllm/canary"}]}))
    else:
        stores = [{"id": "vs_1", "name": "other"}, {"id": "vs_2", "name": "help-desk"}]
        await peer.write(answer({"data": stores, "has_more": False}))


def test_models_and_store_are_found_by_name() -> None:
    """A model is found with its provider's prefix, the store by its name.

    A missing model is an error.
    """
    with serving(_llama_stack) as server:
        assert find_models(server.url, {"lab-model"}) == {"lab-model": "vllm/lab-model"}
        assert find_vector_store(server.url) == "vs_2"
        assert find_vector_store(server.url, "nothing") == ""
        with pytest.raises(WorkloadError, match="vllm/canary"):
            find_models(server.url, {"gpt-9"})


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "wrong",
    [b"", b"<html>", b"[]", b"null", DEEP, b'{"data": [1]}', b'{"data": [{"id": "\xff"}]}'],
)
def test_another_server_is_named(wrong: bytes) -> None:
    """Any other server at that address is reported as not being Llama Stack."""
    with (
        serving(lambda peer: peer.write(answer(wrong))) as server,
        pytest.raises(NotUp, match="Llama Stack"),
    ):
        find_models(server.url, {"lab-model"})


def test_a_slow_or_endless_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not move the deadline, and an endless list is cut at a bound."""

    async def drips(peer: Peer) -> None:
        await peer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not peer.writer.is_closing():
            await peer.write(b"[")
            await asyncio.sleep(0.05)

    async def floods(peer: Peer) -> None:
        await peer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not peer.writer.is_closing():
            await peer.write(b'{"data": [' + b" " * 60_000)

    monkeypatch.setattr(apis, "TIMEOUT_S", 0.5)
    with serving(drips) as server, pytest.raises(NotUp, match="timeout"):
        find_models(server.url, {"lab-model"})
    monkeypatch.setattr(apis, "TIMEOUT_S", 30.0)
    with serving(floods) as server, pytest.raises(NotUp, match="too_large"):
        find_models(server.url, {"lab-model"})
