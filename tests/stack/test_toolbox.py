"""Where the programs are: what `make setup` wrote, else PATH, else an error that names them all."""

from __future__ import annotations

import json
import sys

import pytest

from lab.errors import SetupError
from lab.stack import toolbox


@pytest.fixture
def tools_file(tmp_path):
    """A tools.json whose every path exists."""
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


def test_what_set_up_found_is_taken(tools_file, tmp_path):
    """Keys that are for others are no obstacle."""
    found = toolbox.find_tools(tools_file)
    assert (found.python_vllm, found.vllm_build) == (str(tmp_path), "cpu")


def test_a_program_on_path_will_do(tools_file, tmp_path, monkeypatch):
    """Prometheus may have been installed by hand."""
    known = json.loads(tools_file.read_text())
    del known["prometheus"]
    tools_file.write_text(json.dumps(known))
    monkeypatch.setattr(
        toolbox.shutil, "which", lambda name: sys.executable if name == "prometheus" else None
    )
    assert toolbox.find_tools(tools_file).prometheus == sys.executable


def test_everything_that_is_missing_is_named_at_once(tmp_path, monkeypatch):
    """With the command that gets it."""
    monkeypatch.setattr(toolbox.shutil, "which", lambda _: None)
    with pytest.raises(SetupError, match="python_vllm, prometheus, node_exporter") as e:
        toolbox.find_tools(tmp_path / "tools.json")
    assert "make setup" in str(e.value)


def test_a_file_that_cannot_be_read_is_said(tools_file):
    """Half written, or edited by hand."""
    tools_file.write_text("{")
    with pytest.raises(SetupError, match="cannot be read"):
        toolbox.find_tools(tools_file)
