"""An incomplete model folder is refused with an explanation before vLLM starts."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from lab.errors import ModelError
from lab.settings import REPO
from lab.stack.model_folder import check_model_folder, joins_text_parts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create the smallest complete model folder."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (tmp_path / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return tmp_path


def test_a_complete_folder_passes(folder):
    """The configuration is returned, as the maximum context length is read from it."""
    assert check_model_folder(folder, fix="x")["architectures"] == ["LlamaForCausalLM"]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json is not a JSON object"),
        (lambda f: (f / "config.json").write_text("{}"), "names no architecture"),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("no"), "tokenizer.json cannot be read"),
        (lambda f: (f / "model.safetensors").unlink(), "has no weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "is not a safetensors file"),
        (
            lambda f: (f / "model.safetensors").write_text("version https://git-lfs"),
            "is not a safetensors file",
        ),
        (lambda f: _truncate(f / "model.safetensors"), "is incomplete"),
        (
            lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"}}}}"),
            "header of .* is corrupt",
        ),
    ],
)
def test_each_fault_is_reported(folder, spoil, message):
    """The error names what is missing or corrupt, and the fix."""
    spoil(folder)
    with pytest.raises(ModelError, match=message) as e:
        check_model_folder(folder, fix="train it again")
    assert "train it again" in str(e.value)


def test_a_template_that_joins_text_parts_is_recognised(folder):
    """The lab model's template is one."""
    assert not joins_text_parts(folder)
    template = REPO / "scripts" / "train_lab_model" / "chat_template.jinja"
    (folder / "chat_template.jinja").write_text(template.read_text())
    assert joins_text_parts(folder)


def test_a_missing_folder_is_reported(tmp_path):
    """The path is in the error."""
    with pytest.raises(ModelError, match="nowhere does not exist"):
        check_model_folder(tmp_path / "nowhere", fix="x")
