"""What a training run is: its seed, its length, the model's shape. Needs no torch: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Two runs of the same recipe on the same machine give the same model."""

    seed: int = 20261125
    steps: int = 2000
    conversations: int = 32  # a step
    learning_rate: float = 2.5e-3
    warm_up_steps: int = 60
    decay_share: float = 0.35  # of the steps, at the end, with a falling learning rate
    hidden: int = 256
    intermediate: int = 704
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
