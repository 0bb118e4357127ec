"""A page that a user has open cannot use the tool server, under its own name or from another
origin.
"""

from __future__ import annotations

import json

import httpx
import pytest

from lab.tools.origin import AllowedHosts
from tests.tools.conftest import ToolServer

PATHS = ("/mcp", "/healthz", "/metrics", "/admin/faults")
MESSAGE = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
MCP = {"accept": "application/json, text/event-stream"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8200", "localhost.evil.example", ""]
)
def test_a_page_that_was_rebound_is_refused(tool_server: ToolServer, path: str, host: str) -> None:
    """Every path refuses a Host that is not this server's, with any method."""
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        answer = httpx.request(method, tool_server.url + path, headers={"host": host}, json={})
        assert answer.status_code == 421, (method, path)
    assert tool_server.spans() == []


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://127.0.0.1.evil.example", "null"]
)
def test_another_origin_is_refused(tool_server: ToolServer, path: str, origin: str) -> None:
    """Every path refuses a page of another origin, and gives no CORS header to any."""
    answer = httpx.post(
        tool_server.url + path, headers={"origin": origin} | MCP, json=MESSAGE, timeout=60
    )
    assert answer.status_code == 403
    own = httpx.get(
        tool_server.url + "/healthz", headers={"origin": "http://localhost:8888"}, timeout=60
    )
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers


@pytest.mark.parametrize("host", ["localhost:9", "127.0.0.1", "[::1]:8200", "LOCALHOST"])
def test_this_machine_is_served(tool_server: ToolServer, host: str) -> None:
    """Clients of this machine list the tools, by any of its names."""
    answer = httpx.post(
        tool_server.url + "/mcp", headers={"host": host} | MCP, json=MESSAGE, timeout=60
    )
    assert answer.status_code == 200 and answer.json()["result"]["tools"]


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
def test_a_fault_needs_a_content_type_that_no_page_can_send(
    tool_server: ToolServer, content_type: str | None
) -> None:
    """What a page can post without a preflight changes nothing."""
    before = tool_server.calls.faults.as_dict()
    body = json.dumps({"tool": "get_quota", "delay_s": 1.0})
    headers = {"content-type": content_type} if content_type else {}
    answer = httpx.post(
        f"{tool_server.url}/admin/faults", content=body, headers=headers, timeout=60
    )
    assert answer.status_code == 415 and "application/json" in answer.json()["error"]
    assert tool_server.calls.faults.as_dict() == before


def test_deep_json_is_refused(tool_server: ToolServer) -> None:
    """JSON that is nested too deeply is an error of the request."""
    deep = "[" * 100_000 + "]" * 100_000
    headers = {"content-type": "application/json"}
    answer = httpx.post(
        f"{tool_server.url}/admin/faults", content=deep, headers=headers, timeout=60
    )
    assert answer.status_code == 400


def test_a_cluster_may_use_service_names_and_addresses() -> None:
    """Llama Stack uses the Service's name, probes and Prometheus the pod's address.

    A public name stays refused.
    """
    inside = AllowedHosts.for_bind_address("0.0.0.0", ["tools.corp.example", "*.lab.internal"])
    for host in (
        "lab-tools.llm-lab.svc:8200",
        "lab-tools.other.svc.cluster.local:8200",
        "10.42.0.7:8200",
        "[fd00::7]:8200",
        "tools.corp.example",
        "a.lab.internal:80",
        "127.0.0.1:18200",
    ):
        assert inside.allow_host(host), host
    for host in (
        "evil.example",
        "svc",
        "lab-tools.svc.evil.example",
        "lab.internal",
        "",
        "[",
        "a b",
    ):
        assert not inside.allow_host(host), host
    local = AllowedHosts.for_bind_address("127.0.0.1", [])
    assert not local.allow_host("10.42.0.7:8200") and not local.allow_host("x.llm-lab.svc")
