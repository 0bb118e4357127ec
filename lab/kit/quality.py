"""What the quality notebook does with a run: judge it against the scenarios, serve the canary, count calls thrice."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd

from lab import stack
from lab.errors import FrameError
from lab.frames import increase_exact
from lab.kit import VERDICTS, Observation, listed
from lab.kit.scrapes import scraped_until
from lab.measures import signals
from lab.schema import Attr, Span
from lab.settings import Settings
from lab.stores import Prometheus
from lab.workload import Run
from lab.world import ActualCall, Scenario, Turn, compared, conduct_of, judge, scenario_of

CANARY_PART = "vllm-canary"
CONDUCT = (
    "answer_right",
    "more_steps",
    "own_error",
    "recovered",
    "answer_faithful",
    "passage_found",
    "passage_faithful",
)


@contextmanager
def canary_served(settings: Settings) -> Iterator[None]:
    """The local lab's canary is served inside this block; it is left as it was after.

    Does nothing in other places: there the second model is a deployment of its own, and a recording needs no server.
    """
    was_on = settings.place != "local" or any(
        p.name == CANARY_PART and p.ready for p in stack.status(settings)
    )
    if not was_on:
        stack.start(settings, CANARY_PART)
    try:
        yield
    finally:
        if not was_on:
            stack.stop(settings, CANARY_PART)


def judged(seen: Observation) -> pd.DataFrame:
    """The run's request frame with everything that can be said of its quality, one row a request.

    The verdicts of `lab.world.judge`, the CONDUCT of `lab.world.conduct`, `own_errors` and `given_errors`, the signals
    of `lab.measures.signals`, and `expected_tools` and `called_tools` (lists, repeats after an
    error gone). The errors' texts are taken from the
    tool server's spans, since Llama Stack answers "Error (code 1): None". Of a request that failed
    nothing is known (NA): it says something of the server, not of the model. `wrong` is plain: the user has not got a
    right answer, for whatever reason.
    """
    frame = seen.requests
    errors = _error_texts(seen.spans)
    rows = [_judged(row, errors.get(row.trace_id, {})) for row in frame.itertuples()]
    verdicts = pd.DataFrame(rows, index=frame.index)
    boolean = [*VERDICTS, *CONDUCT]
    verdicts[boolean] = verdicts[boolean].astype("boolean")
    verdicts[["own_errors", "given_errors"]] = verdicts[["own_errors", "given_errors"]].astype(
        "Int64"
    )
    wrong = (~verdicts["answer_right"]).fillna(True).astype(bool).rename("wrong")
    found = pd.concat([verdicts, signals(frame), wrong], axis=1)
    return pd.concat([frame.drop(columns=[c for c in found if c in frame]), found], axis=1)


def argument_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """One row an expected argument of a call whose tool was right: request_id, tool, argument, exact."""
    rows = []
    for row in frame[frame["status"] == "ok"].itertuples():
        scenario, turn = _truth(row)
        verdict = judge(turn, _actual(row, {}), row.answer or "", scenario.offered)
        rows += [(row.request_id, *argument) for argument in verdict.arguments]
    return pd.DataFrame(rows, columns=["request_id", "tool", "argument", "exact"]).astype(
        {"exact": "boolean"}
    )


def _truth(row: Any) -> tuple[Scenario, Turn]:
    scenario = scenario_of(row.scenario_id)
    return scenario, scenario.turns[row.turn_index]


def _judged(row: Any, errors: dict[str, list[str]]) -> dict[str, Any]:
    scenario, turn = _truth(row)
    calls = _actual(row, errors)
    expected, made = compared(turn, calls)
    tools = {"expected_tools": [c.tool for c in expected], "called_tools": [c.tool for c in made]}
    if row.status != "ok":
        return dict.fromkeys((*VERDICTS, *CONDUCT, "own_errors", "given_errors"), pd.NA) | tools
    answer = row.answer or ""
    verdict = judge(turn, calls, answer, scenario.offered)
    conduct = conduct_of(turn, calls, answer, verdict)
    known = {name: getattr(verdict, name) for name in VERDICTS}
    known |= {
        name: getattr(conduct, name, None) for name in (*CONDUCT, "own_errors", "given_errors")
    }
    known["own_error"] = conduct.own_errors > 0
    return {name: pd.NA if value is None else value for name, value in known.items()} | tools


def _actual(row: Any, errors: dict[str, list[str]]) -> list[ActualCall]:
    """The calls of a record, failed ones with the text that the tool server gave, where its span is there."""
    texts = {tool: list(found) for tool, found in errors.items()}
    made = []
    for call in listed(row.tool_calls):
        arguments = call["arguments"] if isinstance(call["arguments"], dict) else None
        failed = bool(call.get("error"))
        output = call.get("output") or ""
        text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
        if failed:
            told = texts.get(call["tool"])
            text = told.pop(0) if told else text or str(call["error"])
        made.append(ActualCall(call["tool"], arguments, text, failed))
    return made


def _error_texts(spans: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """{trace id: {tool: the texts of its failed calls, in order}}, from the tool server's spans."""
    ran = spans[
        spans["name"].astype(str).str.startswith(Span.EXECUTE_TOOL_PREFIX)
        & (spans["status"] == "error")
    ]
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in ran.sort_values("start_at").itertuples():
        found[row.trace_id][str(row.name).removeprefix(Span.EXECUTE_TOOL_PREFIX)].append(
            str(row.status_message)
        )
    return found


def calls_by_source(seen: Observation, run: Run, settings: Settings) -> pd.DataFrame:
    """Tool calls and failed ones of a run by tool, three times: in the answers, in the tool server's spans, in its
    counter in Prometheus. Columns (source, `calls` or `failed`); searches are not the tool server's, so not counted.

    The counter counts everybody's calls in that time. Raises what Prometheus' client raises.
    """
    answers = [
        (c["tool"], bool(c.get("error")), c.get("output") is not None or bool(c.get("error")))
        for calls in seen.requests["tool_calls"]
        for c in listed(calls)
        if c["tool"] != "file_search"
    ]
    ran = pd.DataFrame(answers, columns=["tool", "failed", "ran"])
    ran = ran[ran["ran"]]
    spans = seen.spans[seen.spans["name"].astype(str).str.startswith(Span.EXECUTE_TOOL_PREFIX)]
    of = spans[Attr.TOOL_NAME].astype(str)
    parts = {
        ("answers", "calls"): ran.groupby("tool").size(),
        ("answers", "failed"): ran.groupby("tool")["failed"].sum(),
        ("spans", "calls"): spans.groupby(of.to_numpy()).size(),
        ("spans", "failed"): (spans["status"] == "error").groupby(of.to_numpy()).sum(),
        **_counted(run, settings),
    }
    table = pd.DataFrame(parts).fillna(0).astype(int)
    if table.empty:
        raise FrameError(
            "no tool was called in this run", fix="drive more requests, or other kinds of them"
        )
    table.loc["all"] = table.sum()
    return table.rename_axis("tool")


def _counted(run: Run, settings: Settings) -> dict[tuple[str, str], pd.Series]:
    prometheus = Prometheus(settings)
    start, end = run.window[0], scraped_until(settings, prometheus, run, "lab-tools")
    grown = increase_exact(prometheus.samples("lab_tool_calls_total", start, end), start, end)
    failed = grown[grown["outcome"] != "ok"]
    return {
        ("counter", "calls"): grown.groupby("tool", observed=True)["increase"].sum(),
        ("counter", "failed"): failed.groupby("tool", observed=True)["increase"].sum(),
    }
