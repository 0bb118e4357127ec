"""Programs come from what `make setup` wrote, then from PATH; an error names all others."""

from __future__ import annotations

import json
import sys

import pytest

from lab.errors import SetupError
from lab.stack import toolbox


@pytest.fixture
def tools_file(tmp_path):
    """Write a tools.json whose paths all exist."""
    path = tmp_path / "tools.json"
    keys = (
        "python_lab",
        "python_vllm",
        "prometheus",
        "node_exporter",
        "embedding_model_dir",
        "tiktoken_cache_dir",
    )
    path.write_text(json.dumps(dict.fromkeys(keys, str(tmp_path)) | {"machine": "x86_64"}))
    return path


def test_the_programs_of_set_up_are_used(tools_file, tmp_path):
    """Unknown keys are ignored."""
    tools = toolbox.find_tools(tools_file)
    assert (tools.python_vllm, tools.vllm_build) == (str(tmp_path), "cpu")


def test_a_program_on_path_is_used(tools_file, tmp_path, monkeypatch):
    """Prometheus may have been installed by hand."""
    entries = json.loads(tools_file.read_text())
    del entries["prometheus"]
    tools_file.write_text(json.dumps(entries))
    monkeypatch.setattr(
        toolbox.shutil, "which", lambda name: sys.executable if name == "prometheus" else None
    )
    assert toolbox.find_tools(tools_file).prometheus == sys.executable


def test_all_missing_programs_are_reported_at_once(tmp_path, monkeypatch):
    """The error has the command that installs them."""
    monkeypatch.setattr(toolbox.shutil, "which", lambda _: None)
    with pytest.raises(SetupError, match="python_vllm, prometheus, node_exporter") as e:
        toolbox.find_tools(tmp_path / "tools.json")
    assert "make setup" in str(e.value)


def test_an_unreadable_file_is_an_error(tools_file):
    """The file may be incomplete or edited by hand."""
    tools_file.write_text("{")
    with pytest.raises(SetupError, match="cannot be read"):
        toolbox.find_tools(tools_file)
