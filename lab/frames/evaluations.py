"""Evaluation results that judges write as OpenTelemetry log events (gen_ai.evaluation.result)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from lab.errors import FrameError

EVENT = "gen_ai.evaluation.result"
_COLUMNS = ("trace_id", "span_id", "name", "score", "label", "explanation")
_FIELDS = {
    "name": "gen_ai.evaluation.name",
    "score": "gen_ai.evaluation.score.value",
    "label": "gen_ai.evaluation.score.label",
    "explanation": "gen_ai.evaluation.explanation",
}


def evaluation_frame(*documents: bytes | str) -> pd.DataFrame:
    """Return one row per evaluation in OTLP JSON, in their order: of logs, or of spans' events.

    Spans may be in each form that `lab.stores.Tempo` reads, too.

    Columns: `trace_id` and `span_id` of the model call that was judged (hex digits), `name`,
    `score` (float64, NaN where there is only a label), `label`, `explanation`. Other records and
    events are skipped. Raises FrameError for anything that is not OTLP JSON of logs or spans.
    """
    rows = []
    for document in documents:
        try:
            for record in _records(json.loads(document)):
                rows += _row(record)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
            raise FrameError(
                "these are not logs in OTLP JSON, nor spans",
                got=f"{str(e)[:200]}; it begins with {document[:80]!r}",
                fix="give the file of a collector's file exporter, or the body of /v1/logs",
            ) from e
    frame = pd.DataFrame(rows, columns=list(_COLUMNS))
    return frame.astype({"score": "float64"})


def _records(logs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    trace = logs.get("trace") or logs
    owners = trace.get("resourceSpans", trace.get("batches"))
    if owners is not None:
        yield from _events(owners)
        return
    for owner in logs["resourceLogs"]:
        for scope in owner.get("scopeLogs") or ():
            yield from scope.get("logRecords") or ()


def _events(owners: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the events of all spans as log records have them, with their span's ids."""
    for owner in owners:
        for scope in owner.get("scopeSpans") or ():
            for span in scope.get("spans") or ():
                ids = {name: span.get(name, "") for name in ("traceId", "spanId")}
                for event in span.get("events") or ():
                    yield {**event, **ids, "eventName": event.get("name")}


def _hex_digits(given: str | None, size: int) -> str:
    """Return an id as hex digits, '' for none; Tempo's JSON has ids in base64."""
    text = given or ""
    is_base64 = text.endswith("=") and len(text) == -(-size // 3) * 4
    return base64.b64decode(text).hex() if is_base64 else text.lower()


def _row(record: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return the record's row in a list, or none if it is another event."""
    attributes = record.get("attributes") or ()
    values = {pair["key"]: next(iter(pair["value"].values()), None) for pair in attributes}
    name = record.get("eventName") or values.get("event.name")
    if name != EVENT:
        return []
    ids = (_hex_digits(record.get("traceId"), 16), _hex_digits(record.get("spanId"), 8))
    score = values.get(_FIELDS["score"])
    number = None if score is None else float(score)
    texts = {field: values.get(attribute) for field, attribute in _FIELDS.items()}
    return [(*ids, texts["name"], number, texts["label"], texts["explanation"])]
