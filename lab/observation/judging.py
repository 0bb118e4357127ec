"""Judge requests against the ground truth of their scenarios. The only place where that is done."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pandas as pd

from lab.errors import LabError
from lab.schema import Span
from lab.world import ActualCall, Scenario, compared, conduct_of, judge, scenario_of

VERDICTS = (
    "right_tool",
    "arguments_exact",
    "answer_states",
    "needless_call",
    "missing_call",
    "not_offered_call",
    "malformed",
)
CONDUCT = (
    "answer_right",
    "more_steps",
    "own_error",
    "recovered",
    "answer_faithful",
    "passage_found",
    "passage_faithful",
)
ERROR_COUNTS = ("own_errors", "given_errors")

ErrorTexts = dict[str, list[str]]  # tool -> the texts of its failed calls, in order


def judge_requests(requests: pd.DataFrame, spans: pd.DataFrame) -> pd.DataFrame:
    """Return the judgement of each request, in their order and with their index.

    - `request_id`;
    - VERDICTS and CONDUCT (both in `lab.world.judge`), boolean, and ERROR_COUNTS. All
      are NA for a request that failed, since that is a judgement on the server, and where the
      expected or the actual answer is not known (a window of other clients' requests);
    - `expected_tools`, `called_tools`: lists, without repeats after an error; None where they are
      not known;
    - `arguments`: (tool, argument, exact) of each expected argument of a call whose tool was right.

    `requests` are client records or a request frame. The texts of failed calls are those of the
    tool server's spans, since Llama Stack answers "Error (code 1): None".
    """
    texts = error_texts(spans)
    rows = [_judgement(row, texts.get(str(row.trace_id), {})) for row in requests.itertuples()]
    columns = ["request_id", *VERDICTS, *CONDUCT, *ERROR_COUNTS]
    columns += ["expected_tools", "called_tools", "arguments"]
    frame = pd.DataFrame(rows, columns=columns, index=requests.index)
    types = dict.fromkeys((*VERDICTS, *CONDUCT), "boolean") | dict.fromkeys(ERROR_COUNTS, "Int64")
    return frame.astype(types)


def parse_tool_calls(calls: Any) -> list[dict[str, Any]]:
    """Return a record's tool calls as objects; in a saved run they are JSON text.

    The requests of a window have none, since only their client knows them.
    """
    if _is_missing(calls):
        return []
    return json.loads(calls) if isinstance(calls, str) else list(calls)


def _is_missing(calls: Any) -> bool:
    return bool(pd.api.types.is_scalar(calls) and pd.isna(calls))


def find_scenario(scenario_id: Any) -> Scenario | None:
    """Return a scenario of the lab's own world; None for a missing or foreign id."""
    if pd.isna(scenario_id):
        return None
    try:
        return scenario_of(scenario_id)
    except (LabError, KeyError):
        return None


def error_texts(spans: pd.DataFrame) -> dict[str, ErrorTexts]:
    """Return {trace id: {tool: texts of its failed calls}}, by the tool server's spans."""
    texts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    if spans.empty:
        return texts

    names = spans["name"].astype(str)
    failed = names.str.startswith(Span.EXECUTE_TOOL_PREFIX) & (spans["status"] == "error")
    for row in spans[failed].sort_values("start_at").itertuples():
        tool = str(row.name).removeprefix(Span.EXECUTE_TOOL_PREFIX)
        texts[str(row.trace_id)][tool].append(str(row.status_message))
    return texts


def _judgement(row: Any, errors: ErrorTexts) -> dict[str, Any]:
    judgement: dict[str, Any] = {"request_id": row.request_id}
    scenario = find_scenario(row.scenario_id)
    answer_unknown = row.status == "ok" and pd.isna(row.answer)
    if scenario is None or answer_unknown or _is_missing(row.tool_calls):
        return judgement

    turn = scenario.turns[row.turn_index]
    calls = _actual_calls(row, errors)
    expected, made = compared(turn, calls)
    judgement["expected_tools"] = [call.tool for call in expected]
    judgement["called_tools"] = [call.tool for call in made]
    if row.status != "ok":
        return judgement

    verdict = judge(turn, calls, row.answer, scenario.offered)
    conduct = conduct_of(turn, calls, row.answer, verdict)
    judgement |= vars(verdict) | vars(conduct)
    judgement["more_steps"] = conduct.more_steps
    judgement["own_error"] = conduct.own_errors > 0
    return judgement


def _actual_calls(row: Any, errors: ErrorTexts) -> list[ActualCall]:
    """Return the calls of a record, failed ones with the tool server's text where it is known."""
    texts = {tool: iter(of_tool) for tool, of_tool in errors.items()}
    calls = []
    for call in parse_tool_calls(row.tool_calls):
        arguments = call["arguments"] if isinstance(call["arguments"], dict) else None
        failed = bool(call.get("error"))
        output = call.get("output") or ""
        text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
        if failed:
            text = next(texts.get(call["tool"], iter(())), text or str(call["error"]))
        calls.append(ActualCall(call["tool"], arguments, text, failed))
    return calls
