"""What drives an incident or measures one ends with a LabError on any misbehaviour of a server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab import capacity
from lab.errors import LabError
from lab.incidents import traffic
from lab.incidents.record import Record
from lab.incidents.worker import BRING_ABOUT
from lab.settings import Settings, load_settings
from lab.stores.http import HttpClient
from tests.stores.hostile import MISBEHAVIOURS, misbehaving

TIMEOUT_S = 0.4


def lease_a_fault(settings: Settings) -> None:
    incident = Record("1", False, 1.0, name="slow_tool", parameters={"tool": "add_note"})
    with BRING_ABOUT["tool"](incident, settings) as renew:
        renew()


CLIENTS: dict[str, Callable[[Settings], object]] = {
    "embed": lambda settings: traffic.embed(settings, users=2),
    "lease a fault": lease_a_fault,
    "poll vLLM's gauges": lambda settings: capacity.poll_in_engine(
        HttpClient("vLLM", settings.endpoint("vllm"), TIMEOUT_S)
    ),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("kind", MISBEHAVIOURS)
def test_every_misbehaviour_is_a_lab_error(
    kind: str, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no other exception, and none of them goes on as if the server had done it."""
    monkeypatch.setattr("lab.stores.http.MAX_BYTES", 4 << 20)
    monkeypatch.setattr(traffic, "TIMEOUT_S", TIMEOUT_S)
    with misbehaving(kind) as url:
        settings = load_settings(mcp_url=url, vllm_url=url, vllm_embed_url=url, timeout_s=TIMEOUT_S)
        with pytest.raises(LabError):
            CLIENTS[client](settings)
