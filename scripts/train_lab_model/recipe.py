"""What a training run is: its seed, its length, the model's shape. Needs no torch: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Two runs of the same recipe on the same machine give the same model."""

    seed: int = 20261125
    steps: int = 6700
    conversations: int = 32  # a step
    shares: int = 2  # that a step's conversations are drawn in, for as many processes at most
    learning_rate: float = 5e-3
    prompt_weight: float = (
        0.1  # of the loss on what others say, beside the loss on what the assistant says
    )
    warm_up_steps: int = 60
    decay_share: float = 0.35  # of the steps, at the end, with a falling learning rate
    hidden: int = 256
    intermediate: int = 704
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
