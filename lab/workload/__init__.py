"""Plans of requests with ground truth, and a driver that sends them and records what happened.

plan = make_plan(requests=100, arrivals=Poisson(2.0), seed=7, settings=settings)
run = run_plan(plan, settings, out_dir="out")
run.records                     # lab.schema.CLIENT_RECORD
"""

from lab.workload.command import main
from lab.workload.driver import run_plan
from lab.workload.plan import (
    Burst,
    Constant,
    Plan,
    PlannedRequest,
    Poisson,
    Ramp,
    Users,
    make_plan,
    plan_of,
    with_model,
)
from lab.workload.run import Lag, Run, join_shards
from lab.world.scenarios import make_scenarios

__all__ = [
    "Burst",
    "Constant",
    "Lag",
    "Plan",
    "PlannedRequest",
    "Poisson",
    "Ramp",
    "Run",
    "Users",
    "join_shards",
    "main",
    "make_plan",
    "make_scenarios",
    "plan_of",
    "run_plan",
    "with_model",
]
