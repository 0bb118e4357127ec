"""The game: a right diagnosis scores fully, a blind one at chance."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import pytest

import lab
from lab.errors import LabError
from lab.incidents import INCIDENTS, Record
from lab.investigation import (
    Diagnosis,
    Truth,
    grade,
    kinds,
    save_score,
    score_line,
    scoreboard,
    truth_of,
)
from lab.investigation.grading import GOOD_S

TRUTH = Truth("slow_tool", "get_order", 1000.0, 2.0, "s")


def _record(name: str, random: Random) -> Record:
    parameters = INCIDENTS[name].draw(random, random.random())
    return Record("id", False, 1000.0, name=name, parameters=parameters, onset_at=1000.0)


@pytest.mark.parametrize("name", list(INCIDENTS))
def test_the_truth_scores_fully(name: str) -> None:
    """Whoever writes the truth of any incident gets all points, with or without an amount."""
    truth = truth_of(_record(name, Random(3)))
    diagnosis = Diagnosis(truth.what, truth.where, truth.since, truth.how_much)
    assert grade(diagnosis, truth).score == 100


def test_a_blind_guesser_scores_at_chance() -> None:
    """Guesses without looking: a cause, one of its places, any time of the window."""
    random = Random(1)
    scores = []
    right = 0
    for _ in range(3000):
        truth = truth_of(_record(random.choice(sorted(INCIDENTS)), random))
        guess = truth_of(_record(random.choice(sorted(INCIDENTS)), random))
        since = 1000.0 + random.uniform(-40, 40)
        diagnosis = Diagnosis(guess.what, guess.where, since, guess.how_much)
        result = grade(diagnosis, truth)
        scores.append(result.score)
        right += result.points["what"] == 50
    assert right / 3000 == pytest.approx(1 / len(INCIDENTS), abs=0.015)
    assert 8 < sum(scores) / len(scores) < 22


@pytest.mark.parametrize(
    ("diagnosis", "points"),
    [
        (Diagnosis(), (0, 0, 0, 0)),
        (Diagnosis("slow_tool", " Get_Order ", 1000.0 + GOOD_S, 2.9), (50, 20, 20, 10)),
        (Diagnosis("failing_tool", "get_order", 1000.0 - 2 * GOOD_S, 4.4), (0, 20, 10, 5)),
        (Diagnosis("retry_storm", "wonka", "1970-01-01T00:16:41Z", -1), (0, 0, 20, 0)),
    ],
)
def test_parts_are_graded_alone(diagnosis: Diagnosis, points: tuple[int, ...]) -> None:
    """Each part gets points of its own; near answers get some."""
    assert tuple(grade(diagnosis, TRUTH).points.values()) == points


@pytest.mark.parametrize(
    "diagnosis", [Diagnosis("slow tool"), Diagnosis("slow_tool", since="12:30")]
)
def test_a_mistyped_answer_costs_nothing(diagnosis: Diagnosis) -> None:
    """A name or a time that does not exist is refused with the fix, not graded."""
    with pytest.raises(LabError) as refused:
        grade(diagnosis, TRUTH)
    assert refused.value.fix


def test_the_exercise_reveals_after_the_answer_only() -> None:
    """The truth is not touched before there is an answer that can be graded."""
    revealed = []

    def reveal() -> Truth:
        revealed.append(1)
        return TRUTH

    assert lab.check("10-diagnosis", ..., reveal).right is None
    assert lab.check("10-diagnosis", "slow_tool", reveal).right is False
    assert lab.check("10-diagnosis", Diagnosis("slow tool"), reveal).right is False
    assert not revealed
    assert lab.check("10-diagnosis", Diagnosis("agent_loop", since=1.0), reveal).right is False
    assert lab.check("10-diagnosis", Diagnosis("slow_tool", "get_order"), reveal).right is True


def test_a_hidden_record_has_no_truth() -> None:
    """Nothing is graded against a record whose name is not shown."""
    with pytest.raises(LabError):
        truth_of(Record("id", True, 1000.0))


def test_the_scoreboard_ranks_a_room(tmp_path: Path) -> None:
    """Lines of several people, saved or pasted, are averaged by person, the best first."""
    truths = [TRUTH, Truth("busy_cpu", "machine", 50.0, math.nan)]
    for truth in truths:
        best = grade(Diagnosis(truth.what, truth.where, truth.since, truth.how_much), truth)
        path = save_score(tmp_path, score_line("ada", best, truth))
        save_score(tmp_path, score_line("bob", grade(Diagnosis(truth.what), truth), truth))
    board = scoreboard(path)
    assert board.index.tolist() == ["ada", "bob"]
    assert board.loc["ada", ["incidents", "score"]].tolist() == [2, 100]
    with pytest.raises(LabError):
        scoreboard(["not a score"])
    assert set(kinds()) >= {truth.what for truth in truths}
