"""`lab load`: make or read a plan, drive it, save the run.

The pods of a cluster's load job run it too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from lab.command_line import as_main, term_as_interrupt
from lab.errors import LabError, WorkloadError
from lab.settings import load_settings
from lab.workload.driver import run_plan
from lab.workload.plan import KINDS, Plan, Process, make_plan

ARRIVALS_HELP = (
    "use one of constant:RATE, poisson:RATE, burst:RATE,ON_S,OFF_S, ramp:FROM,TO,OVER_S "
    "(requests per second), or users:COUNT,THINK_S (closed loop)"
)


def load(
    plan: Annotated[
        Path | None, typer.Option(help="Drive this saved plan instead of making one.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(help="Requests to plan. Default: 100, unless --duration-s.")
    ] = None,
    duration_s: Annotated[
        float | None, typer.Option(help="Plan all sessions that begin within this time.")
    ] = None,
    arrivals: Annotated[
        str, typer.Option(help=f"When requests come: {ARRIVALS_HELP}.")
    ] = "poisson:1",
    seed: Annotated[int, typer.Option(help="Seed of the plan's draws.")] = 0,
    kinds: Annotated[
        list[str] | None, typer.Option(help="Only this kind of scenarios; repeat for more.")
    ] = None,
    api: Annotated[
        Literal["responses", "chat"], typer.Option(help="Llama Stack's agents, or vLLM alone.")
    ] = "responses",
    model: Annotated[
        str, typer.Option(help="The model to use. Default: the settings' model_name.")
    ] = "",
    save_plan: Annotated[
        Path | None, typer.Option(help="Write the plan to this file and drive nothing.")
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            help="Drive part I/N of the plan; without I: JOB_COMPLETION_INDEX (an Indexed Job)."
        ),
    ] = "",
    run_id: Annotated[str, typer.Option(help="The same for all shards of one run.")] = "",
    start_at: Annotated[
        float | None,
        typer.Option(help="Seconds since the epoch; the same for all shards of one run."),
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Time limit per request.")] = 60.0,
    out: Annotated[Path, typer.Option(help="Folder in which the run's folder is made.")] = Path(
        "out/runs"
    ),
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress bar.")] = False,
) -> int:
    """Drive a workload and record every request."""
    try:
        if plan:
            planned = Plan.load(plan)
        else:
            planned = make_plan(
                arrivals=parse_arrivals(arrivals),
                requests=requests or (None if duration_s else 100),
                duration_s=duration_s,
                seed=seed,
                kinds=kinds,
                api=api,
                model=model,
                settings=load_settings(),
            )
        if shard:
            planned = planned.shard(*_shard(shard))
        if save_plan:
            print(f"the plan is in {planned.save(save_plan)}")
            return 0
        with term_as_interrupt():  # a pod that is evicted gets a SIGTERM
            run = run_plan(
                planned,
                load_settings(),
                out_dir=out,
                progress=not quiet,
                timeout_s=timeout_s,
                run_id=run_id,
                start_at=start_at,
            )
    except LabError as e:
        print(e, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "stopped; what was measured is in the folder of the run or beside it", file=sys.stderr
        )
        return 130
    print(run)
    print(f"saved in {run.folder}")
    return 0 if not run.not_sent and (run.records.status == "ok").all() else 1


def parse_arrivals(text: str) -> Process:
    """Return the process of a text such as `poisson:2.5`. Raises WorkloadError for another one."""
    kind, _, numbers = text.partition(":")
    try:
        values = [float(x) for x in numbers.split(",")] if numbers else []
        if kind == "users" and values:
            values[0] = int(values[0])
        return KINDS[kind](*values)
    except (KeyError, ValueError, TypeError) as e:
        raise WorkloadError(
            f"{text!r} is not an arrival process", got=str(e), fix=ARRIVALS_HELP
        ) from e


def _shard(text: str) -> tuple[int, int]:
    index, _, of = text.partition("/")
    try:
        return int(index or os.environ["JOB_COMPLETION_INDEX"]), int(of)
    except (ValueError, KeyError) as e:
        raise WorkloadError(
            f"{text!r} is not a shard",
            got=f"{type(e).__name__} {e}",
            fix="use I/N, such as 0/4; or /N with JOB_COMPLETION_INDEX in the environment",
        ) from e


main = as_main(load, "lab load")
