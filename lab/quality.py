"""Quality: whether the agent called the right tools and gave the right answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd

from lab import stack
from lab.errors import FrameError
from lab.measures import (
    alert_quality,
    compare_paired,
    compare_signals,
    pair_up,
    paired_shares,
    pairs_needed,
    power_curve,
    share_table,
    signals,
    tool_confusion,
    wilson,
)
from lab.observation import Observation, judge_requests, parse_tool_calls
from lab.places import place_of
from lab.schema import Attr, Span
from lab.settings import Settings

__all__ = [
    "alert_quality",
    "argument_frame",
    "calls_by_source",
    "canary_served",
    "compare_paired",
    "compare_signals",
    "judged",
    "output_items",
    "pair_up",
    "paired_shares",
    "pairs_needed",
    "parse_tool_calls",
    "power_curve",
    "share_table",
    "tool_confusion",
    "wilson",
]

CANARY_PART = "vllm-canary"
TOOL_CALLS = "lab_tool_calls_total"


@contextmanager
def canary_served(settings: Settings) -> Iterator[None]:
    """Serve the local lab's canary inside this block, and leave it as it was before.

    Does nothing in other places: there the second model is a deployment of its own, and a recording
    needs no server.
    """
    if not place_of(settings).runs_here:
        yield
        return

    was_on = any(part.name == CANARY_PART and part.ready for part in stack.status(settings))
    if not was_on:
        stack.start(settings, CANARY_PART)
    try:
        yield
    finally:
        if not was_on:
            stack.stop(settings, CANARY_PART)


def judged(seen: Observation) -> pd.DataFrame:
    """Return the run's request frame with all judgements of its quality, one row per request.

    These are the columns of `lab.observation.judge_requests`, the signals of
    `lab.measures.quality`, and `wrong`: the user has no right answer, for any reason.
    """
    frame = seen.requests
    judgements = judge_requests(frame, seen.spans).drop(columns="request_id")
    wrong = (~judgements["answer_right"]).fillna(True).astype(bool).rename("wrong")
    columns = pd.concat([judgements, signals(frame), wrong], axis=1)
    return pd.concat(
        [frame.drop(columns=frame.columns.intersection(columns.columns)), columns], axis=1
    )


def argument_frame(judgements: pd.DataFrame) -> pd.DataFrame:
    """Return one row per expected argument of a call whose tool was right.

    Columns: request_id, tool, argument, exact. `judgements` is what `judged` returns.
    """
    known = judgements[["request_id", "arguments"]].dropna().explode("arguments").dropna()
    frame = pd.DataFrame(known["arguments"].tolist(), columns=["tool", "argument", "exact"])
    frame.insert(0, "request_id", known["request_id"].to_numpy())
    return frame.astype({"exact": "boolean"})


def calls_by_source(seen: Observation) -> pd.DataFrame:
    """Return the tool calls of a run and the failed ones by tool, from three sources.

    The sources are the answers, the tool server's spans, and its counter in Prometheus, which also
    counts other clients' calls. Columns (source, `calls` or `failed`); searches are left out, since
    the tool server does not run them. Raises FrameError where no tool was called, and what
    Prometheus' client raises.
    """
    rows = []
    for calls in seen.requests["tool_calls"]:
        for call in parse_tool_calls(calls):
            failed = bool(call.get("error"))
            if call["tool"] != "file_search" and (failed or call.get("output") is not None):
                rows.append((call["tool"], failed))
    in_answers = pd.DataFrame(rows, columns=["tool", "failed"]).groupby("tool")["failed"]

    spans = seen.spans[seen.spans["name"].astype(str).str.startswith(Span.EXECUTE_TOOL_PREFIX)]
    in_spans = (spans["status"] == "error").groupby(spans[Attr.TOOL_NAME].astype(str).to_numpy())

    counted = seen.increase(TOOL_CALLS, by=["tool", "outcome"], job="lab-tools")
    counted_failed = counted[counted.index.get_level_values("outcome") != "ok"]
    table = pd.DataFrame(
        {
            ("answers", "calls"): in_answers.size(),
            ("answers", "failed"): in_answers.sum(),
            ("spans", "calls"): in_spans.size(),
            ("spans", "failed"): in_spans.sum(),
            ("counter", "calls"): counted.groupby("tool", observed=True).sum(),
            ("counter", "failed"): counted_failed.groupby("tool", observed=True).sum(),
        }
    )
    if table.empty:
        raise FrameError(
            "no tool was called in this run", fix="drive more requests, or other kinds of them"
        )
    table = table.fillna(0).astype(int)
    table.loc["all"] = table.sum()
    return table.rename_axis("tool")


def output_items(response: Any) -> pd.DataFrame:
    """Return the items of a Responses API response: item, name, arguments, output."""
    rows = []
    for item in response.output:
        content = item.model_dump()
        name = content.get("name") or ""
        arguments = content.get("arguments") or ""
        rows.append((content["type"], name, arguments, _output_of(content)))
    return pd.DataFrame(rows, columns=["item", "name", "arguments", "output"])


def _output_of(content: dict[str, Any]) -> str:
    if output := content.get("output") or content.get("error"):
        return str(output)
    parts = [part for part in content.get("content") or [] if isinstance(part, dict)]
    text = "".join(part.get("text") or "" for part in parts)
    return text or (f"{len(content['tools'])} tools" if content.get("tools") else "")
