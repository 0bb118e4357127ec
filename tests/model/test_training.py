"""Training works from nothing: the loss falls, it goes on where it stopped, and what it exports
loads and speaks.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

pytestmark = [pytest.mark.model, pytest.mark.slow]

SHAPE = ("hidden=64", "intermediate=128", "layers=2", "heads=4", "kv_heads=2", "conversations=16")
TINY = [word for number in SHAPE for word in ("--set", number)]


@pytest.fixture(scope="module")
def folder(train_lab_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny training in two processes, stopped after 15 steps and gone on with to 40."""
    out = tmp_path_factory.mktemp("training")
    how = ["--set", "warm_up_steps=4", "--save-every", 5, "--processes", 2, "--no-compile"]
    for steps in (15, 40):
        done = train_lab_model("train", "--folder", out, "--set", f"steps={steps}", *how, *TINY)
        assert done.returncode == 0, done.stderr
    return out


def test_loss_falls_and_training_goes_on(folder: Path) -> None:
    """Every step once, in order, over the stop; the last losses are well below the first."""
    log = [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == list(range(1, 41))
    losses = [entry["loss"] for entry in log]
    assert mean(losses[-5:]) < 0.7 * mean(losses[:5])


def test_what_it_exports_loads_and_speaks(
    folder: Path, train_lab_model: Any, tmp_path: Path
) -> None:
    """The folder has all that a server needs, below 12 MB, and generates text from it."""
    to = tmp_path / "model"
    done = train_lab_model("export", "--folder", folder, "--to", to)
    assert done.returncode == 0, done.stderr
    names = {p.name for p in to.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert names >= {"chat_template.jinja", "generation_config.json"}
    assert sum(p.stat().st_size for p in to.iterdir()) < 12e6
    done = train_lab_model("ask", "--model", to, "hello")
    assert done.returncode == 0, done.stderr


SAME = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from scripts.train_lab_model.forward import losses
torch.manual_seed(1)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=True,
    rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}))
ids = torch.randint(0, 97, (3, 40))
logits = model(ids).logits[:, :-1]
targets = ids[:, 1:].flatten()
wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, reduction="none")
torch.testing.assert_close(losses(model, ids).flatten(), wanted, atol=1e-4, rtol=1e-4)
"""


def test_training_computes_what_transformers_would(with_torch: Any) -> None:
    """The training's own forward pass and that of the exported model give the same losses."""
    done = with_torch("-c", SAME)
    assert done.returncode == 0, done.stderr


def test_another_recipe_is_not_gone_on_with(folder: Path, train_lab_model: Any) -> None:
    """Another shape than the checkpoint's is refused in words, and the checkpoint stays."""
    before = (folder / "last.pt").read_bytes()
    done = train_lab_model("train", "--folder", folder, "--set", "steps=50", *TINY[2:])
    assert done.returncode == 1
    assert "another recipe" in done.stderr and "Fix:" in done.stderr
    assert (folder / "last.pt").read_bytes() == before


def test_no_model_is_said(train_lab_model: Any, tmp_path: Path) -> None:
    """An empty folder is named as what it is."""
    done = train_lab_model("ask", "--model", tmp_path, "hello")
    assert done.returncode == 1 and "not a model that loads" in done.stderr
