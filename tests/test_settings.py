"""Settings know every address, and errors explain how to provide a missing one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lab.errors import NotUp, SettingsError
from lab.settings import ENDPOINTS, Settings, load_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("LAB_"):
            monkeypatch.delenv(name)


def test_a_running_stack_is_found(tmp_path: Path) -> None:
    """The addresses that `lab up` wrote are used."""
    (tmp_path / "endpoints.json").write_text(json.dumps({"prometheus": "http://127.0.0.1:1234"}))
    assert load_settings(state_dir=tmp_path).endpoint("prometheus") == "http://127.0.0.1:1234"


def test_the_environment_overrides_the_running_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One variable points the notebooks at an existing server."""
    (tmp_path / "endpoints.json").write_text(json.dumps({"prometheus": "http://127.0.0.1:1234"}))
    monkeypatch.setenv("LAB_PROMETHEUS_URL", "http://prom.example:9090/")
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    assert load_settings().endpoint("prometheus") == "http://prom.example:9090"


def test_a_missing_address_is_an_error_with_a_fix(tmp_path: Path) -> None:
    """When nothing is running, the error names the variable and the command."""
    with pytest.raises(NotUp, match=r"LAB_TEMPO_URL(.|\n)*lab up"):
        load_settings(state_dir=tmp_path).endpoint("tempo")


def test_a_damaged_endpoints_file_is_an_error(tmp_path: Path) -> None:
    """A half-written endpoints file is not treated as an empty lab."""
    (tmp_path / "endpoints.json").write_text("{")
    with pytest.raises(SettingsError, match=r"endpoints\.json"):
        load_settings(state_dir=tmp_path)


def test_a_malformed_value_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error has the setting, its value and both places to correct it."""
    monkeypatch.setenv("LAB_TIMEOUT_S", "soon")
    with pytest.raises(SettingsError, match=r"timeout_s(.|\n)*soon(.|\n)*LAB_TIMEOUT_S"):
        load_settings(state_dir=tmp_path)


def test_every_endpoint_has_a_field() -> None:
    """endpoint(name) and the fields of the settings agree."""
    assert {f"{name}_url" for name in ENDPOINTS} <= set(Settings.model_fields)


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("Authorization: Bearer x:y", {"Authorization": "Bearer x:y"}),
        ("X-Scope-OrgID: a\nAuthorization: b\n", {"X-Scope-OrgID": "a", "Authorization": "b"}),
        ('{"Authorization": "Bearer x"}', {"Authorization": "Bearer x"}),
    ],
)
def test_headers_are_lines_or_json(
    text: str, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Headers are accepted in curl's notation and as JSON."""
    monkeypatch.setenv("LAB_STORE_HEADERS", text)
    assert load_settings(state_dir=tmp_path).store_headers == headers


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LAB_STORE_HEADERS", "Bearer hunter2"),
        ("LAB_STORE_HEADERS", "{hunter2"),
        ("LAB_PORTS", "abc"),
    ],
)
def test_malformed_values_are_settings_errors_without_secrets(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The variable is named, but the value of a header is not printed."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable) as e:
        load_settings(state_dir=tmp_path)
    assert "hunter2" not in str(e.value) and e.value.__suppress_context__


def test_passwords_are_not_printed(tmp_path: Path) -> None:
    """The settings may be the last line of a notebook's cell."""
    url = "https://eng:s3cret%20p%40ss@prom.example/x"
    settings = load_settings(
        state_dir=tmp_path, prometheus_url=url, store_headers={"Authorization": "Bearer s3cret"}
    )
    assert "s3cret" not in repr(settings) and "eng:***@prom.example/x" in repr(settings)
    assert settings.endpoint("prometheus") == url


def test_the_source_of_an_address_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab.toml or a variable that redirects the workshop is named."""
    (tmp_path / "lab.toml").write_text('tempo_url = "http://tempo.example"\n')
    (tmp_path / "endpoints.json").write_text(
        json.dumps({"tempo": "http://127.0.0.1:1", "vllm": "http://127.0.0.1:2"})
    )
    monkeypatch.setenv("LAB_PROMETHEUS_URL", "http://prom.example")
    settings = load_settings(state_dir=tmp_path, mcp_url="http://mcp.example")
    assert settings.source_of("prometheus_url") == "LAB_PROMETHEUS_URL"
    assert settings.source_of("tempo_url") == str(tmp_path / "lab.toml")
    assert settings.source_of("vllm_url") == f"the lab in {tmp_path}"
    assert settings.source_of("mcp_url") == "an argument"
    assert settings.source_of("model_name") == "the default"


@pytest.mark.parametrize("name", ["model", "vllm_args", "state_dir", "cluster_context"])
def test_a_foreign_folder_cannot_run_code(tmp_path: Path, name: str) -> None:
    """Settings such as `vllm_args` in a folder that is not the lab's checkout are refused."""
    (tmp_path / "lab.toml").write_text(f'{name} = "x"\n')
    with pytest.raises(SettingsError, match=f"sets {name}, which only the checkout's own file may"):
        load_settings()


def test_credentials_do_not_go_to_an_address_from_a_foreign_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user must repeat the address, or the file must have its own credentials."""
    (tmp_path / "lab.toml").write_text('prometheus_url = "http://evil.example"\n')
    assert load_settings(state_dir=tmp_path).prometheus_url == "http://evil.example"
    monkeypatch.setenv("LAB_STORE_HEADERS", "Authorization: Bearer x")
    with pytest.raises(SettingsError, match=r"evil\.example(.|\n)*LAB_PROMETHEUS_URL"):
        load_settings(state_dir=tmp_path)
    monkeypatch.setenv("LAB_PROMETHEUS_URL", "http://evil.example")
    assert load_settings(state_dir=tmp_path).store_headers
    monkeypatch.delenv("LAB_PROMETHEUS_URL")
    monkeypatch.delenv("LAB_STORE_HEADERS")
    with (tmp_path / "lab.toml").open("a") as file:
        file.write('store_headers = {Authorization = "Bearer of this server"}\n')
    assert load_settings(state_dir=tmp_path).store_headers


def test_settings_load_next_to_a_damaged_endpoints_file(tmp_path: Path) -> None:
    """Otherwise `lab down` would not work."""
    (tmp_path / "endpoints.json").write_text("{")
    assert load_settings(running_stack=False, state_dir=tmp_path).prometheus_url is None


def test_a_malformed_toml_file_is_named(tmp_path: Path) -> None:
    """The error names the file instead of showing the parser's traceback."""
    (tmp_path / "lab.toml").write_text("model = \n")
    with pytest.raises(SettingsError, match=r"lab\.toml is not TOML"):
        load_settings(state_dir=tmp_path)
