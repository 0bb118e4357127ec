"""Export a model as a folder that vLLM serves; ask an exported one without a server."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from lab.errors import ModelError
from scripts.train_lab_model.recipe import Recipe
from scripts.train_lab_model.train import make_model


def export(
    weights: dict[str, torch.Tensor],
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
) -> None:
    """Write the model to `folder` as bfloat16 safetensors, each file whole.

    Other files there stay.
    """
    model = make_model(recipe, tokenizer)
    model.load_state_dict(weights)
    model = model.to(torch.bfloat16)
    eos = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad, do_sample=False)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        for path in Path(draft).iterdir():
            os.replace(path, folder / path.name)


def ask(folder: Path, conversations: list[dict[str, Any]], max_tokens: int = 96) -> list[str]:
    """Return the assistant's next text, with the markup of tool calls, per {messages, tools}.

    Conversations are in OpenAI's format; decoding is greedy. Raises ModelError if the folder does
    not hold a model.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError) as e:
        raise ModelError(
            f"{folder} is not a model that loads",
            got=str(e).splitlines()[0],
            fix="train and export one, or restore it",
        ) from e
    texts = []
    for conversation in conversations:
        prompt = tokenizer.apply_chat_template(
            conversation["messages"],
            tools=conversation["tools"],
            tokenize=False,
            add_generation_prompt=True,
        )
        encoded = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**encoded, max_new_tokens=max_tokens, do_sample=False)
        new_ids = ids[0, encoded["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(new_ids, skip_special_tokens=True))
    return texts
