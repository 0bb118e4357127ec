"""`lab attach` reports what existing servers provide, and fails with an explanation."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from lab.cli.attach import main
from tests.stores.servers import Reply, serving

METRICS = ["up", "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "ogx_requests_total"]


def servers(metrics: list[str], traces: int, jobs: tuple[str, ...] = ("model-servers",)):  # noqa: ANN201
    """Serve a Prometheus with these metrics and a Tempo with so many traces."""

    def respond(path: str, params: dict[str, str]) -> Reply:
        if path == "/api/search":
            trace = {"traceID": "1", "rootServiceName": "llama-stack"}
            return Reply(json.dumps({"traces": [trace] * traces}).encode())
        if path == "/api/v1/query":
            result = [
                {"metric": {"job": job, "model_name": "m"}, "value": [1, "1"]} for job in jobs
            ]
            return Reply(
                json.dumps(
                    {"status": "success", "data": {"resultType": "vector", "result": result}}
                ).encode()
            )
        return Reply(json.dumps({"status": "success", "data": metrics}).encode())

    return serving(respond)


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))


def test_what_is_there_is_printed_and_the_addresses_are_kept(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """Names of other versions count, missing metrics are listed, and lab.toml is kept."""
    (tmp_path / "lab.toml").write_text('timeout_s = 5\nprometheus_url = "http://old"\n')
    with servers(METRICS, 3) as server:
        assert main(["--prometheus", server.url, "--tempo", server.url, "--write"]) == 0
        written = tomllib.loads((tmp_path / "lab.toml").read_text())
        addresses = {"prometheus_url": server.url, "tempo_url": server.url}
        assert written == {"timeout_s": 5, "vllm_job": "model-servers"} | addresses
    output = capsys.readouterr().out
    assert "tokens and their cost: lacks vllm:prompt_tokens_cached_total" in output
    assert "ogx_requests_total for llama_stack_requests_total" in output
    assert (
        "scraped as the job model-servers (serving m); the analysis asks for the job vllm" in output
    )
    assert "3 traces in the last hour" in output and "llama-stack" in output


@pytest.mark.parametrize(
    ("metrics", "traces", "words"),
    [(["up"], 1, "no metric of a model server"), (METRICS, 0, "Tempo found no trace")],
)
def test_servers_without_useful_data_are_refused(
    metrics: list[str], traces: int, words: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """The addresses of such servers are not written."""
    with servers(metrics, traces) as server:
        assert main(["--prometheus", server.url, "--tempo", server.url, "--write"]) == 1
    assert words in capsys.readouterr().out and not (tmp_path / "lab.toml").exists()


def test_with_several_jobs_none_is_chosen(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """The jobs are listed, unless the default job is among them."""
    with servers(METRICS, 1, ("chat", "embed")) as server:
        assert main(["--prometheus", server.url, "--tempo", server.url, "--write"]) == 0
    assert "set LAB_VLLM_JOB to one of them" in capsys.readouterr().out
    assert "vllm_job" not in (tmp_path / "lab.toml").read_text()
    with servers(METRICS, 1, ("vllm", "embed")) as server:
        assert main(["--prometheus", server.url, "--tempo", server.url]) == 0
    assert "scraped as" not in capsys.readouterr().out


def test_unreachable_and_missing_addresses(capsys: pytest.CaptureFixture) -> None:
    """Both servers are checked, and each problem has a fix."""
    assert main(["--prometheus", "http://127.0.0.1:9"]) == 1
    output = capsys.readouterr().out
    assert "Prometheus at http://127.0.0.1:9 cannot be reached" in output
    assert "LAB_TEMPO_URL" in output


def test_a_password_is_kept_in_a_private_file(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """Neither other users nor the terminal can see it."""
    (tmp_path / "lab.toml").write_text("timeout_s = 5\n")
    with servers(METRICS, 3) as server:
        url = server.url.replace("http://", "http://eng:s3cret@")
        assert main(["--prometheus", url, "--tempo", url, "--write"]) == 0
    assert "s3cret" not in capsys.readouterr().out
    assert "s3cret" in (tmp_path / "lab.toml").read_text()
    assert (tmp_path / "lab.toml").stat().st_mode & 0o077 == 0


KSERVE = ["kserve_vllm:num_requests_running", "kserve_vllm:prompt_tokens_total"]


def prometheus_with(
    names: list[str], engines: list[dict[str, str]], warnings: tuple[str, ...] = ()
):  # noqa: ANN201
    """Serve a Prometheus with these metric names that answers every query with these series."""

    def respond(path: str, params: dict[str, str]) -> Reply:
        if path == "/api/v1/query":
            series = [{"metric": labels, "value": [1, "1"]} for labels in engines]
            data = {"resultType": "vector", "result": series}
            body = {"status": "success", "data": data, "warnings": list(warnings)}
            return Reply(json.dumps(body).encode())
        if path == "/api/v1/label/__name__/values":
            return Reply(json.dumps({"status": "success", "data": names}).encode())
        return Reply(b"404 page not found", 404)

    return serving(respond)


def test_prometheus_alone_is_enough(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """Prefixed engines are recognised, their job is written, and Tempo is optional."""
    engines = [{"job": "team-a/chat", "pod": f"p{i}", "model_name": "acme"} for i in range(3)]
    with prometheus_with(KSERVE, engines) as server:
        assert main(["--prometheus", server.url, "--write"]) == 0
        written = tomllib.loads((tmp_path / "lab.toml").read_text())
        assert written == {"prometheus_url": server.url, "vllm_job": "team-a/chat"}
    printed = capsys.readouterr().out
    assert "vLLM V1, prefixed 'kserve_': 3 engines (3 in job team-a/chat)" in printed
    assert "kserve_vllm:prompt_tokens_total for vllm:prompt_tokens_total" in printed
    assert "Tempo: no address" in printed
    assert "lab fleet" in printed


def test_an_unreachable_tempo_from_the_settings_does_not_hide_the_metrics(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tempo must answer only if --tempo is given."""
    monkeypatch.setenv("LAB_TEMPO_URL", "http://127.0.0.1:9")
    with prometheus_with(KSERVE, [{"job": "vllm"}]) as server:
        assert main(["--prometheus", server.url]) == 0
        assert main(["--prometheus", server.url, "--tempo", "http://127.0.0.1:9"]) == 1
    assert "Tempo at http://127.0.0.1:9 cannot be reached" in capsys.readouterr().out


def test_a_partial_answer_is_reported_and_replicated_engines_count_once(
    capsys: pytest.CaptureFixture,
) -> None:
    """Thanos may lack a store, and both Prometheus servers of a pair have the engine."""
    engines = [{"job": "vllm", "prometheus_replica": str(i)} for i in range(2)]
    with prometheus_with(KSERVE, engines, ("no StoreAPIs matched for this query",)) as server:
        assert main(["--prometheus", server.url]) == 0
    printed = capsys.readouterr().out
    assert "1 engine (1 in job vllm); the store says: no StoreAPIs matched" in printed


def test_attach_queries_only_names_and_engines() -> None:
    """Whatever the store's size, no query returns more than one series per engine."""
    with prometheus_with([*KSERVE, "sglang:num_running_reqs"], [{"job": "vllm"}]) as server:
        assert main(["--prometheus", server.url]) == 0
    queries = [params["query"] for path, params in server.requests if path == "/api/v1/query"]
    assert all(query.startswith("group by (") for query in queries)
    assert len(server.requests) <= 6


def test_renamed_metrics_need_a_prefix(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """A prefix that cannot be guessed is an option, which is written to lab.toml."""
    with prometheus_with(
        ["acme_num_running_reqs", "acme_num_queue_reqs"], [{"job": "vllm"}]
    ) as server:
        assert main(["--prometheus", server.url]) == 1
        assert "set LAB_METRIC_PREFIX" in capsys.readouterr().out
        assert main(["--prometheus", server.url, "--prefix", "acme_", "--write"]) == 0
    assert "SGLang" in capsys.readouterr().out
    assert tomllib.loads((tmp_path / "lab.toml").read_text())["metric_prefix"] == "acme_"
