"""What `lab doctor` reports, of which kinds of target, and how it ends."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
import yaml

pytest.importorskip("promql_parser")

from lab.cli.doctor import main
from lab.doctor import checks, examine
from lab.settings import REPO
from tests.engines.pages import page, scraped, window
from tests.engines.test_fleet import ENGINE, ROUTER, filled, growing, target

DATA = Path(__file__).parent.parent / "data"
DOCTOR = DATA / "doctor"


def kinds(*targets: object, **options: object) -> set[str]:
    return {each.check for each in examine([str(t) for t in targets], **options)}


def test_exit_status_and_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """0 without a finding, 1 with one, 2 where a target cannot be read; JSON has every field."""
    assert main([str(DOCTOR / "good" / "vllm.prom")]) == 0
    assert "0 findings" in capsys.readouterr().out

    assert main([str(DOCTOR / "bad" / "nan__not-finite.prom"), "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["check"] == "not-finite" and finding["level"] == "note"
    assert all(finding[name] for name in ("evidence", "consequence", "fix", "target"))
    assert main([str(DOCTOR / "bad" / "nan__not-finite.prom"), "--level", "error"]) == 0
    capsys.readouterr()

    assert main([str(tmp_path / "absent.prom"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["findings"][0]["fix"]
    assert main([]) == 2


def test_every_check_says_what_follows_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """`--checks` lists them."""
    assert main(["--checks"]) == 0
    out = capsys.readouterr().out
    for name, check in checks().items():
        assert name in out
        assert check.level in ("note", "error") and check.consequence and check.fix


@pytest.mark.parametrize(
    ("content", "name"),
    [("", "a.json"), ("{", "b.json"), ("\x00\x01", "c.prom"), ("hello world, this", "d.txt")],
)
def test_what_is_none_of_the_kinds_is_unreadable(content: str, name: str, tmp_path: Path) -> None:
    """With a message instead of a traceback."""
    file = tmp_path / name
    file.write_text(content)
    assert kinds(file) <= {"unreadable", "silent-target"} and kinds(file)


def test_queries_are_checked_against_a_page_that_is_examined_too(tmp_path: Path) -> None:
    """By the names, the bounds and the labels that are there."""
    kserve = DATA / "engines" / "m07_kserve_vllm.t1.prom"
    dashboard = tmp_path / "board.json"
    dashboard.write_text(
        json.dumps({"panels": [{"targets": [{"expr": "vllm:num_requests_running"}]}]})
    )
    assert kinds(dashboard) == set()
    findings = examine([str(dashboard), str(kserve)])
    (dead,) = [each for each in findings if each.check == "dead-name"]
    assert "kserve_vllm:num_requests_running" in dead.fix

    good = str(DOCTOR / "good" / "vllm.prom")
    bound = 'rate(vllm:e2e_request_latency_seconds_bucket{le="20.0"}[5m])'
    assert kinds(good, queries=[bound]) == set()
    assert kinds(good, queries=[bound.replace("20.0", "20")]) == {"no-such-bound"}


def test_a_folder_is_examined_as_a_whole(tmp_path: Path) -> None:
    """The manifests in it refer to each other."""
    text = (DOCTOR / "good" / "manifests.yaml").read_text()
    service, *others = text.split("---\n")
    (tmp_path / "a.yaml").write_text("---\n".join(others))
    (tmp_path / "b.yaml").write_text(service.replace("labels: {app: chat}", "labels: {app: x}"))
    assert kinds(tmp_path) == {"monitor-empty"}


def test_a_kustomizations_labels_count(tmp_path: Path) -> None:
    """They are added when it is rendered."""
    text = (DOCTOR / "good" / "manifests.yaml").read_text()
    service, *others = text.split("---\n")
    (tmp_path / "a.yaml").write_text("---\n".join(others))
    (tmp_path / "b.yaml").write_text(service.replace("labels: {app: chat}", "labels: {}"))
    kustomization = {"kind": "Kustomization", "labels": [{"pairs": {"app": "chat"}}]}
    (tmp_path / "kustomization.yaml").write_text(json.dumps(kustomization))
    assert "monitor-empty" not in kinds(tmp_path)


def test_an_empty_container_is_no_obstacle(tmp_path: Path) -> None:
    """A half-written pod among manifests: its port is missing, and nothing breaks."""
    service, deployment, *others = yaml.safe_load_all(
        (DOCTOR / "good" / "manifests.yaml").read_text()
    )
    deployment["spec"]["template"]["spec"]["containers"] = [None]
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all([service, deployment, *others]))
    assert kinds(file) == {"monitor-port"}


def test_a_secret_is_never_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Only its beginning, by which it is found again."""
    for file in (DOCTOR / "bad").glob("*__secret.*"):
        assert main([str(file), "--json"]) == 1
        out = capsys.readouterr().out
        assert not any(s in out for s in ("hunter2pass", "s3cretpass", "abcdef0123", "klmnop1234"))


def test_two_pages_show_what_one_does_not(tmp_path: Path) -> None:
    """Aborted requests among many that were not."""
    before = DATA / "engines" / "m11_vllm_aborts.t0.prom"
    after = DATA / "engines" / "m11_vllm_aborts.t1.prom"
    (finding,) = examine([str(after)], before=str(before))
    assert finding.check == "totals-differ" and "3,010" in finding.evidence
    assert kinds(before) == set()


def test_recorded_traces_of_the_lab_have_one_true_fault(tmp_path: Path) -> None:
    """Llama Stack leaves the status of a failed MCP tool call unset; nothing else is reported."""
    recording = pq.read_table(REPO / "data" / "recorded" / "first-look" / "traces.parquet")
    file = tmp_path / "traces.json"
    documents = [json.dumps(json.loads(text)) for text in recording["document"].to_pylist()[:60]]
    file.write_text("\n".join(documents))
    assert kinds(file) == {"hidden-failures"}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prometheus that scraped a router, engines of it, and one with everything wrong."""
    engine = (filled(ENGINE, 0, 3, 0.4), filled(ENGINE, 1000, 3, 0.4))
    m03 = (page("m03_vllm_default_buckets.t0"), page("m03_vllm_default_buckets.t1"))
    with scraped(
        (target("routed", "10.0.1.1:8000"), *engine),
        (target("routed", "10.0.1.2:8000"), *growing(ENGINE.replace("KV", "0.4"), 0, 900)),
        (target("routed", "10.0.1.9:9000"), ROUTER, ROUTER),
        (target("slow", "10.0.2.1:8000"), *m03),
        folder=tmp_path_factory.mktemp("doctor"),
    ) as settings:
        yield settings.prometheus_url


def test_a_prometheus(prometheus: str) -> None:
    """Its series are examined like a page, its engines over a window."""
    findings = examine([prometheus], queries=["vllm:prompt_token_total"], window=window())
    found = {each.check for each in findings}
    assert {"router-copies", "unresolved-buckets", "dead-name"} <= found
    assert "unreadable" not in found


def test_a_prometheus_without_engines(tmp_path: Path) -> None:
    """Says so, rather than nothing."""
    with scraped((target("node"), "node_load1 1", "node_load1 2"), folder=tmp_path) as settings:
        assert kinds(settings.prometheus_url, window=window()) == {"no-engine-metrics"}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder of inputs over HTTP."""
    import socket
    import sys
    import time

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([*command, "-d", str(DOCTOR)], **quiet)
    url = f"http://127.0.0.1:{port}"
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        try:
            httpx.get(url, timeout=30)
            break
        except httpx.HTTPError:
            time.sleep(0.1)
    yield url
    server.terminate()
    server.wait(60)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("good/sglang.prom", set()),
        ("bad/percent_kv__share-scale.prom", {"share-scale"}),
        ("bad/skew__clock-skew.json", {"clock-skew"}),
        ("good/dashboard.json", set()),
        ("absent", {"unreadable"}),
    ],
)
def test_an_address(web: str, path: str, expected: set[str]) -> None:
    """A page or a file over HTTP is read as what it is."""
    assert kinds(f"{web}/{path}") == expected


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "Deployment", "metadata": 3, "spec": {"template": []}},
        {"kind": "ServiceMonitor", "spec": {"selector": "app", "endpoints": 7}},
        {
            "kind": "PodMonitor",
            "metadata": {"name": "m"},
            "spec": {"podMetricsEndpoints": {"a": 1}},
        },
        {"title": "board", "panels": {"targets": 5}},
        {"title": "board", "panels": [{"type": "timeseries", "title": "p", "targets": [4]}]},
        {"groups": [{"rules": [{"record": [], "expr": {"a": 2}}]}]},
        {"kind": "ScaledObject", "spec": {"triggers": [{"type": "prometheus", "metadata": 9}]}},
    ],
)
def test_a_document_of_another_shape_is_a_finding_or_ignored(tmp_path: Path, document: dict):
    """A number for a mapping is reported, and never a traceback."""
    file = tmp_path / "x.json"
    file.write_text(json.dumps(document))
    findings = examine([str(file)])
    assert all(each.evidence for each in findings)


@pytest.mark.parametrize("path", ["/stats/prometheus", "/actuator/prometheus", "/federate"])
def test_other_servers_expose_their_metrics_elsewhere(path: str, tmp_path: Path) -> None:
    """A gateway before the engines is Envoy, and an agent may be Spring's."""
    monitor = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": "gateway", "namespace": "team-a"},
        "spec": {
            "selector": {"matchLabels": {"app": "gateway"}},
            "endpoints": [{"port": "http", "path": path}],
        },
    }
    (tmp_path / "monitor.yaml").write_text(yaml.safe_dump(monitor))
    assert "monitor-path" not in kinds(tmp_path / "monitor.yaml")
