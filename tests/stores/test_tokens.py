"""Bearer tokens come from a file or a command and are replaced while in use."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import QueryRejected, SettingsError, StoreError
from lab.settings import Settings, load_settings
from lab.stores import Prometheus, Tempo
from lab.stores import http as stores_http
from tests.stores.servers import Reply, serving

EMPTY = Reply(b'{"status":"success","data":{"resultType":"vector","result":[]}}')


def settings(url: str, **more: object) -> Settings:
    return load_settings(prometheus_url=url, tempo_url=url, **more)  # type: ignore[arg-type]


def test_a_file_is_read_for_every_request(tmp_path: Path) -> None:
    """Kubernetes replaces the token of a service account every hour."""
    file = tmp_path / "token"
    file.write_text("first\n")
    with serving(lambda *_: EMPTY) as server:
        prometheus = Prometheus(settings(server.url, store_token_file=file))
        prometheus.query("up")
        file.write_text("second")
        prometheus.query("up")
    assert [h["Authorization"] for h in server.headers] == ["Bearer first", "Bearer second"]


def test_a_command_is_run_once_for_many_requests(tmp_path: Path) -> None:
    """The output is cached, as commands such as `gcloud` may take a second."""
    script = tmp_path / "print token.sh"
    script.write_text(f'echo run >> "{tmp_path}/runs"; echo token-$(wc -l < "{tmp_path}/runs")')
    with serving(lambda *_: EMPTY) as server:
        prometheus = Prometheus(settings(server.url, store_token_command=f"sh '{script}'"))
        prometheus.query("up")
        prometheus.query("up")
    assert [h["Authorization"] for h in server.headers] == ["Bearer token-1"] * 2


def test_a_refused_token_is_replaced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a cached token is replaced, as a fresh one is refused for another reason."""
    script = tmp_path / "token.sh"
    script.write_text(f'echo run >> "{tmp_path}/runs"; echo token-$(wc -l < "{tmp_path}/runs")')
    clock = [1000.0]
    monkeypatch.setattr(stores_http.time, "monotonic", lambda: clock[0])
    refused: set[str] = set()

    def respond(*_: object) -> Reply:
        used = server.headers[-1]["Authorization"]
        return Reply(b"expired", 401) if used in refused else EMPTY

    with serving(respond) as server:
        prometheus = Prometheus(settings(server.url, store_token_command=f"sh {script}"))
        prometheus.query("up")
        clock[0] += 60
        refused.add("Bearer token-1")
        prometheus.query("up")
        assert server.headers[-1]["Authorization"] == "Bearer token-2"
        refused.add("Bearer token-2")
        with pytest.raises(QueryRejected, match="LAB_STORE_TOKEN_COMMAND"):
            prometheus.query("up")
    assert len((tmp_path / "runs").read_text().split()) == 2


@pytest.mark.parametrize("content", ["", "two words", "a\nb", "käse"])
def test_an_invalid_token_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    """The file may be empty or contain a login page."""
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(StoreError, match="does not hold a token") as caught:
        Prometheus(settings("http://127.0.0.1:9", store_token_file=file)).query("up")
    assert not content or content not in str(caught.value)


@pytest.mark.parametrize(
    "command", ["false", "/no/such/program", "sh -c 'echo secret >&2; exit 3'"]
)
def test_a_command_that_fails_is_an_error_without_its_output(command: str) -> None:
    """The output of the command may contain secrets."""
    with pytest.raises(StoreError, match="command that prints the token") as caught:
        Tempo(settings("http://127.0.0.1:9", store_token_command=command)).search("{}", 0, 1)
    assert "secret" not in str(caught.value)


def test_a_foreign_lab_toml_may_not_run_a_command_or_take_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command would run on this machine, and its address would get the token."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.toml").write_text('store_token_command = "touch ran"\n')
    with pytest.raises(SettingsError, match="only the checkout's own file may"):
        load_settings()
    (tmp_path / "lab.toml").write_text('prometheus_url = "http://evil.example"\n')
    monkeypatch.setenv("LAB_STORE_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(SettingsError, match="your credentials would be sent"):
        load_settings()
