"""`lab attach` says what somebody's own servers can feed, and fails with words."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from lab.cli.attach import main
from tests.stores.servers import Reply, serving

HAS = ["up", "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "ogx_requests_total"]


def servers(metrics: list[str], traces: int, jobs: tuple[str, ...] = ("model-servers",)):  # noqa: ANN201
    """A Prometheus with these metrics and a Tempo with so many traces, in one."""

    def answer(path: str, params: dict[str, str]) -> Reply:
        if path == "/api/search":
            one = {"traceID": "1", "rootServiceName": "llama-stack"}
            return Reply(json.dumps({"traces": [one] * traces}).encode())
        if path == "/api/v1/query":
            found = [{"metric": {"job": job, "model_name": "m"}, "value": [1, "1"]} for job in jobs]
            return Reply(
                json.dumps(
                    {"status": "success", "data": {"resultType": "vector", "result": found}}
                ).encode()
            )
        return Reply(json.dumps({"status": "success", "data": metrics}).encode())

    return serving(answer)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))


def test_it_says_what_is_there_and_keeps_the_addresses(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """Other versions' names count; what is lacking is named; the rest of lab.toml stays."""
    (tmp_path / "lab.toml").write_text('timeout_s = 5\nprometheus_url = "http://old"\n')
    with servers(HAS, 3) as told:
        assert main(["--prometheus", told.url, "--tempo", told.url, "--write"]) == 0
        kept = tomllib.loads((tmp_path / "lab.toml").read_text())
        addresses = {"prometheus_url": told.url, "tempo_url": told.url}
        assert kept == {"timeout_s": 5, "vllm_job": "model-servers"} | addresses
    said = capsys.readouterr().out
    assert "tokens and their cost: lacks vllm:prompt_tokens_cached_total" in said
    assert "ogx_requests_total for llama_stack_requests_total" in said
    assert (
        "scraped as the job model-servers (serving m); the analysis asks for the job vllm" in said
    )
    assert "3 traces in the last hour" in said and "llama-stack" in said


@pytest.mark.parametrize(
    ("metrics", "traces", "words"),
    [(["up"], 1, "no metric of a model server"), (HAS, 0, "Tempo found no trace")],
)
def test_servers_that_answer_nothing_of_use_are_refused(
    metrics: list[str], traces: int, words: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """And their addresses are not kept."""
    with servers(metrics, traces) as told:
        assert main(["--prometheus", told.url, "--tempo", told.url, "--write"]) == 1
    assert words in capsys.readouterr().out and not (tmp_path / "lab.toml").exists()


def test_of_several_jobs_none_is_chosen(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """But each is named; where the right one is among them, nothing is said."""
    with servers(HAS, 1, ("chat", "embed")) as told:
        assert main(["--prometheus", told.url, "--tempo", told.url, "--write"]) == 0
    assert "set LAB_VLLM_JOB to one of them" in capsys.readouterr().out
    assert "vllm_job" not in (tmp_path / "lab.toml").read_text()
    with servers(HAS, 1, ("vllm", "embed")) as told:
        assert main(["--prometheus", told.url, "--tempo", told.url]) == 0
    assert "scraped as" not in capsys.readouterr().out


def test_nobody_there(capsys: pytest.CaptureFixture) -> None:
    """Both are looked at, each says what to do."""
    assert main(["--prometheus", "http://127.0.0.1:9"]) == 1
    said = capsys.readouterr().out
    assert "Prometheus at http://127.0.0.1:9 cannot be reached" in said and "LAB_TEMPO_URL" in said


def test_a_password_is_kept_in_a_private_file(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """Neither other users nor the terminal see it."""
    (tmp_path / "lab.toml").write_text("timeout_s = 5\n")
    with servers(HAS, 3) as told:
        url = told.url.replace("http://", "http://eng:s3cret@")
        assert main(["--prometheus", url, "--tempo", url, "--write"]) == 0
    assert "s3cret" not in capsys.readouterr().out
    assert "s3cret" in (tmp_path / "lab.toml").read_text()
    assert (tmp_path / "lab.toml").stat().st_mode & 0o077 == 0
