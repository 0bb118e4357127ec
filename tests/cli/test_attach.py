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
