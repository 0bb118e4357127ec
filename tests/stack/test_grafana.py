"""Grafana on demand gets the lab's data sources and dashboards; without it, the error says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lab import stack
from lab.cli import show
from lab.dashboards.grafana import DATA_SOURCE
from lab.errors import SetupError
from lab.stack.ports import PREFERRED
from tests.stack.test_plan import lab, make  # noqa: F401 - a fixture
from tests.stack.test_supervisor import small_lab  # noqa: F401 - a fixture


def provisioned(made, name: str) -> dict:
    (text,) = [t for path, t in made.files.items() if path.parts[-2:] == (name, "lab.yaml")]
    return yaml.safe_load(text)


@pytest.fixture
def made(lab, tmp_path: Path):  # noqa: F811
    """Return the plan of a lab on a machine with Grafana's archive in /…/grafana."""
    (tmp_path / "grafana/conf").mkdir(parents=True)
    (tmp_path / "grafana/conf/defaults.ini").touch()
    settings, tools = lab
    return make(settings(), replace(tools, grafana=str(tmp_path / "grafana/bin/grafana-server")))


def test_it_listens_on_loopback_when_it_is_requested_only(made, tmp_path: Path) -> None:
    """No other machine can reach it, no other name leads to it, and it sends nothing home."""
    (part,) = [p for p in made.parts if p.name == "grafana"]
    assert part.on_demand and not part.essential
    assert part.argv[1:] == ("--homepath", str(tmp_path / "grafana"))
    assert part.env["GF_SERVER_HTTP_ADDR"] == part.env["GF_SERVER_DOMAIN"] == "127.0.0.1"
    assert part.env["GF_SERVER_HTTP_PORT"] == str(PREFERRED["grafana"])
    assert part.env["GF_SERVER_ENFORCE_DOMAIN"] == "true"
    assert part.env["GF_ANALYTICS_REPORTING_ENABLED"] == "false"


def test_the_data_sources_are_this_lab_and_those_of_the_dashboards(made) -> None:
    """The dashboards' data source exists under its uid, at the address of this lab's store."""
    sources = {s["uid"]: s for s in provisioned(made, "datasources")["datasources"]}
    assert sources[DATA_SOURCE]["url"] == made.endpoints["prometheus"]
    assert sources["tempo"]["url"] == made.endpoints["tempo"]
    assert sources[DATA_SOURCE]["jsonData"]["timeInterval"] == "2s"


def test_all_dashboards_are_in_the_provisioned_folder(made) -> None:
    """The folder has Grafana's JSON of each dashboard, and the home dashboard is one of them."""
    (provider,) = provisioned(made, "dashboards")["providers"]
    boards = [json.loads(p.read_text()) for p in Path(provider["options"]["path"]).glob("*.json")]
    assert {"llm-lab-overview", "llm-lab-vllm"} < {board["uid"] for board in boards}
    (part,) = [p for p in made.parts if p.name == "grafana"]
    assert Path(part.env["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).is_file()


def test_without_grafana_nothing_is_started_and_the_error_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lab up --with grafana` ends before the stack starts, and names the live view instead."""
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LAB_TOOLS", str(tmp_path / "tools.json"))
    with pytest.raises(SetupError, match="Grafana is not installed") as error:
        show.stand_up("agent", ["grafana"])
    assert "live view" in str(error.value)
    assert not (tmp_path / "state").exists()


def test_files_in_folders_of_their_own_are_written_before_the_start(
    small_lab,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Grafana reads its provisioning from folders that no other part has."""
    path = tmp_path / "lab/run/grafana/datasources/lab.yaml"
    stack.up(small_lab(files=[str(path)]))
    assert path.read_text() == "text"
