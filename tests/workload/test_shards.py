"""Several drivers' runs as one."""

from __future__ import annotations

import pytest

from lab.errors import WorkloadError
from lab.schema import CLIENT_RECORD
from lab.workload import Lag, Plan, Poisson, Run, join_shards, make_plan
from lab.workload.outcome import records_frame


def _run(plan: Plan, window: tuple[float, float] = (0.0, 1.0), lag: float = 0.0) -> Run:
    empty = {
        c.name: {"string": "", "json": [], "int64": 0, "float64": 0.0}[c.dtype]
        for c in CLIENT_RECORD
    }
    rows = [
        empty | {"scenario_id": r.scenario_id, "sent_at": r.offset_s or 0.0} for r in plan.requests
    ]
    return Run("r", window, records_frame(rows), plan, Lag(loop_p99_s=lag))


def test_the_shards_of_a_plan_are_its_run() -> None:
    """Every row once and in the order of sending, the window around all, the worst of the lags."""
    plan = make_plan(requests=9, arrivals=Poisson(1.0), seed=2)
    whole = join_shards(
        plan, [_run(plan.shard(0, 2), (5.0, 8.0), 0.5), _run(plan.shard(1, 2), (4.0, 9.0))], "r"
    )
    assert whole.window == (4.0, 9.0) and whole.lag.lagged and whole.not_sent == 0
    assert whole.records.sent_at.is_monotonic_increasing
    assert sorted(whole.records.scenario_id) == sorted(r.scenario_id for r in plan.requests)


def test_shards_of_another_plan_are_refused() -> None:
    """None at all, those of another plan, the same one twice."""
    plan, other = (make_plan(requests=4, arrivals=Poisson(1.0), seed=s) for s in (1, 2))
    for shards in ([], [_run(other)], [_run(plan), _run(plan)]):
        with pytest.raises(WorkloadError, match="not of the plan"):
            join_shards(plan, shards, "r")
