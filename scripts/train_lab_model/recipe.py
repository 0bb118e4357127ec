"""The recipe of a training run: seed, length, curriculum, shape of the model.

The command line imports this module, so it does not import torch.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lab.errors import ModelError
from lab.world.scenarios import KINDS

# A kind of conversation that no scenario has: several look-ups at once, to learn them sooner.
DRILL = "several"
CURRICULUM = Path(__file__).with_name("curriculum.toml")
STEPS_DRAWN_TOGETHER = 8


@dataclass(frozen=True)
class Stage:
    """A part of the training, from `first_step` until the next stage begins."""

    first_step: int
    weights: dict[str, int]
    learning_rate_factor: float = 1.0


def load_curriculum(path: Path = CURRICULUM) -> tuple[Stage, ...]:
    """Read the stages of a TOML file. Raises ModelError for a file that is not a curriculum."""
    try:
        stages = tuple(Stage(**stage) for stage in tomllib.loads(path.read_text())["stage"])
        _check(stages)
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as e:
        raise ModelError(
            f"{path} is not a curriculum",
            got=f"{type(e).__name__}: {e}",
            fix=f"see the comments in {CURRICULUM.name}",
        ) from e
    return stages


def _check(stages: tuple[Stage, ...]) -> None:
    steps = [stage.first_step for stage in stages]
    if not steps or steps[0] != 0 or steps != sorted(set(steps)):
        raise ValueError(f"the first steps {steps} do not ascend from 0")
    if any(step % STEPS_DRAWN_TOGETHER for step in steps):
        raise ValueError(f"the first steps {steps} are not multiples of {STEPS_DRAWN_TOGETHER}")
    for stage in stages:
        unknown = stage.weights.keys() - {*KINDS, DRILL}
        if unknown or sum(stage.weights.values()) <= 0:
            raise ValueError(f"the weights {stage.weights} are not of {', '.join(KINDS)}, {DRILL}")


@dataclass(frozen=True)
class Recipe:
    """The parameters of a training; on the same machine, the same recipe gives the same model.

    - `conversations` is the number of conversations per step. They are drawn in `shares`, which is
      also the maximum number of processes.
    - `prompt_weight` is the weight of the loss on all other tokens relative to the assistant's.
    - `decay_share` is the share of the steps, at the end, in which the learning rate falls.
    """

    seed: int = 20261125
    steps: int = 6700
    conversations: int = 32
    shares: int = 2
    learning_rate: float = 5e-3
    prompt_weight: float = 0.1
    warm_up_steps: int = 60
    decay_share: float = 0.35
    hidden: int = 256
    intermediate: int = 704
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    curriculum: tuple[Stage, ...] = load_curriculum()

    def stage(self, step: int) -> Stage:
        """Return the stage that a step belongs to."""
        return [stage for stage in self.curriculum if stage.first_step <= step][-1]

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step: warm-up, constant, decay to zero."""
        left = (self.steps - step) / (self.steps * self.decay_share)
        shape = min(1.0, (step + 1) / self.warm_up_steps, max(0.0, left))
        return self.learning_rate * self.stage(step).learning_rate_factor * shape

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as a dict for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Return the recipe of a checkpoint; those without a curriculum used the default one."""
        stages = values.get("curriculum")
        if stages is None:
            return cls(**values)
        return cls(**values | {"curriculum": tuple(Stage(**stage) for stage in stages)})


def recipe_numbers(pairs: list[str]) -> dict[str, float]:
    """Return {name: number} of texts such as `steps=100`. Raises ModelError for another text."""
    kinds = {f.name: type(f.default) for f in fields(Recipe) if f.name != "curriculum"}
    try:
        named = [pair.split("=") for pair in pairs]
        return {name: kinds[name](value) for name, value in named}
    except (KeyError, ValueError) as e:
        fix = f"write NAME=NUMBER, with one of {', '.join(kinds)}"
        raise ModelError("this is not a number of the recipe", got=str(e), fix=fix) from e
