"""Refusals of real stores, and of what stands in front of them: one line, and what to do.

Statuses and texts are those of the sources that are named; hosts, tenants and accounts are
invented.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field

import pytest

from lab.errors import LabError, NoData
from lab.fleet import look_at
from lab.stores import Prometheus
from tests.stores.servers import Reply, serving


def error(kind: str, text: str) -> str:
    return json.dumps({"status": "error", "errorType": kind, "error": text})


@dataclass(frozen=True)
class Refusal:
    """What a server answers, and what the error must say: in its first line, and as a fix."""

    status: int
    body: str
    says: str
    fix: str
    headers: dict[str, str] = field(default_factory=dict)
    path: str = ""


LESS = "request less"
LOGIN = "give a login"
BEHIND = "a part behind this address"
BASE_PATH = "add the path before /api/v1"
SIGV4 = "aws-sigv4-proxy"
GRAFANA = "/api/datasources/proxy/uid/abc"
HTML = {"Content-Type": "text/html"}
REFUSALS = {
    # thanos-io/thanos pkg/api/api.go, pkg/store/proxy_merge.go
    "thanos": Refusal(
        422,
        error("execution", "expanding series: proxy Series(): rpc error: code = Aborted"),
        "rpc error",
        BEHIND,
    ),
    # grafana/mimir pkg/util/globalerror, integration tests; cortexproject/cortex pkg/util/limiter
    "mimir-chunks": Refusal(
        422,
        error(
            "execution",
            "the query exceeded the maximum number of chunks (limit: 2000000 chunks) "
            "(err-mimir-max-chunks-per-query). Consider reducing the time range",
        ),
        "err-mimir-max-chunks-per-query",
        LESS,
    ),
    "cortex-length": Refusal(
        422,
        error("execution", "expanding series: the query time range exceeds the limit"),
        "time range exceeds",
        LESS,
    ),
    "cortex-busy": Refusal(429, "too many outstanding requests", "outstanding", LESS),
    # VictoriaMetrics lib/httpserver, lib/storage/index_db.go, app/vmselect/main.go, app/vmauth
    "victoria-series": Refusal(
        422,
        error("422", "the number of matching timeseries exceeds 300000; either narrow down"),
        "timeseries exceeds 300000",
        LESS,
    ),
    "victoria-busy": Refusal(
        429,
        "couldn't start executing the request in 10.000 seconds, since "
        "-search.maxConcurrentRequests=8 concurrent requests are executed.",
        "maxConcurrentRequests",
        LESS,
    ),
    "victoria-storage": Refusal(
        503,
        error("503", "cannot fetch query results from vmstorage nodes: connection refused"),
        "vmstorage",
        BEHIND,
    ),
    "vmselect-path": Refusal(
        400, 'unsupported path requested: "/api/v1/query"\n', "unsupported path", BASE_PATH
    ),
    "vmauth-route": Refusal(
        400, 'user "x" missing route for "/api/v1/query"\n', "missing route", BASE_PATH
    ),
    # AWS: gateway's messages, as in prometheus-community/helm-charts#4687
    "amazon-unsigned": Refusal(
        403, '{"message":"Missing Authentication Token"}', ": Missing Authentication Token", SIGV4
    ),
    "amazon-denied": Refusal(
        403,
        '{"Message":"User: arn:aws:sts::1:role/r is not authorized to perform: aps:QueryMetrics"}',
        ": User: arn",
        SIGV4,
    ),
    "amazon-path": Refusal(
        403,
        "<AccessDeniedException>\n  <Message>Unable to determine service/operation name to be "
        "authorized</Message>\n</AccessDeniedException>\n",
        ": Unable to determine",
        SIGV4,
    ),
    "amazon-rate": Refusal(429, '{"message":"Rate exceeded"}', ": Rate exceeded", LESS),
    # Google's API errors (google.rpc.Status in JSON) and its page for an unknown path
    "google-401": Refusal(
        401,
        json.dumps(
            {"error": {"code": 401, "message": "Request is missing credential.", "status": "U"}},
            indent=2,
        ),
        ": Request is missing credential.",
        LOGIN,
    ),
    "google-path": Refusal(
        404,
        "<!DOCTYPE html>\n<html lang=en>\n  <title>Error 404 (Not Found)!!1</title>\n"
        "<style>*{margin:0}</style><p>The requested URL was not found on this server.",
        "Error 404 (Not Found)!!1",
        BASE_PATH,
        HTML,
    ),
    # Azure Monitor: an empty body, and what it wants in a header
    "azure-401": Refusal(
        401,
        "",
        'Bearer authorization="https://login.microsoftonline.com/t"',
        LOGIN,
        {"WWW-Authenticate": 'Bearer authorization="https://login.microsoftonline.com/t"'},
    ),
    # openshift/oauth-proxy templates.go; kube-rbac-proxy; prom-label-proxy injectproxy/routes.go
    "oauth-proxy": Refusal(
        403, "<html><title>Log In</title><button>Log in with OpenShift", "a login page", LOGIN, HTML
    ),
    "label-proxy": Refusal(
        400,
        error("prom-label-proxy", 'the "namespace" query parameter must be provided'),
        "namespace",
        "?namespace=NAME",
    ),
    "openshift-route": Refusal(
        503,
        "<html><head><style>body {}</style></head><body><h1>Application is not available</h1>",
        ": Application is not available",
        BEHIND,
        HTML,
    ),
    # Grafana pkg/api: dataproxy
    "grafana-401": Refusal(
        401,
        '{"message":"Unauthorized","messageId":"auth.unauthorized","statusCode":401}',
        ": Unauthorized",
        LOGIN,
        path=GRAFANA,
    ),
    "grafana-404": Refusal(
        404, '{"message":"Unable to find datasource"}', "find datasource", "uid", path=GRAFANA
    ),
    "grafana-502": Refusal(502, "", "without a word", BEHIND, path=GRAFANA),
    # oauth2-proxy: a redirect to Keycloak, Dex or another provider, or its own page
    "keycloak": Refusal(
        302,
        "",
        "a login page",
        LOGIN,
        {"Location": "https://sso.example/realms/a/protocol/openid-connect/auth?client_id=p"},
    ),
    "dex": Refusal(
        302, "", "a login page", LOGIN, {"Location": "https://dex.example/auth?client_id=p"}
    ),
    "sign-in": Refusal(
        403,
        '<title>Sign In</title><form action="/oauth2/start">',
        "a login page",
        LOGIN,
        HTML,
    ),
    "https": Refusal(
        308,
        "",
        "redirects to https://prom.example/api",
        "use https://prom.example, or",
        {"Location": "https://prom.example/api/v1/query?query=up"},
    ),
    # Ingresses and the API server's proxy
    "nginx-502": Refusal(
        502,
        "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><hr>nginx</body></html>",
        ": 502 Bad Gateway",
        BEHIND,
        HTML,
    ),
    "nginx-414": Refusal(
        414, "<title>414 Request-URI Too Large</title>", "Request-URI Too Large", LESS, HTML
    ),
    "envoy": Refusal(503, "upstream connect error or disconnect", "upstream", BEHIND),
    "kubernetes": Refusal(
        503,
        '{"kind":"Status","status":"Failure","message":"no endpoints available for service p",'
        '"reason":"ServiceUnavailable","code":503}',
        ": no endpoints available",
        BEHIND,
    ),
    # Prometheus itself
    "route-prefix": Refusal(404, "404 page not found\n", "404 page not found", BASE_PATH),
    "agent": Refusal(
        422, error("execution", "unavailable with Prometheus Agent"), "Agent", "receiver"
    ),
    "status-200": Refusal(200, error("bad_data", "no"), "bad_data: no", "correct the query"),
    "cut": Refusal(200, '{"status":"success","data":{"resul', "response was cut", "the address"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_says_what_was_found_and_what_to_do(name: str) -> None:
    """The server's own words stand in the first line, without markup or JSON around them."""
    case = REFUSALS[name]
    reply = Reply(case.body.encode(), case.status, headers=case.headers)
    with serving(lambda *_: reply) as server, pytest.raises(LabError) as caught:
        Prometheus(server.url + case.path).query("up")
    assert case.says in caught.value.happened
    assert case.fix in caught.value.fix
    assert "\n" not in caught.value.happened and "<" not in caught.value.happened


@pytest.mark.parametrize("status", [401, 403])
def test_a_login_that_is_not_enough_is_not_asked_for_again(status: int) -> None:
    """The login was sent: it is too old, or has no right to read."""
    with serving(lambda *_: Reply(b"Forbidden", status)) as server:
        prometheus = Prometheus(server.url, headers={"Authorization": "Bearer x"})
        with pytest.raises(LabError) as caught:
            prometheus.query("up")
    assert "cluster-monitoring-view" in caught.value.fix


def test_an_empty_list_with_a_warning_is_not_an_empty_store() -> None:
    """Thanos lists no names while its stores do not answer."""
    warning = "receive label values from store Addr: 10.0.0.1:10901: Unavailable"
    body = json.dumps({"status": "success", "data": [], "warnings": [warning]}).encode()
    with serving(lambda *_: Reply(body)) as server, pytest.raises(NoData) as caught:
        Prometheus(server.url).metric_names()
    assert warning in caught.value.got


def answer(result: list) -> Reply:
    data = {"resultType": "vector", "result": result}
    return Reply(json.dumps({"status": "success", "data": data}).encode())


def test_a_compressed_body_is_read() -> None:
    """Some proxies compress, although they are asked not to."""
    body = gzip.compress(answer([{"metric": {}, "value": [1, "7"]}]).body)
    with serving(lambda *_: Reply(body, headers={"Content-Encoding": "gzip"})) as server:
        assert Prometheus(server.url).query("x").metrics[0]["value"] == [1, "7"]


@pytest.mark.parametrize(
    "targets",
    [
        Reply(b"unsupported path requested", 400),  # vmselect
        Reply(b"<title>Error 404</title>", 404),  # Google
        Reply(b"<AccessDeniedException/>", 403),  # Amazon
        Reply(
            b'{"status":"success","data":{"activeTargets":[]}}'
        ),  # VictoriaMetrics behind vmagent
    ],
)
def test_targets_without_their_api_are_those_of_up(targets: Reply) -> None:
    """However a store says that it has no targets of its own; it has no rules then, either."""
    up = [{"metric": {"job": "vllm", "instance": "a"}, "value": [1, "1"]}]

    def respond(path: str, params: dict[str, str]) -> Reply:
        return answer(up) if path == "/api/v1/query" else targets

    with serving(respond) as server:
        prometheus = Prometheus(server.url)
        assert [(t.job, t.instance, t.up) for t in prometheus.targets()] == [("vllm", "a", True)]
        if targets.status != 200:
            assert prometheus.rules() == []


def test_a_store_that_wants_whole_names_is_asked_name_by_name() -> None:
    """Google's service refuses a pattern of metric names; the fleet does not notice."""
    names = {"vllm:num_requests_running": "3", "vllm:kv_cache_usage_perc": "0.5", "up": "1"}

    def respond(path: str, params: dict[str, str]) -> Reply:
        if path.startswith("/api/v1/label"):
            return Reply(json.dumps({"status": "success", "data": list(names)}).encode())
        name = params["query"].partition("{")[0]
        if name not in names:
            return Reply(error("bad_data", "query must name one metric").encode(), 400)
        labels = {"__name__": name, "instance": "a", "model_name": "m"}
        series = {"metric": labels, "values": [[1, names[name]], [9, names[name]]]}
        data = {"resultType": "matrix", "result": [series]}
        return Reply(json.dumps({"status": "success", "data": data}).encode())

    with serving(respond) as server:
        (row,) = look_at(Prometheus(server.url), 0.0, 10.0).engines.to_dict("records")
    assert (row["running_mean"], row["kv_mean"]) == (3, 0.5)
    assert ("/api/v1/query", "up") not in {
        (path, params.get("query", "").partition("{")[0]) for path, params in server.requests
    }
