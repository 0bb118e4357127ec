"""The verbs of `lab`, with their help.

Each imports what it needs when it is called, so that `lab --help` is quick.
"""

import importlib
import os
import sys
from typing import Annotated, Literal

import typer

from lab.command_line import STYLE, Json

app = typer.Typer(
    name="lab",
    help="An observability lab for large language models, live on this machine.",
    no_args_is_help=True,
    **STYLE,
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

# verb -> (module, help). Each module has `main(argv) -> exit status`, with options of its own.
DELEGATED = {
    "run": (
        "lab.runner.session",
        "Execute the notebooks in order on the real stack; results, report and logs go to out/.",
    ),
    "report": ("lab.runner.report", "Write the HTML report of an earlier run again."),
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
    "compare": (
        "lab.cli.compare",
        "Compare two runs, windows or recordings, or one with a baseline; for CI too.",
    ),
    "fleet": (
        "lab.cli.fleet",
        "Show model servers side by side, from the metrics of any Prometheus; starts nothing.",
    ),
    "investigate": (
        "lab.cli.investigate",
        "Report what changed in a window, since when, where, and the likely causes.",
    ),
    "incident": (
        "lab.cli.incident",
        "Bring about a real incident in the running lab, undo it, and reveal what it was.",
    ),
    "alerts": (
        "lab.cli.alerts",
        "Show the alerts that fire or are pending, and what to do. Exit status 3 if one fires.",
    ),
    "doctor": (
        "lab.cli.doctor",
        "Check whether telemetry is true: a store, a page, traces, dashboards, rules, manifests; "
        "--here: this machine.",
    ),
    "tracestore": ("lab.cli.tracestore", "Run the embedded trace store alone."),
    "bench": ("benchmarks", "Run every benchmark and print one table."),
}

Place = Annotated[
    Literal["local", "cluster", "recorded"],
    typer.Option(
        help="local: this machine; cluster: the Kubernetes cluster of --context; recorded: stores "
        "that hold a recording (LAB_RECORDING, a folder of data/recorded)."
    ),
]
Context = Annotated[
    str, typer.Option(help="The Kubernetes context, for --place cluster. There is no default.")
]


@app.command()
def up(
    wait: Annotated[
        Literal["agent", "all"],
        typer.Option(
            help="agent: until an agent request can be answered; all: documents are searchable too."
        ),
    ] = "agent",
    place: Place = "local",
    context: Context = "",
    overlay: Annotated[
        str, typer.Option(help="A folder of lab/k8s/overlays, for --place cluster.")
    ] = "",
    also: Annotated[
        list[str] | None,
        typer.Option("--with", help="Start this on demand too: vllm-canary, grafana."),
    ] = None,
) -> None:
    """Stand the stack up, or start again what died or hangs.

    Reports what it waits for, and which log to read if a part fails.
    """
    from lab.cli import show

    if place == "cluster":
        return show.stand_up_cluster(context, overlay)
    _choose_place(place)
    show.stand_up(wait, also or [])


@app.command()
def down(
    place: Annotated[
        Literal["local", "cluster", "recorded"] | None,
        typer.Option(help="Only this place. Without it: all that runs on this machine."),
    ] = None,
    context: Context = "",
    only: Annotated[
        list[str] | None, typer.Option(help="Stop only this part, which was started with --with.")
    ] = None,
) -> None:
    """Take the stack down. No process stays, whatever happened to the supervisor.

    With --place cluster, it removes what is ours from the cluster, and nothing else.
    """
    from lab.cli import show

    if place == "cluster":
        return show.take_down_cluster(context)
    _choose_place(place)
    show.take_down(only or [], every_place=place is None)


@app.command()
def status(as_json: Json = False, place: Place = "local", context: Context = "") -> None:
    """Show every part: state, pid, port, memory, since when, log.

    Exit status 1 if a needed part is not ready, or if one hangs.
    """
    from lab.cli import show

    if place == "cluster":
        sys.exit(show.show_cluster(context))
    _choose_place(place)
    sys.exit(show.show_status(as_json))


@app.command()
def view(
    port: Annotated[int, typer.Option(help="Port on loopback, if it is not running yet.")] = 19001,
) -> None:
    """Print the address of the live view; where none runs, serve one until Ctrl-C.

    The lab on this machine has one. This serves the lab on a cluster, and your own Prometheus and
    Tempo (LAB_PROMETHEUS_URL, LAB_TEMPO_URL), unless they need a login.
    """
    from lab.liveview.__main__ import serve
    from lab.settings import load_settings

    if url := load_settings().view_url:
        return print(url)
    print(f"http://127.0.0.1:{port}/ (Ctrl-C ends it)", flush=True)
    serve(port)


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
    as_json: Json = False,
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, help="Begin with this many of the newest; 0: all.")
    ] = 0,
) -> None:
    """Show log lines of a part, of all, or of one trace."""
    from lab.cli import show

    show.show_logs(part, trace, follow, as_json, last)


@app.command()
def exercises() -> None:
    """Show which exercises of the notebooks are solved, as the state folder remembers them."""
    from lab.exercises import EXERCISES, score

    solved = score()
    for number in sorted({name[:2] for name in EXERCISES}):
        names = [name for name in EXERCISES if name.startswith(number)]
        done = sum(name in solved for name in names)
        shown = ", ".join(f"[{'x' if name in solved else ' '}] {name[3:]}" for name in names)
        print(f"{number}  {done} of {len(names)}  {shown}")


reset = typer.Typer(help="Begin again with a clean copy of the notebooks.", **STYLE)
app.add_typer(reset, name="reset")


@reset.command()
def notebooks(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names or numbers (01). Default: all.")
    ] = None,
    score: Annotated[bool, typer.Option("--score", help="Forget solved exercises too.")] = False,
) -> None:
    """Replace your copies in work/ by clean ones. The old ones are kept in work/before-<time>/."""
    from lab.exercises import forget_score
    from lab.runner import jupyter

    aside = jupyter.reset(names or [])
    print(f"clean notebooks are in {jupyter.WORK}")
    if aside:
        print(f"your earlier ones are kept in {aside}")
    if score:
        forget_score()


def _choose_place(place: str | None) -> None:
    """Set the place for all settings that this process loads."""
    if place == "recorded":
        os.environ["LAB_PLACE"] = place


def _delegate(verb: str, module: str, help_line: str) -> None:
    @app.command(verb, help=help_line, context_settings=PASS_ON)
    def command(ctx: typer.Context) -> None:
        sys.exit(importlib.import_module(module).main(ctx.args) or 0)


for _verb, (_module, _help) in DELEGATED.items():
    _delegate(_verb, _module, _help)
