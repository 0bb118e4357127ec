"""Weights and tokenizer to a folder that vLLM serves: bfloat16 safetensors, config, chat template, generation."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from scripts.train_lab_model.recipe import Recipe
from scripts.train_lab_model.train import make_model


def export(
    weights: dict[str, torch.Tensor],
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
) -> None:
    """Write the model to `folder`, file by file and each whole (model card and others there stay as they are)."""
    model = make_model(recipe, tokenizer)
    model.load_state_dict(weights)
    model = model.to(torch.bfloat16)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad, do_sample=False)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        for path in Path(draft).iterdir():
            os.replace(path, folder / path.name)
