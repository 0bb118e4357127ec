"""The live view's server passes on read-only queries of its own page, and nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from lab.liveview.server import PAGE, make_app
from lab.settings import REPO
from tests.stores.servers import RecordingServer, Reply, serving

VENDOR = REPO / "lab/liveview/vendor"
FORBIDDEN = (
    "/api/v1/admin/tsdb/delete_series",
    "/api/v1/write",
    "/api/v1/status/config",
    "/api/v1/../../-/quit",
    "/api/v1/query/",
    "/api/exports",
    "/api/lab/spans",
)


@pytest.fixture
def store() -> Iterator[RecordingServer]:
    """Serve HTML with a script at every path: what a page of another server might send."""
    page = Reply(b"<script>alert(1)</script>", content_type="text/html")
    with serving(lambda *_: page) as server:
        yield server


@pytest.fixture
def client(
    store: RecordingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    """Return a client of the view of an idle lab, whose two stores are `store`."""
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("LAB_PROMETHEUS_URL", store.url)
    monkeypatch.setenv("LAB_TEMPO_URL", store.url)
    with TestClient(make_app(), base_url="http://127.0.0.1:19001") as opened:
        yield opened


def test_queries_are_passed_on_unchanged(client: TestClient, store: RecordingServer) -> None:
    """Repeated and encoded parameters, and encoded names in a path, reach the store as sent."""
    client.get("/api/v1/series?match[]=up&match[]=a%2Bb&start=1")
    client.get("/api/v2/search/tag/span.%22a%20b%22/values?q=%7B%7D")
    (first, params), (second, _) = store.requests
    assert (first, params["match[]"], params["start"]) == ("/api/v1/series", "up", "1")
    assert second == "/api/v2/search/tag/span.%22a%20b%22/values"


@pytest.mark.parametrize("path", FORBIDDEN)
def test_other_paths_of_a_store_are_not_passed_on(
    client: TestClient, store: RecordingServer, path: str
) -> None:
    """What changes a store, or shows its configuration, cannot be reached through the page."""
    assert client.get(path).status_code == 404
    assert store.requests == []


def test_nothing_is_posted(client: TestClient, store: RecordingServer) -> None:
    """The page changes nothing, so its server accepts nothing but GET."""
    for path in ("/api/v1/query", "/lab", "/"):
        assert client.post(path, data={"query": "up"}).status_code == 405
    assert store.requests == []


def test_foreign_pages_are_refused(client: TestClient, store: RecordingServer) -> None:
    """Neither a page of another site, nor one whose name resolves to this machine, can query."""
    query = "/api/v1/query?query=up"
    assert client.get(query, headers={"Host": "evil.example"}).status_code == 421
    assert client.get(query, headers={"Origin": "https://evil.example"}).status_code == 403
    assert store.requests == []


def test_a_store_cannot_put_a_page_onto_this_origin(client: TestClient) -> None:
    """HTML of a store arrives as text."""
    reply = client.get("/api/v1/query?query=up")
    assert reply.headers["content-type"].startswith("text/plain")


def test_a_store_with_a_login_is_not_queried(
    client: TestClient, store: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All users of this machine can open the page: it must not lend them the user's login."""
    monkeypatch.setenv("LAB_STORE_HEADERS", '{"Authorization": "Bearer secret"}')
    client.get("/api/v1/query?query=up")
    assert "Authorization" not in store.headers[0]

    monkeypatch.setenv("LAB_PROMETHEUS_URL", store.url.replace("://", "://me:secret@"))
    reply = client.get("/api/v1/query?query=up")
    assert reply.status_code == 502 and "login" in reply.text
    assert "secret" not in reply.text
    assert len(store.requests) == 1


def test_a_store_that_is_down_is_named(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page shows why nothing is drawn, and what to do."""
    monkeypatch.setenv("LAB_TEMPO_URL", "http://127.0.0.1:1")
    reply = client.get("/api/search?q={}")
    assert reply.status_code == 502
    assert "Tempo" in reply.text and "Fix:" in reply.text


@pytest.mark.parametrize("path", ["/", "/view.js", "/traces"])
def test_pages_may_load_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    """The policy of each page allows scripts and requests of this server only."""
    policy = client.get(path).headers["content-security-policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert "http:" not in policy and "*" not in policy


def test_only_the_files_of_the_page_are_served(client: TestClient) -> None:
    """Neither sources nor paths outside of the page's folder can be read."""
    assert client.get("/vendor.js").status_code == 200
    for path in ("/server.py", "/..%2fserver.py", "/..%2f..%2ferrors.py", "/nothing.js"):
        assert client.get(path).status_code == 404


def test_the_bundle_is_what_the_locked_packages_give() -> None:
    """A changed bundle must come with new sums, and every package in the lock has a hash."""
    sums = dict(line.split()[::-1] for line in (VENDOR / "SHA256SUMS").read_text().splitlines())
    built = {name: hashlib.sha256((PAGE / name).read_bytes()).hexdigest() for name in sums}
    assert built == sums
    lock = (VENDOR / "package-lock.json").read_text()
    packages = re.findall(r'"node_modules/[^"]+": \{', lock)
    assert len(packages) == len(re.findall(r'"integrity": "sha512-', lock)) > 15
