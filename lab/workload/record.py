"""Make one row of the client's record (lab.schema.CLIENT_RECORD) from a request and its answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
import pandas as pd

from lab.schema import CLIENT_RECORD
from lab.workload.connection import Exchange
from lab.workload.outcome import Outcome, error_message
from lab.workload.plan import PlannedRequest
from lab.workload.tracing import TraceIds

DTYPES = {c.name: "string" if c.dtype == "json" else c.dtype for c in CLIENT_RECORD}
ADDED_COLUMNS = ("first_answer_at", "first_answer_s")  # not in runs that an older lab saved
_FROM_PLAN = (
    "request_id",
    "scenario_id",
    "kind",
    "intent",
    "turn_index",
    "tenant",
    "user_id",
    "session_id",
    "api",
    "model",
)
_FROM_OUTCOME = (
    "error_type",
    "error_message",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "answer",
    "finish_reason",
)
_STATUS = {
    "": "ok",
    "cancelled": "cancelled",
    "timeout": "timeout",
    "predecessor_failed": "cancelled",
}


@dataclass(frozen=True, slots=True)
class Clock:
    """Converts perf_counter seconds to seconds since the epoch, with one offset per run."""

    offset_s: float

    def at(self, perf_s: float) -> float:
        """Return seconds since the epoch."""
        return perf_s + self.offset_s


def merge_errors(exchange: Exchange, outcome: Outcome) -> Outcome:
    """Return the outcome with the exchange's error, which explains an incomplete stream."""
    if exchange.error_type:
        outcome.error_type = exchange.error_type
        outcome.error_message = exchange.error_message
    elif exchange.answer.status != 200:
        outcome.error_type = f"http_{exchange.answer.status}"
        outcome.error_message = error_message(exchange.answer.body)
    return outcome


def row(
    run_id: str,
    request: PlannedRequest,
    ids: TraceIds,
    clock: Clock,
    scheduled: float,
    exchange: Exchange,
    outcome: Outcome,
) -> dict[str, Any]:
    """Return the row; times in the arguments are perf_counter seconds."""
    tokens = outcome.token_times or [math.nan]
    offsets = [round(t - exchange.sent, 6) for t in outcome.token_times]
    return {
        "run_id": run_id,
        "trace_id": ids.trace_hex,
        **{name: getattr(request, name) for name in _FROM_PLAN},
        "scheduled_at": clock.at(scheduled),
        "sent_at": clock.at(exchange.sent),
        "first_token_at": clock.at(tokens[0]),
        "last_token_at": clock.at(tokens[-1]),
        "first_answer_at": clock.at(outcome.first_answer),
        "done_at": clock.at(exchange.done),
        "lag_s": exchange.sent - scheduled,
        "ttft_s": tokens[0] - scheduled,
        "first_answer_s": outcome.first_answer - scheduled,
        "e2e_s": exchange.done - scheduled,
        "chunk_offsets_s": msgspec.json.encode(offsets).decode(),
        "status": _STATUS.get(outcome.error_type, "error"),
        "http_status": exchange.answer.status,
        "prompt": request.text,
        "tool_calls": msgspec.json.encode(outcome.tool_calls).decode(),
        **{name: getattr(outcome, name) for name in _FROM_OUTCOME},
    }


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows with the columns and dtypes of CLIENT_RECORD, sorted by `scheduled_at`."""
    table = pd.DataFrame(rows, columns=list(DTYPES)).astype(DTYPES)
    return table.sort_values("scheduled_at", kind="stable", ignore_index=True)


def with_added_columns(records: pd.DataFrame) -> pd.DataFrame:
    """Return the records with NaN in the columns that runs saved by an older lab do not have."""
    missing = {name: math.nan for name in ADDED_COLUMNS if name not in records}
    return records.assign(**missing)[list(DTYPES)] if missing else records
