"""A comparison finds what was changed, names its phase, and does not mistake mix, drift or chance
for the system.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.oaxaca import OaxacaBlinder

from lab.comparison import BETTER, UNCLEAR, WORSE, Sample, compare, sample_of
from lab.comparison.fitting import ALL, Pooled, block_length, blocks_of, covariates, decompose
from lab.comparison.sample import load_sample
from lab.errors import FrameError
from lab.prices import api_prices
from lab.settings import REPO, load_settings

CHAT = "workshop/run-20261126T171041-f4c7"  # 240 requests straight to vLLM
AGENT = "workshop/run-20261126T171250-d90f"  # 100 requests through Llama Stack


@cache
def recorded(name: str) -> Sample:
    return load_sample(name, load_settings())[0]


def halves(name: str = CHAT, **changed: float) -> tuple[Sample, Sample]:
    """Return every second conversation of a run, and the others with some phases longer."""
    requests = recorded(name).requests
    odd = requests["session"] % 2 == 1
    b = requests[odd].copy()
    for phase, factor in changed.items():
        b["e2e_s"] += b[phase] * (factor - 1)
        b[phase] *= factor
    return Sample("a", requests[~odd]), Sample("b", b)


def alarms(result: object) -> list[str]:
    return result.measures(WORSE) + result.measures(BETTER)


def test_two_halves_of_a_run_are_not_different() -> None:
    result = compare(*halves())
    assert alarms(result) == []
    assert result.phase is None


@pytest.mark.parametrize("phase", ["decode_s", "prefill_s"])
def test_a_slower_phase_is_found_and_named(phase: str) -> None:
    a, b = halves(**{phase: 2.0})
    result = compare(a, b)
    row = result.table.loc[phase]
    assert row["verdict"] == WORSE
    assert result.phase is not None and result.phase.name == phase
    assert row["low"] < row["a"] < row["high"], "the phase takes its own time once more"
    assert compare(b, a).table.loc[phase, "verdict"] == BETTER


def test_phases_add_up_to_e2e() -> None:
    table = compare(*halves(AGENT)).table
    phases = [f"{name}_s" for name in ("queue", "prefill", "decode", "tool", "stack", "other")]
    for column in ("difference", "mix", "system"):
        assert table.loc[phases, column].sum() == pytest.approx(table.loc["e2e_s", column])
    assert table["difference"].to_numpy() == pytest.approx(
        (table["mix"] + table["system"]).to_numpy()
    )


def test_longer_requests_are_mix_and_not_the_system() -> None:
    requests = recorded(CHAT).requests
    long = requests["completion_tokens"] > requests["completion_tokens"].median()
    rng = np.random.default_rng(1)
    in_a = rng.random(len(requests)) < np.where(long, 0.2, 0.8)
    result = compare(Sample("a", requests[in_a]), Sample("b", requests[~in_a]))
    e2e = result.table.loc["e2e_s"]
    assert e2e["difference_low"] > 0, "b takes longer"
    assert e2e["verdict"] != WORSE, "but only since it was asked for more"
    assert result.mix.loc["e2e_s", "lengths"] > 0.7 * e2e["difference"]


def test_mix_and_system_are_those_of_statsmodels() -> None:
    a, b = halves(decode_s=1.3)
    requests = Pooled.of(a, b, next(iter(api_prices(REPO / "data").values()))).requests
    x, groups = covariates(requests, ALL)
    is_b = requests["is_b"].to_numpy()
    y = requests[["e2e_s"]].to_numpy(float)
    parts = decompose(x, groups, is_b, y, np.zeros(len(y), dtype=int), np.ones((1, 1)))

    # statsmodels takes the side from a column of x, which the fit with a constant must not drop.
    table = pd.DataFrame(x).assign(side=is_b.astype(int))
    theirs = OaxacaBlinder(y[:, 0], table, "side", hasconst=False, swap=False)
    unexplained, explained, gap = theirs.two_fold(two_fold_type="pooled").params
    assert -parts.total[0, 0] == pytest.approx(gap)
    assert -parts.system[0, 0] == pytest.approx(unexplained, rel=1e-3)
    assert -sum(parts.mix.values())[0, 0] == pytest.approx(explained, rel=1e-3)


def test_runs_that_alternate_are_not_fooled_by_drift() -> None:
    requests = recorded(CHAT).requests
    runs = []
    for number in range(4):
        run = requests[requests["session"] % 4 == number].copy()
        run["at"] += 1_000.0 * number
        slower = 1 + 0.5 * number  # the machine gets slower from run to run
        run["e2e_s"] += run["decode_s"] * (slower - 1)
        run["decode_s"] *= slower
        runs.append(Sample(f"run {number}", run.assign(question=-1)))
    after_each_other = compare(runs[:2], runs[2:])
    assert after_each_other.table.loc["decode_s", "verdict"] == WORSE
    alternating = compare([runs[0], runs[3]], [runs[1], runs[2]])
    assert alternating.interleaved
    assert alternating.table.loc["decode_s", "verdict"] not in (WORSE, BETTER)


def test_the_same_questions_are_compared_with_each_other() -> None:
    """A run against itself with one slower phase: the plan's own ups and downs cancel."""
    a = recorded(AGENT)
    slower = a.requests.assign(
        e2e_s=a.requests["e2e_s"] + 0.1 * a.requests["decode_s"],
        decode_s=1.1 * a.requests["decode_s"],
    )
    together = compare(a, Sample("b", slower)).table.loc["decode_s"]
    apart = compare(a, Sample("b", slower.assign(question=-1))).table.loc["decode_s"]
    assert together["verdict"] == WORSE
    assert together["high"] - together["low"] < 0.5 * (apart["high"] - apart["low"])


def test_a_smaller_margin_needs_more_requests() -> None:
    a, b = halves()
    needed = [compare(a, b, margin=m).table.loc["decode_s", "n_more"] for m in (0.01, 0.005)]
    n = len(a)
    assert needed[1] + n == pytest.approx(4 * (needed[0] + n), rel=0.1)


def test_failures_that_nobody_saw_are_not_called_equal_to_none() -> None:
    """No failure among 120 and 120 requests is not proof of no failure."""
    row = compare(*halves()).table.loc["failed"]
    assert row["verdict"] == UNCLEAR
    assert row["high"] > 0.02


def test_dependent_requests_get_longer_blocks() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(size=2_000)
    walk = np.zeros(2_000)
    for k in range(1, 2_000):
        walk[k] = 0.97 * walk[k - 1] + noise[k]
    assert block_length(noise) < 1.2 * np.sqrt(2_000) < block_length(walk)


def test_conversations_stay_in_one_block() -> None:
    requests = recorded(AGENT).requests
    block = pd.Series(blocks_of(requests, 7))
    assert block.groupby([requests["run"], requests["session"]]).nunique().max() == 1
    assert block.value_counts().min() >= 5


def test_what_cannot_be_compared_is_said() -> None:
    a, b = halves()
    few = compare(a, Sample("few", b.requests.head(10)))
    assert set(few.table["verdict"]) == {UNCLEAR}
    assert "too few requests" in " ".join(few.notes)

    other = compare(recorded(AGENT), a)
    assert other.verdict == UNCLEAR
    assert "another workload" in " ".join(other.notes)

    phases = ["queue_s", "prefill_s", "decode_s", "tool_s", "stack_s", "other_s"]
    blind = b.requests.assign(whole=False, **dict.fromkeys(phases, np.nan))
    untraced = compare(a, Sample("no traces", blind))
    assert "no complete trace" in " ".join(untraced.notes)
    assert "decode_s" not in untraced.table.index and "e2e_s" in untraced.table.index

    seconds = ["e2e_s", "ttft_s", "tpot_s", *phases]
    dead = b.requests.assign(
        whole=False, failed=1.0, right=np.nan, **dict.fromkeys(seconds, np.nan)
    )
    down = compare(a, Sample("down", dead))
    assert down.measures(WORSE) == ["failed"]
    assert compare(Sample("down", dead), Sample("down", dead)).measures(WORSE) == []
    assert compare(Sample("one", a.requests.head(1)), b).verdict == UNCLEAR

    for nothing in ([], pd.DataFrame(), 3, [a.requests.head(0)]):
        with pytest.raises(FrameError):
            sample_of(nothing)


def test_false_alarms_are_rare_among_resampled_runs() -> None:
    from benchmarks.diagnosis.comparisons import Pool

    pool = Pool([])
    requests = recorded(CHAT).requests
    pool.blocks = [requests.iloc[k : k + 10] for k in range(0, 240, 10)]
    rng = np.random.default_rng(5)
    judged = [
        alarms(
            compare(
                Sample("a", pool.draw(100, rng)), Sample("b", pool.draw(100, rng)), replicates=400
            )
        )
        for _ in range(20)
    ]
    assert sum(map(bool, judged)) <= 2
