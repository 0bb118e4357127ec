"""The verbs of `lab`, with their help. What they do is elsewhere."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import typer

app = typer.Typer(
    name="lab",
    help="An observability lab for large language models, live on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

# verb -> (module, its one line of help). Each module has `main(argv) -> int | None` and its own --help.
DELEGATED = {
    "run": (
        "lab.runner",
        "Execute the notebooks in order on the real stack; results, report and logs go to out/.",
    ),
    "report": ("lab.runner.report", "Make the HTML report of an earlier run again."),
    "load": (
        "lab.workload.command",
        "Drive a workload through the stack and record every request.",
    ),
    "record": (
        "lab.cli.record",
        "Save a window of Prometheus and traces, and the runs in it, to data/recorded/NAME.",
    ),
    "attach": (
        "lab.cli.attach",
        "Check your own Prometheus and Tempo for the analysis, and remember their addresses.",
    ),
    "tracestore": ("lab.tracestore.__main__", "Run the embedded trace store alone."),
    "bench": ("benchmarks", "Run every benchmark and print one table."),
}


PLACE_HELP = (
    "'local': this machine; 'cluster': the Kubernetes cluster of --context; 'recorded': stores that hold a recording "
    "(LAB_RECORDING, a folder of data/recorded)."
)
Place = Annotated[str, typer.Option(help=PLACE_HELP)]
Context = Annotated[
    str, typer.Option(help="The Kubernetes context, for --place cluster. None is taken by itself.")
]
Overlay = Annotated[str, typer.Option(help="A folder of lab/k8s/overlays, for --place cluster.")]


@app.command()
def up(
    wait: Annotated[
        str,
        typer.Option(
            help="'agent': until an agent request can be answered; 'all': documents can be searched too."
        ),
    ] = "agent",
    place: Place = "local",
    context: Context = "",
    overlay: Overlay = "",
    also: Annotated[
        list[str], typer.Option("--with", help="A part on demand to start too: 'vllm-canary'.")
    ] = [],  # noqa: B006
) -> None:
    """Stand the stack up, or start again what died. Says what it waits for, and which log to read if a part fails."""
    if _on_cluster(place):
        from lab.cli import cluster

        return cluster.up(context, overlay)
    from lab.cli.stack import up as run

    run(_choice(wait, ("agent", "all"), "--wait"), also)


@app.command()
def down(
    place: Place = "local",
    context: Context = "",
    only: Annotated[
        list[str], typer.Option(help="Stop only this part, which was started with --with.")
    ] = [],  # noqa: B006
) -> None:
    """Take the stack down. No process stays, whatever happened to the supervisor; on a cluster, nothing of ours."""
    if _on_cluster(place):
        from lab.cli import cluster

        return cluster.down(context)
    from lab.cli.stack import down as run

    run(only)


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    place: Place = "local",
    context: Context = "",
) -> None:
    """Show every part: state, pid, port, memory, since when, log. Exit status 1 if one that is needed is not ready."""
    if _on_cluster(place):
        from lab.cli import cluster

        sys.exit(cluster.status(context))
    from lab.cli.stack import status as run

    sys.exit(run(as_json))


@app.command()
def logs(
    part: Annotated[
        str | None, typer.Argument(help="A part, as `lab status` names it. Without: all parts.")
    ] = None,
    trace: Annotated[
        str | None, typer.Option(help="Only lines of this trace id, of all parts, in time order.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as lines are written, until Ctrl-C.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    last: Annotated[
        int, typer.Option("--last", "-n", help="Only that many of the newest lines; 0: all.")
    ] = 0,
) -> None:
    """Show log lines of a part, of all, or of one trace."""
    from lab.cli.stack import logs as run

    run(part, trace, follow, as_json, last)


def _on_cluster(place: str) -> bool:
    if _choice(place, ("local", "cluster", "recorded"), "--place") == "recorded":
        os.environ["LAB_PLACE"] = place  # for the settings, wherever they are loaded
    return place == "cluster"


def _choice(value: str, allowed: tuple[str, ...], option: str) -> str:
    if value not in allowed:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(allowed)}", param_hint=option)
    return value


def _delegate(verb: str, module: str, help_line: str) -> None:
    @app.command(verb, help=help_line, context_settings=PASS_ON)
    def command(ctx: typer.Context) -> None:
        sys.exit(importlib.import_module(module).main(ctx.args) or 0)


for _verb, (_module, _help) in DELEGATED.items():
    _delegate(_verb, _module, _help)
