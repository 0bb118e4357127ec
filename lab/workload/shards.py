"""One run out of the runs of its shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import pandas as pd

from lab.errors import WorkloadError
from lab.workload.plan import Plan
from lab.workload.run import Lag, Run


def join_shards(plan: Plan, shards: Sequence[Run], run_id: str) -> Run:
    """The run of the whole plan: every record, the window around all, the worst driver's lag.

    `shards[i]` drove `plan.shard(i, len(shards))`. Raises WorkloadError where the records are not those of the plan.
    """
    records = (
        pd.concat([s.records for s in shards], ignore_index=True) if shards else pd.DataFrame()
    )
    strangers = set(records.get("scenario_id", ())) - {r.scenario_id for r in plan.requests}
    if not shards or strangers or len(records) > len(plan):
        raise WorkloadError(
            f"these shards are not of the plan that {run_id} drove",
            got=f"{len(shards)} shards, {len(records)} records, {len(plan)} requests in the plan, "
            f"{len(strangers)} scenarios that it has not",
            fix="give the plan that was handed to the load, and all of its shards in order",
        )
    return Run(
        run_id=run_id,
        window=(min(s.window[0] for s in shards), max(s.window[1] for s in shards)),
        records=records.sort_values("sent_at", kind="stable", ignore_index=True),
        plan=plan,
        lag=Lag(**{f.name: max(getattr(s.lag, f.name) for s in shards) for f in fields(Lag)}),
        interrupted=any(s.interrupted for s in shards),
        spans_made=sum(s.spans_made for s in shards),
        spans_lost=sum(s.spans_lost for s in shards),
    )
