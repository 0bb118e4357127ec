"""The training loop: a small Llama, fresh conversations at every step, checkpoints."""

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lab.errors import ModelError
from scripts.train_lab_model.corpus import draw
from scripts.train_lab_model.forward import losses
from scripts.train_lab_model.processes import average_gradients, in_turn
from scripts.train_lab_model.recipe import STEPS_DRAWN_TOGETHER, Recipe
from scripts.train_lab_model.tokenizer import Encoder

CONTEXT = 4096
TILE = 32  # lengths are multiples of it


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a Llama with fresh weights from the seed."""
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
    """Yield (ids, spoken) of each step from `first_step`, for the given shares.

    `ids` has the shape (conversations, tokens) and is padded on the right. `spoken` has the same
    shape and is true for the assistant's tokens. Eight steps are drawn together and grouped by
    length, which reduces padding.
    """
    encode = Encoder(tokenizer)
    together = STEPS_DRAWN_TOGETHER
    rows = recipe.conversations // recipe.shares
    for block in itertools.count(first_step // together):
        weights = recipe.stage(block * together).weights
        order = random.Random(f"{recipe.seed}-{block}").sample(range(together), together)
        pools = []
        for share in shares:
            rng = random.Random(f"{recipe.seed}-{block}-{share}")
            pool = [encode(draw(rng, weights=weights)) for _ in range(rows * together)]
            pools.append(sorted(pool, key=lambda c: len(c[0])))
        for i, cut in enumerate(order):
            if block * together + i >= first_step:
                batch = [row for pool in pools for row in pool[cut * rows : (cut + 1) * rows]]
                yield _padded(batch, tokenizer.pad_token_id)


def _padded(
    batch: list[tuple[list[int], list[bool]]], pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    longest = -(-max(len(ids) for ids, _ in batch) // TILE) * TILE
    ids = torch.full((len(batch), longest), pad)
    spoken = torch.zeros((len(batch), longest), dtype=torch.bool)
    for row, (tokens, mask) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        spoken[row, : len(tokens)] = torch.tensor(mask)
    return ids, spoken


@dataclass(frozen=True)
class Run:
    """Options of a training run. Unlike the recipe, they may change when a training is resumed.

    `folder` holds checkpoints and loss.jsonl. Every `keep_every` steps the weights are kept as
    step-N.pt, for a canary.
    """

    folder: Path
    save_every: int = 25
    keep_every: int = 50
    compiled: bool = True


def train(rank: int, processes: int, recipe: Recipe, run: Run) -> None:
    """Train to the recipe's last step as one of several processes; resume from a checkpoint.

    Raises ModelError if the checkpoint is of another recipe.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(run.folder / "tokenizer")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(recipe, tokenizer).to(device)
    optimizers = _optimizers(model, recipe)
    first = _resume(run.folder / "last.pt", recipe, model, optimizers)
    compute = torch.compile(losses, dynamic=True) if run.compiled else losses
    shares = tuple(range(rank, recipe.shares, processes))
    steps = zip(range(first, recipe.steps), batches(recipe, tokenizer, first, shares), strict=False)
    log = Log(run, recipe.steps, first) if rank == 0 else None

    for step, (ids, spoken) in steps:
        _set_learning_rate(optimizers, recipe.learning_rate_at(step))
        backward = partial(
            _backward, compute, model, ids.to(device), spoken.to(device), recipe.prompt_weight
        )
        # The first process compiles, the others find the result in the cache.
        compiling = step == first and run.compiled
        loss = in_turn(rank, processes, backward) if compiling else backward()
        average_gradients(model, processes)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        if log:
            log.step(step + 1, loss, model)
            if (step + 1) % run.save_every == 0 or step + 1 == recipe.steps:
                _save(run.folder / "last.pt", recipe, model, optimizers, step + 1)


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices and AdamW for all other parameters."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "embed" not in name
        (matrices if is_matrix else others).append(parameter)
    rate = recipe.learning_rate
    return [
        Muon(matrices, rate),
        torch.optim.AdamW(others, rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _set_learning_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def _backward(
    compute: Callable[..., torch.Tensor],
    model: LlamaForCausalLM,
    ids: torch.Tensor,
    spoken: torch.Tensor,
    prompt_weight: float,
) -> float:
    """Compute the gradients; return the assistant's mean loss.

    What others say counts a little: it teaches to copy.
    """
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=fast_bfloat16()):
        each = compute(model, ids)
    spoken = spoken[:, 1:]
    padding = ids[:, 1:] == model.config.pad_token_id
    prompt = ~spoken & ~padding
    own_loss = (each * spoken).sum() / spoken.sum()
    (own_loss + prompt_weight * (each * prompt).sum() / prompt.sum()).backward()
    return own_loss.item()


class Log:
    """Output of the first process: the loss of each step, kept weights and a progress bar."""

    def __init__(self, run: Run, steps: int, first: int) -> None:
        self.run = run
        self.started = time.monotonic()
        self.smooth: float | None = None
        self.bar = tqdm(initial=first, total=steps, unit="step", mininterval=10)

    def step(self, done: int, loss: float, model: LlamaForCausalLM) -> None:
        """Log one step."""
        self.smooth = loss if self.smooth is None else 0.95 * self.smooth + 0.05 * loss
        self.bar.set_postfix(loss=f"{self.smooth:.4f}", refresh=False)
        self.bar.update()
        elapsed_s = round(time.monotonic() - self.started, 1)
        entry = {"step": done, "loss": round(loss, 5), "s": elapsed_s}
        with (self.run.folder / "loss.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        if done % self.run.keep_every == 0:
            torch.save(model.state_dict(), self.run.folder / f"step-{done}.pt")


def _save(path: Path, recipe: Recipe, model: LlamaForCausalLM, optimizers: list, step: int) -> None:
    draft = path.with_suffix(".draft")
    state = {
        "recipe": recipe.as_dict(),
        "step": step,
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
    }
    torch.save(state, draft)
    draft.replace(path)


def _resume(path: Path, recipe: Recipe, model: LlamaForCausalLM, optimizers: list) -> int:
    """Load a checkpoint if there is one; return the step to continue with."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    earlier = Recipe.from_dict(state["recipe"])
    if replace(earlier, steps=recipe.steps) != recipe:  # only its length may change
        raise ModelError(
            f"{path} is of another recipe and cannot be resumed",
            got=f"{earlier}, and now {recipe}",
            fix="use that recipe, or another --folder",
        )
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]


# Coefficients of the quintic Newton-Schulz iteration, Keller Jordan,
# https://kellerjordan.github.io/posts/muon/
_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5


def fast_bfloat16() -> bool:
    """Return whether this machine multiplies bfloat16 matrices in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def orthogonalise(matrix: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return about the nearest matrix whose singular values are all 1, computed in `dtype`."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = (x / (x.norm() + 1e-7)).to(dtype)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for matrices, scaled to AdamW's usual step.

    So both can share a learning rate. Scaling 0.2 * sqrt(max(rows, columns)): Liu et al. 2025,
    'Muon is scalable for LLM training', arXiv:2502.16982. torch.optim.Muon computes in bfloat16
    only, which takes twenty times as long on a CPU that cannot multiply it (AVX2).
    """

    def __init__(
        self,
        params: list[torch.Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = torch.bfloat16 if fast_bfloat16() else torch.float32

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.mul_(group["momentum"]).add_(p.grad)
                update = orthogonalise(p.grad.add(buffer, alpha=group["momentum"]), self.dtype)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)
