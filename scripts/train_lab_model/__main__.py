"""Train the lab model from scratch: `python -m scripts.train_lab_model train`.

The other commands are `export`, `ask` and `evaluate`. `evaluate` needs a vLLM that serves the
model, and the environment `.venvs/lab`. All others need torch and transformers, which are in the
environment `.venvs/vllm`.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.errors import LabError, ModelError
from lab.files import write_atomically
from scripts.train_lab_model.recipe import CURRICULUM, Recipe, load_curriculum, recipe_numbers

REPO = Path(__file__).resolve().parents[2]
TRAINING = REPO / "out" / "lab-model"
MODEL = REPO / "data" / "lab-model"

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)
Folder = Annotated[Path, typer.Option(help="Folder of checkpoints and the loss.")]
Step = Annotated[int | None, typer.Option(help="Use this kept step instead of the last one.")]


@app.command()
def train(
    folder: Folder = TRAINING,
    number: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=NUMBER", help="Set a number of the recipe; repeatable."
        ),
    ] = None,
    curriculum: Annotated[Path, typer.Option(help="TOML file with the stages.")] = CURRICULUM,
    save_every: Annotated[int, typer.Option(metavar="STEPS")] = 25,
    keep_every: Annotated[
        int, typer.Option(metavar="STEPS", help="Keep weights at these intervals, for a canary.")
    ] = 50,
    processes: Annotated[
        int | None, typer.Option(help="Of one thread each. Default: one per core and share.")
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile",
            help="Without, it starts at once, and steps take twice as long.",
        ),
    ] = True,
) -> None:
    """Train the model; run again to resume from the last checkpoint."""
    import torch

    from scripts.train_lab_model.processes import run
    from scripts.train_lab_model.tokenizer import load_or_train
    from scripts.train_lab_model.train import Run
    from scripts.train_lab_model.train import train as train_model

    recipe = Recipe(**recipe_numbers(number or []), curriculum=load_curriculum(curriculum))
    load_or_train(folder / "tokenizer", recipe.seed)
    most = 1 if torch.cuda.is_available() else min(recipe.shares, os.cpu_count() or 1)
    run(processes or most, train_model, recipe, Run(folder, save_every, keep_every, compiled))


@app.command()
def export(folder: Folder = TRAINING, step: Step = None, to: Path = MODEL) -> None:
    """Write a checkpoint as a folder that vLLM serves."""
    from scripts.train_lab_model.export import export as export_model

    export_model(*_trained(folder, step), to)


@app.command()
def ask(
    text: Annotated[
        str, typer.Argument(help="A question; without one, JSON on stdin: [{messages, tools}].")
    ] = "",
    model: Annotated[Path, typer.Option(help="An exported folder.")] = MODEL,
    max_tokens: int = 96,
) -> None:
    """Print the answer of an exported model (greedy decoding, no server)."""
    from lab.world import TOOLS
    from scripts.train_lab_model.export import ask as ask_model

    if not text:
        print(json.dumps(ask_model(model, json.load(sys.stdin), max_tokens)))
        return
    messages = [{"role": "user", "content": text}]
    question = {"messages": messages, "tools": [tool.openai() for tool in TOOLS]}
    print(ask_model(model, [question], max_tokens)[0])


@app.command()
def evaluate(
    base_url: Annotated[str, typer.Option(help="Of vLLM, such as http://127.0.0.1:8000.")],
    model: Annotated[str, typer.Option(help="The name that it is served under.")] = "lab-model",
    per_kind: Annotated[int, typer.Option(metavar="CASES")] = 400,
    seed: int = 1,
    card: Annotated[
        Path | None,
        typer.Option(exists=True, help="Model card to write the table to, between its markers."),
    ] = None,
) -> None:
    """Evaluate the model that a running vLLM serves."""
    from scripts.markers import replace_between
    from scripts.train_lab_model.evaluate import evaluate as judge_model
    from scripts.train_lab_model.evaluate import table

    rows = table(asyncio.run(judge_model(base_url.rstrip("/"), model, per_kind, seed)))
    print(rows)
    if card:
        text = card.read_text(encoding="utf-8")
        text = replace_between(text, "<!-- evaluation -->", "<!-- end of evaluation -->", rows)
        write_atomically(card, text)


def _trained(folder: Path, step: int | None) -> tuple[dict[str, Any], Recipe, Any]:
    """Return (weights, recipe, tokenizer) of a kept step, or of the last one."""
    import torch
    from transformers import PreTrainedTokenizerFast

    last = folder / "last.pt"
    kept = folder / f"step-{step}.pt"
    for path in (last, kept) if step else (last,):
        if not path.exists():
            raise ModelError(
                f"the checkpoint {path} does not exist",
                got=", ".join(sorted(p.name for p in folder.glob("*.pt"))) or "nothing",
                fix="train first, or choose a step that was kept",
            )
    state = torch.load(last, weights_only=True)
    weights = torch.load(kept, weights_only=True) if step else state["model"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    return weights, Recipe.from_dict(state["recipe"]), tokenizer


if __name__ == "__main__":
    try:
        app()
    except LabError as e:
        sys.exit(str(e))
