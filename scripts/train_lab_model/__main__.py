"""The lab model from nothing: `python -m scripts.train_lab_model train`, then `probe`, `export`, `ask`, `evaluate`.

All but `evaluate` and `speed` need torch and transformers (the environment `.venvs/vllm` has them); these two need only
a vLLM that serves the model (and the environment `.venvs/lab`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from lab.errors import LabError, ModelError
from scripts.train_lab_model.recipe import Recipe

REPO = Path(__file__).resolve().parents[2]


def main(argv: list[str] | None = None) -> int:
    """Run one of the commands. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.train_lab_model", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _training(
        commands.add_parser("train", help="train; run it again to go on where it was stopped")
    )
    _probing(
        commands.add_parser(
            "probe", help="what a kept step has learned, without a server: to choose a canary"
        )
    )
    _exporting(
        commands.add_parser("export", help="write a checkpoint as a folder that vLLM serves")
    )
    _asking(
        commands.add_parser("ask", help="what an exported model says, by transformers, greedily")
    )
    _evaluating(commands.add_parser("evaluate", help="judge the model that a running vLLM serves"))
    _timing(commands.add_parser("speed", help="time a running vLLM that nobody else uses"))
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except LabError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


def _training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, default=REPO / "out" / "lab-model", help="checkpoints and the loss"
    )
    for field in fields(Recipe):
        name, kind = field.name.replace("_", "-"), type(field.default)
        parser.add_argument(
            f"--{name}",
            type=kind,
            default=field.default,
            help="of the recipe (default: %(default)s)",
        )
    parser.add_argument("--save-every", type=int, default=25, metavar="STEPS")
    parser.add_argument(
        "--keep-every", type=int, default=50, metavar="STEPS", help="keep the weights, for a canary"
    )
    parser.add_argument(
        "--probe-every", type=int, default=200, metavar="STEPS", help="see what is learned so far"
    )
    parser.add_argument(
        "--processes",
        type=int,
        help="of one thread each (default: a CPU's cores, as many as shares)",
    )
    parser.add_argument(
        "--no-compile", action="store_true", help="start at once, with steps of twice the time"
    )
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> None:
    import torch

    from scripts.train_lab_model.processes import run
    from scripts.train_lab_model.tokenizer import load_or_train
    from scripts.train_lab_model.train import Run, train

    recipe = Recipe(**{f.name: getattr(args, f.name) for f in fields(Recipe)})
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


def _probing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, default=REPO / "out" / "lab-model", help="where it was trained"
    )
    parser.add_argument("--step", type=int, help="a kept step instead of the last one")
    parser.add_argument("--per-kind", type=int, default=64, metavar="CONVERSATIONS")
    parser.set_defaults(run=_probe)


def _probe(args: argparse.Namespace) -> None:
    from scripts.train_lab_model.probe import examples, probe
    from scripts.train_lab_model.train import make_model

    weights, recipe, tokenizer = _trained(args.folder, args.step)
    model = make_model(recipe, tokenizer)
    model.load_state_dict(weights)
    for kind, shares in probe(model, examples(tokenizer, args.per_kind)).items():
        print(
            f"{kind:13}",
            *(f"{measure} {100 * share:5.1f} %" for measure, share in shares.items()),
            sep="  ",
        )


def _exporting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, default=REPO / "out" / "lab-model", help="where it was trained"
    )
    parser.add_argument("--step", type=int, help="a kept step instead of the last one")
    parser.add_argument("--to", type=Path, default=REPO / "data" / "lab-model")
    parser.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> None:
    from scripts.train_lab_model.export import export

    export(*_trained(args.folder, args.step), args.to)


def _trained(folder: Path, step: int | None) -> tuple[dict[str, Any], Recipe, Any]:
    """(weights, recipe, tokenizer) of a kept step, or of the last one."""
    import torch
    from transformers import PreTrainedTokenizerFast

    last, kept = folder / "last.pt", folder / f"step-{step}.pt"
    for path in (last, kept) if step else (last,):
        if not path.exists():
            found = ", ".join(sorted(p.name for p in folder.glob("*.pt"))) or "nothing"
            raise ModelError(
                f"there is no checkpoint {path}",
                got=found,
                fix="train first, or name a step that was kept",
            )
    state = torch.load(last, weights_only=True)
    weights = torch.load(kept, weights_only=True) if step else state["model"]
    return (
        weights,
        Recipe(**state["recipe"]),
        PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer"),
    )


def _asking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=Path, default=REPO / "data" / "lab-model", help="an exported folder"
    )
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument(
        "text", nargs="?", help="a question; without one, JSON on stdin: [{messages, tools}]"
    )
    parser.set_defaults(run=_ask)


def _ask(args: argparse.Namespace) -> None:
    from lab.world import TOOLS
    from scripts.train_lab_model.ask import ask

    question = [
        {"messages": [{"role": "user", "content": args.text}], "tools": [t.openai() for t in TOOLS]}
    ]
    answers = ask(args.model, question if args.text else json.load(sys.stdin), args.max_tokens)
    print(answers[0] if args.text else json.dumps(answers))


def _evaluating(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base-url", required=True, help="of vLLM, such as http://127.0.0.1:8000")
    parser.add_argument("--model", default="lab-model", help="the name that it is served under")
    parser.add_argument("--per-kind", type=int, default=400, metavar="CASES")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the counts there, too")
    parser.add_argument(
        "--card", type=Path, help="put the table into this model card, between its marks"
    )
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    from scripts.train_lab_model.card import put_table
    from scripts.train_lab_model.evaluate import evaluate, table

    rows = asyncio.run(evaluate(args.base_url.rstrip("/"), args.model, args.per_kind, args.seed))
    print(table(rows))
    if args.card:
        put_table(args.card, table(rows), "evaluation")
    if args.json:
        counts = [
            {k: v if isinstance(v, (str, int)) else v.hits for k, v in row.items()} for row in rows
        ]
        args.json.write_text(json.dumps(counts, indent=1) + "\n")


def _timing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base-url", required=True, help="of vLLM, such as http://127.0.0.1:8000")
    parser.add_argument("--model", default="lab-model", help="the name that it is served under")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument(
        "--card", type=Path, help="put the table into this model card, between its marks"
    )
    parser.set_defaults(run=_time)


def _time(args: argparse.Namespace) -> None:
    from scripts.train_lab_model.card import put_table
    from scripts.train_lab_model.speed import measure_speed

    found = asyncio.run(measure_speed(args.base_url.rstrip("/"), args.model, args.streams))
    print(found)
    if args.card:
        put_table(args.card, str(found), "speed")


if __name__ == "__main__":
    sys.exit(main())
