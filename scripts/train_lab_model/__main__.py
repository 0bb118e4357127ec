"""Train the lab model from scratch: `python -m scripts.train_lab_model train`.

The other commands are `probe`, `export`, `ask`, `evaluate` and `speed`. `evaluate` and `speed` need
a vLLM that serves the model, and the environment `.venvs/lab`. All others need torch and
transformers, which are in the environment `.venvs/vllm`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.errors import LabError, ModelError
from scripts.train_lab_model.recipe import CURRICULUM, NUMBERS, Recipe, load_curriculum

REPO = Path(__file__).resolve().parents[2]
TRAINING = REPO / "out" / "lab-model"
MODEL = REPO / "data" / "lab-model"


def main(argv: list[str] | None = None) -> int:
    """Run one of the commands; return the exit status."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except LabError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.train_lab_model", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> Any:
        added = commands.add_parser(name, help=text)
        added.set_defaults(run=run)
        return added.add_argument

    add = command("train", _train, "train the model; run again to resume from the last checkpoint")
    add("--folder", type=Path, default=TRAINING, help="folder for checkpoints and the loss")
    for field in NUMBERS:
        name = field.name.replace("_", "-")
        text = "parameter of the recipe (default: %(default)s)"
        add(f"--{name}", type=type(field.default), default=field.default, help=text)
    add(
        "--curriculum",
        type=Path,
        default=CURRICULUM,
        help="TOML file with the stages (default: curriculum.toml)",
    )
    add("--save-every", type=int, default=25, metavar="STEPS")
    add(
        "--keep-every",
        type=int,
        default=50,
        metavar="STEPS",
        help="keep weights at these intervals, for a canary",
    )
    add(
        "--probe-every",
        type=int,
        default=200,
        metavar="STEPS",
        help="run a probe at these intervals",
    )
    add("--processes", type=int, help="single-threaded processes (default: one per core and share)")
    add(
        "--no-compile",
        action="store_true",
        help="do not compile: starts at once, but steps take twice as long",
    )

    add = command("probe", _probe, "measure a kept checkpoint without a server, to choose a canary")
    add("--folder", type=Path, default=TRAINING, help="folder of the training")
    add("--step", type=int, help="use this kept step instead of the last one")
    add("--per-kind", type=int, default=64, metavar="CONVERSATIONS")

    add = command("export", _export, "write a checkpoint as a folder that vLLM serves")
    add("--folder", type=Path, default=TRAINING, help="folder of the training")
    add("--step", type=int, help="use this kept step instead of the last one")
    add("--to", type=Path, default=MODEL)

    add = command("ask", _ask, "print the answer of an exported model (greedy decoding, no server)")
    add("--model", type=Path, default=MODEL, help="an exported folder")
    add("--max-tokens", type=int, default=96)
    add("text", nargs="?", help="a question; without one, JSON on stdin: [{messages, tools}]")

    add = command("evaluate", _evaluate, "evaluate the model that a running vLLM serves")
    _server(add)
    add("--per-kind", type=int, default=400, metavar="CASES")
    add("--seed", type=int, default=1)
    add("--json", type=Path, help="also write the counts to this file")

    add = command("speed", _speed, "time a running vLLM that has no other load")
    _server(add)
    add("--streams", type=int, default=32)
    return parser


def _server(add: Any) -> None:
    add("--base-url", required=True, help="base URL of vLLM, such as http://127.0.0.1:8000")
    add("--model", default="lab-model", help="name that the model is served under")
    add("--card", type=Path, help="model card to write the table to, between its markers")


def _train(args: argparse.Namespace) -> None:
    import torch

    from scripts.train_lab_model.processes import run
    from scripts.train_lab_model.tokenizer import load_or_train
    from scripts.train_lab_model.train import Run, train

    numbers = {field.name: getattr(args, field.name) for field in NUMBERS}
    recipe = Recipe(**numbers, curriculum=load_curriculum(args.curriculum))
    load_or_train(args.folder / "tokenizer", recipe.seed)
    how = Run(
        args.folder,
        args.save_every,
        args.keep_every,
        args.probe_every,
        compiled=not args.no_compile,
    )
    most = 1 if torch.cuda.is_available() else min(recipe.shares, os.cpu_count() or 1)
    run(args.processes or most, train, recipe, how)


def _probe(args: argparse.Namespace) -> None:
    from scripts.train_lab_model.probe import examples, probe
    from scripts.train_lab_model.train import make_model

    weights, recipe, tokenizer = _trained(args.folder, args.step)
    model = make_model(recipe, tokenizer)
    model.load_state_dict(weights)
    for kind, shares in probe(model, examples(tokenizer, args.per_kind)).items():
        columns = [f"{measure} {100 * share:5.1f} %" for measure, share in shares.items()]
        print(f"{kind:13}", *columns, sep="  ")


def _export(args: argparse.Namespace) -> None:
    from scripts.train_lab_model.export import export

    export(*_trained(args.folder, args.step), args.to)


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


def _ask(args: argparse.Namespace) -> None:
    from lab.world import TOOLS
    from scripts.train_lab_model.export import ask

    if not args.text:
        print(json.dumps(ask(args.model, json.load(sys.stdin), args.max_tokens)))
        return
    messages = [{"role": "user", "content": args.text}]
    question = {"messages": messages, "tools": [tool.openai() for tool in TOOLS]}
    print(ask(args.model, [question], args.max_tokens)[0])


def _evaluate(args: argparse.Namespace) -> None:
    from scripts.train_lab_model.evaluate import evaluate, put_table, table

    rows = asyncio.run(evaluate(args.base_url.rstrip("/"), args.model, args.per_kind, args.seed))
    print(table(rows))
    if args.card:
        put_table(args.card, table(rows), "evaluation")
    if args.json:
        counts = [
            {k: v if isinstance(v, (str, int)) else v.hits for k, v in row.items()} for row in rows
        ]
        args.json.write_text(json.dumps(counts, indent=1) + "\n")


def _speed(args: argparse.Namespace) -> None:
    from scripts.train_lab_model.evaluate import put_table
    from scripts.train_lab_model.speed import measure_speed

    speed = asyncio.run(measure_speed(args.base_url.rstrip("/"), args.model, args.streams))
    print(speed)
    if args.card:
        put_table(args.card, str(speed), "speed")


if __name__ == "__main__":
    sys.exit(main())
