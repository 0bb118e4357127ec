"""What an exported model says: transformers, greedily, no server. For tests and a quick look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab.errors import ModelError


def ask(folder: Path, conversations: list[dict[str, Any]], max_tokens: int = 96) -> list[str]:
    """The assistant's next text, with the markup of a tool call, for each {messages, tools} in OpenAI's format.

    Raises ModelError if the folder holds no model that loads.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError) as e:
        raise ModelError(
            f"{folder} is no model that loads",
            got=str(e).splitlines()[0],
            fix="train and export one, or restore it",
        ) from e
    said = []
    for conversation in conversations:
        text = tokenizer.apply_chat_template(
            conversation["messages"],
            tools=conversation["tools"],
            tokenize=False,
            add_generation_prompt=True,
        )
        prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**prompt, max_new_tokens=max_tokens, do_sample=False)
        said.append(
            tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        )
    return said
