"""Exercises that ask for a query: any query with the reference's result is right.

They run against the stores of the recording `workshop`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import lab
from lab.exercises import check
from lab.observation import Observation
from lab.settings import Settings
from tests.measures.recorded import recorded_run
from tests.solutions import SOLUTIONS

pytestmark = pytest.mark.slow
CALLS = 'vllm:request_success_total{job="vllm"}'
CACHED = "vllm:prefix_cache_hits_total"
FAILED = '{ span.gen_ai.operation.name = "execute_tool" && status = error }'


@pytest.fixture(autouse=True)
def no_score(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the score of the tests out of this checkout's state folder."""
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def seen(recorded_lab: Settings) -> Observation:
    """Return the recorded run of notebook 07, in which tools failed."""
    conditions, _ = recorded_run(recorded_lab, model="lab-model-canary")
    same = {"rate_per_s": conditions.rate_per_s, "model": recorded_lab.model_name}
    return lab.observe(recorded_run(recorded_lab, **same)[1], recorded_lab)


@pytest.mark.parametrize("name", [name for name in SOLUTIONS if "ql-" in name])
def test_the_reference_solutions_are_right(name: str, seen: Observation) -> None:
    """They are written in another way than the references."""
    assert check(name, eval(SOLUTIONS[name]), seen).message == "Right."


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("02-promql-calls", f"sum(rate({CALLS}[$__range])", "cannot be read as PromQL"),
        ("02-promql-calls", f"rate({CALLS}[$__range])", "series (by "),
        ("02-promql-calls", f"{CALLS}[$__range]", "apply a function such as rate()"),
        ("02-promql-calls", "sum(rate(vllm:request_sucess_total[$__range]))", "returns nothing"),
        ("02-promql-calls", f"sum(increase({CALLS}[$__range]))", "divide by its length"),
        ("02-promql-calls", f"60 * sum(rate({CALLS}[$__range]))", "is per minute"),
        ("02-promql-calls", f"2 * sum(rate({CALLS}[$__range]))", "is not what this run shows"),
        ("02-promql-calls", 3.5, "as a text in quotes"),
        (
            "03-promql-cached",
            f"100 * sum(increase({CACHED}[$__range]))"
            " / sum(increase(vllm:prefix_cache_queries_total[$__range]))",
            "is a percentage",
        ),
        ("07-traceql-failed-tools", FAILED.replace("}", ""), "cannot be read as TraceQL"),
        ("07-traceql-failed-tools", '{ name = "no such span" }', "returns nothing"),
        ("07-traceql-failed-tools", "{ }", "do not belong to the answer"),
        ("07-traceql-failed-tools", "{ status = error } || { }", "do not belong"),
        ("07-traceql-failed-tools", "{ status = error } >> { }", "of the answer are missing"),
        ("01-traceql-model-calls", '{ resource.service.name = "vllm" } || { }', "too many"),
    ],
)
def test_a_wrong_query_is_explained(
    name: str, answer: object, words: str, seen: Observation
) -> None:
    """The language's error, an empty answer, the aggregation and the unit are told apart."""
    feedback = check(name, answer, seen)
    assert feedback.right is False and words in feedback.message, feedback.message
    assert "Traceback" not in feedback.message and "Hint:" in feedback.message


def test_an_unreachable_store_is_not_a_wrong_answer(seen: Observation) -> None:
    """The attendee can do nothing about it."""
    nowhere = seen.settings.model_copy(update={"tempo_url": "http://127.0.0.1:9"})
    away = Observation(seen.run, nowhere)
    feedback = check("07-traceql-failed-tools", FAILED, away)
    assert feedback.right is None and "cannot check a query" in feedback.message
