"""`lab load`: make or read a plan, drive it, save the run.

The pods of a cluster's load job run it too.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.errors import LabError, WorkloadError
from lab.settings import load_settings
from lab.workload.arrivals import KINDS, Arrivals
from lab.workload.plan import Plan
from lab.workload.planning import make_plan
from lab.workload.running import run_plan

ARRIVALS_HELP = (
    "use one of constant:RATE, poisson:RATE, burst:RATE,ON_S,OFF_S, ramp:FROM,TO,OVER_S "
    "(requests per second), or users:COUNT,THINK_S (closed loop)"
)


def main(argv: list[str]) -> int:
    """Run the command.

    Return 0 if every request was answered, 1 if not, 2 if none could be sent.
    """
    args = _arguments(argv)
    try:
        plan = _plan(args)
        if args.save_plan:
            print(f"the plan is in {plan.save(args.save_plan)}")
            return 0
        with _sigterm_as_ctrl_c():  # a pod that is evicted gets a SIGTERM
            run = run_plan(
                plan,
                load_settings(),
                out_dir=args.out,
                progress=not args.quiet,
                timeout_s=args.timeout_s,
                run_id=args.run_id,
                start_at=args.start_at,
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


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lab load", description="Drive a workload and record every request."
    )
    parser.add_argument("--plan", type=Path, help="drive this saved plan instead of making one")
    parser.add_argument(
        "--requests", type=int, help="how many requests to plan (default 100, unless --duration-s)"
    )
    parser.add_argument(
        "--duration-s", type=float, help="plan all sessions that begin within this time"
    )
    parser.add_argument("--arrivals", default="poisson:1", help=ARRIVALS_HELP)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", help="only these kinds of scenarios")
    parser.add_argument("--api", choices=["responses", "chat"], default="responses")
    parser.add_argument(
        "--model", default="", help="the model to use (default: the settings' model_name)"
    )
    parser.add_argument(
        "--save-plan", type=Path, help="write the plan to this file and drive nothing"
    )
    parser.add_argument(
        "--shard",
        default="",
        help="drive part I/N of the plan; without I, it is JOB_COMPLETION_INDEX (an Indexed Job)",
    )
    parser.add_argument("--run-id", default="", help="the same for all shards of one run")
    parser.add_argument(
        "--start-at", type=float, help="seconds since the epoch; the same for all shards of one run"
    )
    parser.add_argument("--timeout-s", type=float, default=60.0, help="per request")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/runs"),
        help="folder in which the run's folder is made",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def _plan(args: argparse.Namespace) -> Plan:
    if args.plan:
        plan = Plan.load(args.plan)
    else:
        requests = args.requests or (None if args.duration_s else 100)
        plan = make_plan(
            arrivals=parse_arrivals(args.arrivals),
            requests=requests,
            duration_s=args.duration_s,
            seed=args.seed,
            kinds=args.kinds,
            api=args.api,
            model=args.model,
            settings=load_settings(),
        )
    return plan.shard(*_shard(args.shard)) if args.shard else plan


def parse_arrivals(text: str) -> Arrivals:
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
