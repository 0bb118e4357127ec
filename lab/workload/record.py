"""One row of the client's record (lab.schema.CLIENT_RECORD) from a planned request and what became of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
import pandas as pd

from lab.schema import CLIENT_RECORD
from lab.workload.outcome import Outcome, message_in
from lab.workload.plan import PlannedRequest
from lab.workload.tracing import TraceIds
from lab.workload.wire import Exchange

ADDED_COLUMNS = ("first_answer_at", "first_answer_s")
_STATUS = {
    "": "ok",
    "cancelled": "cancelled",
    "timeout": "timeout",
    "predecessor_failed": "cancelled",
}


@dataclass(frozen=True, slots=True)
class Clock:
    """From perf_counter seconds to seconds since the epoch. One offset a run, so that durations stay exact."""

    offset_s: float

    def at(self, perf_s: float) -> float:
        return perf_s + self.offset_s


def settle(exchange: Exchange, outcome: Outcome) -> Outcome:
    """The outcome with what the wire knows: what failed on the wire explains what is missing in the stream."""
    if exchange.error_type:
        outcome.error_type, outcome.error_message = exchange.error_type, exchange.error_message
    elif exchange.answer.status != 200:
        outcome.error_type = f"http_{exchange.answer.status}"
        outcome.error_message = message_in(exchange.answer.body)
    return outcome


def row(
    run_id: str,
    request: PlannedRequest,
    ids: TraceIds,
    clock: Clock,
    scheduled: float,
    exchange: Exchange,
    out: Outcome,
) -> dict[str, Any]:
    """The row; times in the arguments are perf_counter seconds."""
    tokens = out.token_times
    first, last = (tokens[0], tokens[-1]) if tokens else (math.nan, math.nan)
    return {
        "run_id": run_id,
        "request_id": request.request_id,
        "trace_id": ids.trace_hex,
        "scenario_id": request.scenario_id,
        "kind": request.kind,
        "intent": request.intent,
        "turn_index": request.turn_index,
        "tenant": request.tenant,
        "user_id": request.user_id,
        "session_id": request.session_id,
        "api": request.api,
        "model": request.model,
        "scheduled_at": clock.at(scheduled),
        "sent_at": clock.at(exchange.sent),
        "first_token_at": clock.at(first),
        "last_token_at": clock.at(last),
        "first_answer_at": clock.at(out.first_answer),
        "done_at": clock.at(exchange.done),
        "lag_s": exchange.sent - scheduled,
        "ttft_s": first - scheduled,
        "first_answer_s": out.first_answer - scheduled,
        "e2e_s": exchange.done - scheduled,
        "chunk_offsets_s": msgspec.json.encode(
            [round(t - exchange.sent, 6) for t in tokens]
        ).decode(),
        "status": _STATUS.get(out.error_type, "error"),
        "http_status": exchange.answer.status,
        "error_type": out.error_type,
        "error_message": out.error_message,
        "prompt_tokens": out.prompt_tokens,
        "cached_tokens": out.cached_tokens,
        "completion_tokens": out.completion_tokens,
        "prompt": request.text,
        "answer": out.answer,
        "tool_calls": msgspec.json.encode(out.tool_calls).decode(),
        "finish_reason": out.finish_reason,
    }


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a DataFrame with exactly the columns and dtypes of CLIENT_RECORD, in the order of `scheduled_at`."""
    dtypes = {c.name: "string" if c.dtype == "json" else c.dtype for c in CLIENT_RECORD}
    table = pd.DataFrame(rows, columns=list(dtypes)).astype(dtypes)
    return table.sort_values("scheduled_at", kind="stable", ignore_index=True)


def with_added_columns(records: pd.DataFrame) -> pd.DataFrame:
    """Return the records with NaN in the columns that runs saved by an older lab do not have."""
    missing = {name: math.nan for name in ADDED_COLUMNS if name not in records}
    return records.assign(**missing)[[c.name for c in CLIENT_RECORD]] if missing else records
