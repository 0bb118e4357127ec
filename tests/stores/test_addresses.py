"""Addresses, logins and other servers at an address are handled with clear errors."""

from __future__ import annotations

import base64
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest

from lab.errors import LabError, QueryRejected, StoreError, StoreUnreachable
from lab.stores import Prometheus, Tempo
from tests.stores.servers import Reply, serving

EMPTY = Reply(b'{"status":"success","data":{"resultType":"vector","result":[]}}')
SECRET = "s3cret p@ss:w/rd#1"


def test_a_login_is_percent_decoded() -> None:
    """Any password in any script can be written percent-encoded in the address."""
    with serving(lambda *_: EMPTY) as server:
        for user, password, written in (
            ("eng", SECRET, "eng:s3cret%20p%40ss%3Aw%2Frd%231"),
            ("ü", "ß", "%C3%BC:%C3%9F"),
            ("only", "", "only"),
        ):
            Prometheus(server.url.replace("//", f"//{written}@")).query("up")
            login = base64.b64encode(f"{user}:{password}".encode()).decode()
            assert server.headers[-1]["Authorization"] == f"Basic {login}"


@pytest.mark.parametrize(
    "url",
    [
        f"http://eng:{SECRET}@127.0.0.1:9",
        "http://eng:s3cret#x@127.0.0.1:9",
        "http://eng:12/s3cret@127.0.0.1:9",
        "eng:s3cret@:x",
        "ftp://eng:s3cret@127.0.0.1",
        "http://eng:s3cret@",
        "http://[eng:s3cret@",
        "",
        "http://",
    ],
)
def test_an_invalid_address_is_refused_without_showing_its_password(url: str) -> None:
    """The address is refused before any request, and the error explains how to write a password."""
    for make in (Prometheus, Tempo):
        with pytest.raises(StoreError, match="%40") as caught:
            make(url)
        assert "s3cret" not in str(caught.value) + repr(caught.value.__context__)


def test_no_message_shows_the_password() -> None:
    """Errors about unreachable, wrong and refusing servers do not contain the password."""
    replies = iter([Reply(b"x", 500), Reply(b"<html>"), Reply(b"no", 401)])
    with serving(lambda path, _: next(replies, Reply(b"", 404))) as server:
        for url in ("http://127.0.0.1:9", server.url, server.url, server.url):
            prometheus = Prometheus(url.replace("//", "//eng:s3cret@"))
            with pytest.raises(LabError) as caught:
                prometheus.query("up")
            assert "s3cret" not in str(caught.value) + repr(prometheus.__dict__["_http"].url)


def test_an_address_without_a_scheme_works_without_a_warning() -> None:
    """`host:port` is read as HTTP."""
    with serving(lambda *_: EMPTY) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        prometheus = Prometheus(server.url.removeprefix("http://"))
        assert len(prometheus.query("up")) == 0 and prometheus.url == server.url


def test_a_query_in_the_address_is_sent_with_every_request() -> None:
    """Parameters such as OpenShift's `?namespace=...` are sent, but not shown in messages."""
    with serving(lambda *_: EMPTY) as server:
        prometheus = Prometheus(f"{server.url}/prefix/?namespace=llm")
        prometheus.query("up")
    assert server.requests[0][0] == "/prefix/api/v1/query"
    assert server.requests[0][1]["namespace"] == "llm" and prometheus.url == f"{server.url}/prefix"


@pytest.mark.parametrize("value", ["Bearer s3cret\n", "Bearer s3cret\u20ac", "Bearer \x00s3cret"])
def test_a_header_that_http_cannot_carry_is_refused_without_showing_its_value(value: str) -> None:
    """A token with a line break, as a settings file may contain it, is refused."""
    with pytest.raises(StoreError, match="'Authorization'") as caught:
        Tempo("http://127.0.0.1:9", headers={"Authorization": value})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body"),
    [(401, b"no org id\n"), (403, b'{"message":"Missing Authentication Token"}'), (401, b"")],
)
def test_a_refused_login_explains_how_to_give_one(status: int, body: bytes) -> None:
    """For both stores the error names the setting and the place in the address."""
    with serving(lambda *_: Reply(body, status)) as server:
        for call in (
            lambda: Prometheus(server.url).query("up"),
            lambda: Prometheus(server.url).targets(),
            lambda: Tempo(server.url).search("{}", 0, 1),
            lambda: Tempo(server.url).traces(["1"]),
        ):
            with pytest.raises(QueryRejected, match="LAB_STORE_HEADERS.*user:password@"):
                call()


def grafana(path: str, _: dict[str, str]) -> Reply:
    if path == "/api/health":
        return Reply(b'{"database": "ok", "version": "12.1.0"}')
    return Reply(b'{"message":"Not found"}', 404)


def jupyter(path: str, _: dict[str, str]) -> Reply:
    if path == "/api":
        return Reply(b'{"version": "2.17.0"}')
    page = b"<!DOCTYPE HTML><html><head><title>Jupyter Server</title></head></html>"
    return Reply(page, 404, content_type="text/html")


def prometheus_only(path: str, _: dict[str, str]) -> Reply:
    if path == "/api/v1/status/buildinfo":
        return Reply(b'{"status":"success","data":{"version":"3.1","goVersion":"go1.23"}}')
    return EMPTY if path == "/api/v1/query" else Reply(b"404 page not found\n", 404)


def tempo_only(path: str, _: dict[str, str]) -> Reply:
    return Reply(b"echo") if path == "/api/echo" else Reply(b"404 page not found\n", 404)


def vllm(path: str, _: dict[str, str]) -> Reply:
    if path == "/v1/models":
        return Reply(b'{"object":"list","data":[]}')
    return Reply(b'{"detail":"Not Found"}', 404)


def jaeger(path: str, _: dict[str, str]) -> Reply:
    if path == "/api/services":
        return Reply(b'{"data":["shop"],"total":1,"limit":0,"offset":0,"errors":null}')
    return Reply(b"404 page not found\n", 404)


def login_page(path: str, _: dict[str, str]) -> Reply:
    return Reply(b"<!doctype html><title>Log in</title>", content_type="text/html")


@pytest.mark.parametrize(
    ("respond", "make", "name"),
    [
        (grafana, Prometheus, "Grafana"),
        (grafana, Tempo, "Grafana"),
        (jupyter, Prometheus, "Jupyter"),
        (tempo_only, Prometheus, "Tempo"),
        (prometheus_only, Tempo, "Prometheus"),
        (vllm, Prometheus, "a model server"),
        (vllm, Tempo, "a model server"),
        (jaeger, Tempo, "Jaeger"),
        (login_page, Prometheus, "a login page"),
        (login_page, Tempo, "a login page"),
    ],
)
def test_another_server_is_named_in_one_line(respond, make, name: str) -> None:  # noqa: ANN001
    """The first line of the error names the server that answers, without its HTML."""
    with serving(respond) as server, pytest.raises(StoreUnreachable) as caught:
        client = make(server.url)
        if make is Tempo:
            client.search("{}", 0, 1)
        else:
            client.query("up")
    assert caught.value.happened == f"the server at {server.url} is {name}, not {make.__name__}"


def test_a_prometheus_without_the_targets_api_is_still_a_prometheus() -> None:
    """Thanos, Mimir and VictoriaMetrics have no targets API, so the `up` series are used."""

    def answer(path: str, params: dict[str, str]) -> Reply:
        values = {"up": "1", "timestamp(up)": "20"}
        if path != "/api/v1/query":
            return Reply(b"404 page not found", 404)
        series = [
            {"metric": {"job": "vllm", "instance": "a"}, "value": [21, values[params["query"]]]},
            {"metric": {"job": "node", "instance": "b"}, "value": [21, values[params["query"]]]},
        ]
        return Reply(
            b'{"status":"success","data":{"resultType":"vector","result":%s}}'
            % str(series).replace("'", '"').encode()
        )

    with serving(answer) as server:
        prometheus = Prometheus(server.url)
        targets = prometheus.targets()
        assert [(t.job, t.instance, t.up, t.last_scrape) for t in targets] == [
            ("node", "b", True, 20.0),
            ("vllm", "a", True, 20.0),
        ]
        assert prometheus.wait_for_scrape(19.0, jobs=["vllm"], timeout_s=60) < 60
        with pytest.raises(StoreError, match="no scrape after"):
            prometheus.wait_for_scrape(20.0, timeout_s=0.01)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Create a (certificate, key) of an authority that no machine trusts."""
    folder = tmp_path_factory.mktemp("tls")
    names = ("-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-subj", "/CN=lab")
    san = ("-addext", "subjectAltName=IP:127.0.0.1", "-nodes", "-days", "2")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", *map(str, names), *san]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_certificate_of_a_private_authority(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate is refused until SSL_CERT_FILE, which the error names, makes it trusted."""
    with serving(lambda *_: EMPTY, tls=certificate) as server:
        with pytest.raises(StoreUnreachable, match="SSL_CERT_FILE"):
            Prometheus(server.url).query("up")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        assert len(Prometheus(server.url).query("up")) == 0
        assert server.url.startswith("https://")
