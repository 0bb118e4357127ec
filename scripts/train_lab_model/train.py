"""The training loop: a small Llama, fresh conversations at every step, checkpoints to go on from."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lab.errors import ModelError
from scripts.train_lab_model.corpus import draw
from scripts.train_lab_model.muon import Muon
from scripts.train_lab_model.recipe import Recipe
from scripts.train_lab_model.tokenizer import Encoder

CONTEXT = 4096


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with fresh weights from the seed."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, first_step: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """(ids, labels) for each step from `first_step`, each conversation seen once. Labels are -100 where nobody learns.

    Eight steps are drawn together and cut by length, so that little of a batch is padding.
    """
    encode, together = Encoder(tokenizer), 8
    for block in itertools.count(first_step // together):
        rng = random.Random(f"{recipe.seed}-{block}")
        pool = sorted((encode(draw(rng)) for _ in range(recipe.conversations * together)), key=lambda c: len(c[0]))
        cut = [pool[i : i + recipe.conversations] for i in range(0, len(pool), recipe.conversations)]
        rng.shuffle(cut)
        for i, batch in enumerate(cut):
            if block * together + i >= first_step:
                yield _padded(batch, tokenizer.pad_token_id)


def _padded(batch: list[tuple[list[int], list[bool]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), longest), pad)
    labels = torch.full((len(batch), longest), -100)
    for row, (tokens, mask) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(tokens)] = torch.where(torch.tensor(mask), torch.tensor(tokens), -100)
    return ids, labels


def learning_rate(recipe: Recipe, step: int) -> float:
    """Warm up, stay, decay to zero."""
    left = (recipe.steps - step) / (recipe.steps * recipe.decay_share)
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warm_up_steps, max(0.0, left))


def train(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, folder: Path, every: int, keep: tuple[int, ...] = ()
) -> LlamaForCausalLM:
    """Train to the recipe's last step, saving to `folder` every so many steps; goes on from what is there.

    Steps in `keep` have their weights kept as `step-N.pt`. Prints loss and speed as it goes.
    Raises ModelError if what is there is of another recipe.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(recipe, tokenizer).to(device)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        Muon(matrices, recipe.learning_rate),
        torch.optim.AdamW(others, recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "last.pt"
    first = _resume(checkpoint, recipe, model, optimizers)
    bar = tqdm(range(first, recipe.steps), initial=first, total=recipe.steps, unit="step", mininterval=10)
    started, smooth = time.monotonic(), None
    for step, (ids, labels) in zip(bar, batches(recipe, tokenizer, first), strict=False):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step)
        loss = _loss(model, ids.to(device), labels.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        done = step + 1
        with (folder / "loss.jsonl").open("a") as log:
            log.write(
                json.dumps({"step": done, "loss": round(loss.item(), 5), "s": round(time.monotonic() - started, 1)})
                + "\n"
            )
        if done % every == 0 or done == recipe.steps:
            _save(checkpoint, recipe, model, optimizers, done)
        if done in keep:
            torch.save(model.state_dict(), folder / f"step-{done}.pt")
    return model


def _loss(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the assistant's tokens. The vocabulary's logits are computed where they are needed only."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    asked = targets != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[asked]), targets[asked])


def _save(path: Path, recipe: Recipe, model: LlamaForCausalLM, optimizers: list, step: int) -> None:
    draft = path.with_suffix(".draft")
    state = {
        "recipe": asdict(recipe),
        "step": step,
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
    }
    torch.save(state, draft)
    draft.replace(path)


def _resume(path: Path, recipe: Recipe, model: LlamaForCausalLM, optimizers: list) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    earlier = Recipe(**state["recipe"])
    if replace(earlier, steps=recipe.steps) != recipe:  # its length alone may change: longer, or to end sooner
        raise ModelError(
            f"{path} is of another recipe, so it cannot be gone on from",
            had=f"{earlier}, and now {recipe}",
            do="give that recipe, or another --folder",
        )
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]
