"""One settings object knows where everything is, and says what to do when it does not."""

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


def test_running_stack_is_found(tmp_path: Path) -> None:
    """The addresses that `lab up` wrote are the settings' addresses."""
    (tmp_path / "endpoints.json").write_text(json.dumps({"prometheus": "http://127.0.0.1:1234"}))
    assert load_settings(state_dir=tmp_path).endpoint("prometheus") == "http://127.0.0.1:1234"


def test_environment_beats_the_running_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attach: one variable points the notebooks at somebody's own server."""
    (tmp_path / "endpoints.json").write_text(json.dumps({"prometheus": "http://127.0.0.1:1234"}))
    monkeypatch.setenv("LAB_PROMETHEUS_URL", "http://prom.example:9090/")
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    assert load_settings().endpoint("prometheus") == "http://prom.example:9090"


def test_unknown_address_says_how_to_get_one(tmp_path: Path) -> None:
    """Nothing is running: the error names the variable and the command."""
    with pytest.raises(NotUp, match=r"LAB_TEMPO_URL(.|\n)*lab up"):
        load_settings(state_dir=tmp_path).endpoint("tempo")


def test_broken_state_is_said(tmp_path: Path) -> None:
    """A half-written endpoints file is an error, not an empty lab."""
    (tmp_path / "endpoints.json").write_text("{")
    with pytest.raises(SettingsError, match=r"endpoints\.json"):
        load_settings(state_dir=tmp_path)


def test_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A malformed setting is named with its value and both places to correct it."""
    monkeypatch.setenv("LAB_TIMEOUT_S", "soon")
    with pytest.raises(SettingsError, match=r"timeout_s(.|\n)*soon(.|\n)*LAB_TIMEOUT_S"):
        load_settings(state_dir=tmp_path)


def test_every_endpoint_has_a_field() -> None:
    """endpoint(name) and the settings' fields do not drift apart."""
    assert {f"{name}_url" for name in ENDPOINTS} <= set(Settings.model_fields)
