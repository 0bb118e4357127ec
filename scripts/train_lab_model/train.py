"""The training loop: a small Llama, fresh conversations at every step, checkpoints to go on from."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lab.errors import ModelError
from scripts.train_lab_model.corpus import draw
from scripts.train_lab_model.forward import losses
from scripts.train_lab_model.muon import Muon, fast_bfloat16
from scripts.train_lab_model.probe import examples, probe
from scripts.train_lab_model.processes import average_gradients, one_after_the_other
from scripts.train_lab_model.recipe import Recipe
from scripts.train_lab_model.tokenizer import Encoder

CONTEXT = 4096
TILE = 32  # lengths are multiples of it
PROBES_PER_KIND = 32


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


def batches(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, first_step: int, shares: tuple[int, ...]
) -> Iterator[tuple[torch.Tensor, ...]]:
    """(ids, asked) for each step from `first_step`, each conversation seen once: the given shares of every step.

    ids: (conversations, tokens), padded on the right; asked: the same shape, true where the assistant speaks. Eight
    steps are drawn together and cut by length, so that little of a batch is padding.
    """
    encode, together, rows = Encoder(tokenizer), 8, recipe.conversations // recipe.shares
    for block in itertools.count(first_step // together):
        order = random.Random(f"{recipe.seed}-{block}").sample(range(together), together)
        pools = []
        for share in shares:
            rng = random.Random(f"{recipe.seed}-{block}-{share}")
            pools.append(
                sorted((encode(draw(rng)) for _ in range(rows * together)), key=lambda c: len(c[0]))
            )
        for i, cut in enumerate(order):
            if block * together + i >= first_step:
                batch = [row for pool in pools for row in pool[cut * rows : (cut + 1) * rows]]
                yield _padded(batch, tokenizer.pad_token_id)


def _padded(
    batch: list[tuple[list[int], list[bool]]], pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    longest = -(-max(len(ids) for ids, _ in batch) // TILE) * TILE
    ids = torch.full((len(batch), longest), pad)
    asked = torch.zeros((len(batch), longest), dtype=torch.bool)
    for row, (tokens, mask) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        asked[row, : len(tokens)] = torch.tensor(mask)
    return ids, asked


def learning_rate(recipe: Recipe, step: int) -> float:
    """Warm up, stay, decay to zero."""
    left = (recipe.steps - step) / (recipe.steps * recipe.decay_share)
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warm_up_steps, max(0.0, left))


@dataclass(frozen=True)
class Run:
    """How a training is carried out. Unlike the recipe it may change from one start to the next."""

    folder: Path  # checkpoints, loss.jsonl, probes.jsonl
    save_every: int = 25
    keep_every: int = 50  # steps whose weights are kept as step-N.pt, for a canary
    probe_every: int = 200
    compiled: bool = True


def train(rank: int, processes: int, recipe: Recipe, run: Run) -> None:
    """Train to the recipe's last step as one of several processes; goes on from what is in the folder.

    Raises ModelError if what is there is of another recipe.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(run.folder / "tokenizer")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(recipe, tokenizer).to(device)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        Muon(matrices, recipe.learning_rate),
        torch.optim.AdamW(others, recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    first = _resume(run.folder / "last.pt", recipe, model, optimizers)
    compute = torch.compile(losses, dynamic=True) if run.compiled else losses
    shares = tuple(range(rank, recipe.shares, processes))
    steps = zip(range(first, recipe.steps), batches(recipe, tokenizer, first, shares), strict=False)
    log = Log(run, recipe.steps, first, tokenizer) if rank == 0 else None
    for step, (ids, asked) in steps:
        for group in (g for o in optimizers for g in o.param_groups):
            group["lr"] = learning_rate(recipe, step)

        backward = partial(
            _backward, compute, model, ids.to(device), asked.to(device), recipe.prompt_weight
        )
        in_turn = (
            step == first and run.compiled
        )  # the first process compiles, the others find it in the cache
        loss = one_after_the_other(rank, processes, backward) if in_turn else backward()
        average_gradients(model, processes)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if log:
            log.step(step + 1, loss, model)
            if (step + 1) % run.save_every == 0 or step + 1 == recipe.steps:
                _save(run.folder / "last.pt", recipe, model, optimizers, step + 1)


def _backward(
    compute: Callable[..., torch.Tensor],
    model: LlamaForCausalLM,
    ids: torch.Tensor,
    asked: torch.Tensor,
    weight: float,
) -> float:
    """Gradients; returns the assistant's mean loss. What others say counts a little: it teaches to copy."""
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=fast_bfloat16()):
        each = compute(model, ids)
    asked, padding = asked[:, 1:], ids[:, 1:] == model.config.pad_token_id
    told = ~asked & ~padding
    said = (each * asked).sum() / asked.sum()
    (said + weight * (each * told).sum() / told.sum()).backward()
    return said.item()


class Log:
    """What the first process leaves behind: the loss of every step, kept weights, probes, a progress bar."""

    def __init__(
        self, run: Run, steps: int, first: int, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        self.run, self.started, self.smooth = run, time.monotonic(), None
        self.bar = tqdm(initial=first, total=steps, unit="step", mininterval=10)
        self.probes = examples(tokenizer, PROBES_PER_KIND)

    def step(self, done: int, loss: float, model: LlamaForCausalLM) -> None:
        self.smooth = loss if self.smooth is None else 0.95 * self.smooth + 0.05 * loss
        self.bar.set_postfix(loss=f"{self.smooth:.4f}", refresh=False)
        self.bar.update()
        self._append(
            "loss.jsonl",
            step=done,
            loss=round(loss, 5),
            s=round(time.monotonic() - self.started, 1),
        )
        if done % self.run.keep_every == 0:
            torch.save(model.state_dict(), self.run.folder / f"step-{done}.pt")
        if done % self.run.probe_every == 0 or done == self.bar.total:
            self._append("probes.jsonl", step=done, **probe(model, self.probes))

    def _append(self, name: str, **entry: Any) -> None:
        with (self.run.folder / name).open("a") as file:
            file.write(json.dumps(entry) + "\n")


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
    if (
        replace(earlier, steps=recipe.steps) != recipe
    ):  # its length alone may change: longer, or to end sooner
        raise ModelError(
            f"{path} is of another recipe, so it cannot be gone on from",
            got=f"{earlier}, and now {recipe}",
            fix="give that recipe, or another --folder",
        )
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]
