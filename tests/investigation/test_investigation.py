"""Real incidents are recognised, calm is calm, and what cannot be known is said."""

from __future__ import annotations

import pandas as pd
import pytest

from lab.incidents import INCIDENTS
from lab.investigation import (
    NOTHING,
    Evidence,
    as_html,
    as_markdown,
    causes_table,
    changes_table,
    diagnosis_of,
    grade,
    judge,
    kinds,
)
from lab.investigation.evidence import note_limits
from lab.investigation.signals import SIGNALS
from tests.investigation.recorded import CALM, STILL, TRUTHS, WINDOWS, evidence

ONSET_S = 15.0
HALF = (CALM[0] + STILL) / 2


@pytest.mark.parametrize("name", list(WINDOWS))
def test_a_real_incident_is_recognised(name: str) -> None:
    """The first cause, its place and its onset are those of the incident that was made."""
    result = judge(evidence(WINDOWS[name]))
    truth = TRUTHS[name]
    assert result.cause == name
    assert result.onset is not None
    assert abs(result.onset.at - truth.since) < ONSET_S
    assert result.onset.low <= result.onset.at <= result.onset.high
    points = grade(diagnosis_of(result), truth).points
    assert (points["what"], points["where"], points["since"]) == (50, 20, 20)


def test_the_amount_of_a_slow_tool_is_found() -> None:
    """The delay is the difference that the calls of this tool show since the onset."""
    diagnosis = diagnosis_of(judge(evidence(WINDOWS["slow_tool"])))
    assert 0.3 < diagnosis.how_much < 2.5


def test_calm_is_calm() -> None:
    """Two halves of the same calm time do not differ."""
    result = judge(evidence((HALF, STILL), (CALM[0], HALF)))
    assert result.cause == NOTHING
    assert result.changed == [] and result.causes == () and result.onset is None
    assert str(result).startswith("Nothing changed")


def test_the_tables_of_no_change_have_their_columns() -> None:
    """Notebook 09 goes on where nothing changed."""
    nothing = judge(evidence((HALF, STILL), (CALM[0], HALF)))
    assert changes_table(nothing).empty and "where" in changes_table(nothing)
    assert causes_table(nothing).empty and "belief" in causes_table(nothing)


def test_metrics_alone_show_that_load_grew() -> None:
    """Without traces the tenant is not known, and that is said; the engine's load still shows."""
    result = judge(evidence(WINDOWS["noisy_neighbour"], traces=False))
    assert {each.source for each in result.changed} == {"metrics"}
    assert "running" in {each.signal.name for each in result.changed}
    assert any("share of the requests" in note for note in result.notes)


def test_traces_alone_are_enough_for_a_tenant() -> None:
    """Without metrics the neighbour is recognised by its requests."""
    result = judge(evidence(WINDOWS["noisy_neighbour"], metrics=False))
    assert (result.cause, result.where) == ("noisy_neighbour", "vandelay")
    assert any("size of the KV cache" in note for note in result.notes)


def test_too_few_requests_are_no_evidence() -> None:
    """Of three seconds nothing is certain, and it is said that they are too few."""
    start = WINDOWS["slow_tool"][0]
    result = judge(evidence((start, start + 3), (CALM[0], CALM[0] + 3)))
    assert result.cause == NOTHING
    assert any(note.startswith("only ") for note in result.notes)


def test_a_tool_with_three_failed_calls_is_undecided() -> None:
    """Three failures of three calls are too few to be certain, which is not 'nothing changed'."""
    known = evidence((HALF, STILL), (CALM[0], HALF))
    tools = known.tools.copy()
    rows = tools.index[(tools["tool"] == "convert_currency") & (tools["time"] > HALF)]
    assert len(rows) == 3
    tools.loc[rows, "failed"] = True
    result = judge(Evidence(**{**vars(known), "tools": tools}))

    assert result.cause == NOTHING
    assert [each.where for each in result.undecided] == ["tool convert_currency"]
    assert str(result).startswith("It cannot be told whether something changed")
    assert "on too few values (" in str(result)


def test_half_a_window_is_noted() -> None:
    """A window of which a part has no request is named as such."""
    start, end = WINDOWS["slow_tool"]
    result = judge(evidence((start, end + 45)))
    assert any("of the window's" in note for note in result.notes)


def test_nothing_known_is_nothing_found() -> None:
    """An evidence without any table is not an error here, and no finding."""
    empty = note_limits(Evidence((100.0, 200.0), (0.0, 100.0)))
    result = judge(empty)
    assert result.cause == NOTHING and len(result.notes) == 1


def test_every_incident_has_a_cause() -> None:
    """The table of causes has the incidents' names and phases, and only signals that exist."""
    assert set(kinds()) == set(INCIDENTS)
    names = {signal.name for signal in SIGNALS}
    assert len(names) == len(SIGNALS)
    for name, kind in kinds().items():
        assert kind.phase == INCIDENTS[name].phase, name
        assert {signal for signal, _ in kind.predicts} <= names, name
        assert any(expected == "always" for expected in kind.predicts.values()), name


def test_the_report_answers_by_role() -> None:
    """It has three sentences, evidence, what would decide, and queries for those who changed."""
    result = judge(evidence(WINDOWS["slow_tool"]))
    text = as_markdown(result)
    assert "get_node_status" in str(result)
    for part in ("For the developer", "what would decide", "lab_tool_duration_seconds_sum"):
        assert part in text
    assert list(causes_table(result)["cause"][:1]) == ["slow_tool"]
    table = changes_table(result)
    certain = table[table["certain"]]
    assert (certain["low"] <= certain["size"]).all() and (certain["size"] <= certain["high"]).all()


def test_the_page_quotes_names() -> None:
    """A tenant whose name is markup does not become markup."""
    known = evidence(WINDOWS["noisy_neighbour"], metrics=False)
    requests = known.requests.copy()
    requests["tenant"] = requests["tenant"].replace("vandelay", "<script>alert(1)</script>")
    turns = known.turns.copy()
    turns["tenant"] = turns["tenant"].replace("vandelay", "<script>alert(1)</script>")
    page = as_html(judge(Evidence(**{**vars(known), "requests": requests, "turns": turns})))
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "data:image/png;base64," in page


def test_answers_show_a_tool_that_is_wrong() -> None:
    """Where the right answers are known, a tool with wrong results is named although it is fast."""
    known = evidence(WINDOWS["slow_tool"], (CALM[0], CALM[1]), metrics=False)
    calls = known.tools[known.tools["tool"] != "get_node_status"]
    onset = WINDOWS["slow_tool"][0] + 10
    wrong = ((calls["tool"] == "convert_currency") & (calls["time"] > onset)) * 1.0
    answers = pd.DataFrame({"time": calls["time"], "wrong": wrong, "tools": calls["tool"]})
    answers["tools"] = answers["tools"].map(lambda tool: [tool])
    parts = {**vars(known), "tools": calls, "answers": answers}
    result = judge(Evidence(**parts))
    assert (result.cause, result.where) == ("wrong_tool", "convert_currency")


def test_a_router_to_another_engine_is_seen_by_its_spans() -> None:
    """Callers still request the same model: only the engine's own spans and counters show it."""
    known = evidence((HALF, STILL), (CALM[0], HALF), metrics=False)
    assert set(known.engines["value"]) == {"vllm"}
    engines = known.engines.copy()
    engines.loc[(engines["time"] > HALF) & (engines.index % 2 == 0), "value"] = "vllm-canary"
    result = judge(Evidence(**{**vars(known), "engines": engines}))
    assert "new_engine" in {each.signal.name for each in result.changed}
    assert (result.cause, result.where) == ("bad_rollout", "vllm-canary")


@pytest.mark.parametrize("job", ["vllm", "llama-stack"])
def test_only_the_restart_of_an_engine_speaks_for_its_configuration(job: str) -> None:
    """A restarted agent server is not a reason to suspect the engine's cache or limits."""
    known = evidence((HALF, STILL), (CALM[0], HALF))
    samples = known.samples.copy()
    begun = (samples["metric"] == "started_at") & (samples["job"] == job)
    samples.loc[begun & (samples["time"] > HALF), "value"] += 60.0
    result = judge(Evidence(**{**vars(known), "samples": samples}))
    name = "engine_restarted" if job == "vllm" else "restarted"
    certain = [each for each in result.changed if abs(each.state) == 1]
    assert [(each.signal.name, each.key) for each in certain] == [(name, job)]


def test_a_job_that_is_no_longer_scraped_is_certain_within_seconds() -> None:
    """Each scrape that was due counts; one that came late does not."""
    middle = sum(CALM) / 2
    whole = evidence((middle, CALM[1]), (CALM[0], middle), traces=False)
    missing = (whole.samples["job"] == "vllm") & (whole.samples["time"] > middle + 2)
    result = judge(Evidence(**{**vars(whole), "samples": whole.samples[~missing]}))
    assert ("unscraped", "vllm") in {(each.signal.name, each.key) for each in result.changed}

    known = evidence((HALF, STILL), (CALM[0], HALF))
    samples = known.samples
    times = sorted(samples.loc[samples["job"] == "vllm", "time"].round().unique())
    late = (samples["job"] == "vllm") & (samples["time"].round() == times[-3])
    calm = judge(Evidence(**{**vars(known), "samples": samples[~late]}))
    assert calm.cause == NOTHING


def test_the_time_of_failed_calls_does_not_make_a_tool_slow() -> None:
    """A flaky tool's failures are timeouts; only the calls that succeed say how fast it is."""
    known = evidence((HALF, STILL), (CALM[0], HALF))
    tools = known.tools.copy()
    rows = tools.index[(tools["tool"] == "get_invoice") & (tools["time"] > HALF)]
    tools.loc[rows[:3], "failed"] = True
    tools.loc[rows[:3], "duration_s"] = 2.0
    result = judge(Evidence(**{**vars(known), "tools": tools}))
    assert "tool_time" not in {each.signal.name for each in result.changed}


def test_the_share_of_failed_requests_is_known_from_metrics_alone() -> None:
    signal = next(signal for signal in SIGNALS if signal.name == "failures")
    assert signal.metrics is not None
    points = signal.metrics(evidence(WINDOWS["spans_lost"], traces=False))
    assert len(points) > 10
    assert (points["value"] == 0).all()  # the recorded counter has no failed request
