"""A plan is the same for the same seed, survives a file, and tells when the file does not."""

from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from lab.errors import WorkloadError, WorldError
from lab.workload import (
    Burst,
    Constant,
    Plan,
    Poisson,
    Ramp,
    Users,
    make_plan,
    make_scenarios,
    plan_of,
    with_model,
)
from lab.workload.plan import Arrivals

ARRIVALS = [
    Constant(2.0),
    Poisson(2.0),
    Burst(8.0, 2.0, 5.0, 0.5),
    Ramp(0.5, 8.0, 10.0),
    Users(4, 0.5, 1.0),
]


def first(arrival: Arrivals, n: int, seed: int = 3) -> list[float]:
    return list(islice(arrival.offsets(np.random.default_rng(seed)), n))


@pytest.mark.parametrize("arrival", ARRIVALS, ids=lambda a: a.kind)
def test_the_same_seed_makes_the_same_plan(arrival: Arrivals, tmp_path: Path) -> None:
    """Twice made, and once through a file: equal. Another seed: another plan."""
    plan = make_plan(requests=40, arrivals=arrival, seed=5)
    assert len(plan) == 40 and len({r.request_id for r in plan.requests}) == 40
    assert make_plan(requests=40, arrivals=arrival, seed=5) == plan
    assert Plan.load(plan.save(tmp_path / "plan.jsonl")) == plan
    assert make_plan(requests=40, arrivals=arrival, seed=6).requests != plan.requests


@pytest.mark.parametrize("arrival", ARRIVALS[:4], ids=lambda a: a.kind)
def test_open_arrivals_ascend(arrival: Arrivals) -> None:
    """Offsets never go back, and begin at or after 0."""
    offsets = first(arrival, 500)
    assert offsets[0] >= 0 and all(a <= b for a, b in pairwise(offsets))


def test_rates() -> None:
    """Each process has the rate that it promises (bounds: five standard deviations of a Poisson
    count).
    """
    assert first(Constant(4.0), 5) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert 4000 / first(Poisson(4.0), 4000)[-1] == pytest.approx(4.0, rel=5 / 4000**0.5)
    gaps = np.diff(first(Poisson(4.0), 4000))
    assert gaps.std() == pytest.approx(
        gaps.mean(), rel=0.1
    )  # exponential: standard deviation equals mean
    burst = np.array(first(Burst(50.0, 2.0, 8.0), 2000))
    assert (burst % 10 < 2).all()
    ramp = np.array(first(Ramp(0.0, 100.0, 20.0), 1500))
    early, late = (ramp < 10).sum(), ((ramp >= 10) & (ramp < 20)).sum()
    assert early == pytest.approx(250, abs=80) and late == pytest.approx(750, abs=140)


def test_closed_loop_deals_sessions_to_users() -> None:
    """Only a user's first request has an offset; users start spread out.

    A user is always the same person.
    """
    plan = make_plan(requests=60, arrivals=Users(5, think_s=1.0, start_over_s=2.0), seed=1)
    starts = [r.offset_s for r in plan.requests if r.offset_s is not None]
    assert starts == pytest.approx([0.0, 0.4, 0.8, 1.2, 1.6])
    people = plan.frame().groupby("user").user_id.nunique()
    assert len(people) == 5 and (people == 1).all()
    assert (plan.frame().think_s > 0).sum() > 50


def test_duration_ends_the_plan() -> None:
    """All sessions that begin within the time, none after."""
    plan = make_plan(duration_s=30, arrivals=Poisson(2.0), seed=1)
    starts = [r.offset_s for r in plan.requests if r.offset_s is not None]
    assert max(starts) < 30 and len(starts) == pytest.approx(60, abs=40)


def test_a_longer_plan_begins_as_the_shorter() -> None:
    """More of the same, not something else."""
    short, long = (make_plan(requests=n, arrivals=Poisson(1.0), seed=4) for n in (30, 300))
    assert long.requests[:30] == short.requests


def test_shards_are_the_plan() -> None:
    """The parts together are the whole, share nothing, and keep sessions together."""
    for arrivals in (Poisson(1.0), Users(7)):
        plan = make_plan(requests=50, arrivals=arrivals, seed=2)
        shards = [plan.shard(i, 3) for i in range(3)]
        assert sorted(r.request_id for s in shards for r in s.requests) == sorted(
            r.request_id for r in plan.requests
        )
        assert sum(len(list(s.sessions())) for s in shards) == len(list(plan.sessions()))
        assert [s.shard_of for s in shards] == ["0/3", "1/3", "2/3"]
    with pytest.raises(WorkloadError, match="no such shard"):
        plan.shard(3, 3)


def test_damaged_plans_are_refused(tmp_path: Path) -> None:
    """A cut, changed, foreign, older or missing file is reported with a fix."""
    path = make_plan(requests=10, arrivals=Poisson(1.0), seed=1).save(tmp_path / "plan.jsonl")
    whole = path.read_bytes()
    for damaged, words in (
        (whole[:-40], "damaged"),
        (whole.replace(b'"r00003"', b'"r00099"'), "damaged"),
        (b"run,request\n1,2\n", "not a plan"),
        (b"", "not a plan"),
        (whole.replace(b'"version":1', b'"version":9', 1), "version 9"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(WorkloadError, match=words):
            Plan.load(path)
    with pytest.raises(WorkloadError, match="cannot be read"):
        Plan.load(tmp_path / "nowhere.jsonl")


def test_a_plan_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """An unwritable place is reported, and no partial file stays."""
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkloadError, match="cannot be written"):
        make_plan(requests=1, arrivals=Poisson(1.0)).save(tmp_path / "file" / "plan.jsonl")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"arrivals": Poisson(1.0)}, "one end"),
        ({"arrivals": Poisson(1.0), "requests": 5, "duration_s": 5}, "one end"),
        ({"arrivals": Users(2), "duration_s": 5}, "closed-loop"),
        ({"arrivals": Poisson(1.0), "requests": 0}, "cannot be empty"),
        ({"arrivals": Poisson(1.0), "requests": 5, "seed": -1}, "seed is negative"),
        ({"arrivals": Poisson(1.0), "duration_s": float("nan")}, "cannot be empty"),
    ],
)
def test_no_plan_from_nonsense(arguments: dict, words: str) -> None:
    """Arguments that make no plan are reported."""
    with pytest.raises(WorkloadError, match=words):
        make_plan(**arguments)


def test_arrivals_are_checked() -> None:
    """A rate below 0, an unknown process and a malformed one are reported."""
    for wrong in (
        lambda: Poisson(0),
        lambda: Constant(float("nan")),
        lambda: Burst(1, 0, 1),
        lambda: Users(0),
    ):
        with pytest.raises(WorkloadError, match="must"):
            wrong()
    saved = make_plan(requests=1, arrivals=Poisson(1.0)).to_bytes()
    for name, wrong_name in ((b'"poisson"', b'"tide"'), (b'"rate_per_s"', b'"rate"')):
        with pytest.raises(WorkloadError, match=r"not a plan(.|\n)*arrivals"):
            Plan.from_bytes(saved.replace(name, wrong_name), "it")
    with pytest.raises(WorldError, match="no kind"):
        make_plan(requests=1, arrivals=Poisson(1.0), kinds=["small_talk"])


def test_scenarios_fill_the_plan() -> None:
    """A request carries its scenario's words, tools and kind.

    A follow-up is a second turn of the same session.
    """
    plan = make_plan(requests=40, arrivals=Poisson(1.0), seed=9, kinds=["follow_up"])
    by_session = list(plan.sessions())
    assert all([r.turn_index for r in s] == [0, 1] for s in by_session)
    assert {r.kind for r in plan.requests} == {"follow_up"}
    scenario = make_scenarios(1, seed=1, kinds=["chain"])[0]
    one = plan_of([scenario], api="chat").requests[0]
    assert (one.scenario_id, one.text, one.kind) == (scenario.id, scenario.turns[0].text, "chain")
    assert one.tools == list(scenario.offered)


def test_the_same_plan_elsewhere() -> None:
    """A plan can be sent to another model, with nothing else changed."""
    plan = make_plan(requests=3, arrivals=Poisson(1.0), seed=9)
    other = with_model(plan, "canary")
    assert {(r.api, r.model) for r in other.requests} == {("responses", "canary")}
    assert [r.text for r in other.requests] == [r.text for r in plan.requests]
