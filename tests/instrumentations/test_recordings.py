"""One scripted agent, recorded with each library that writes GenAI spans: equal tables.

`make instrumentations` records the spans again, with a real vLLM (record.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lab.frames import records_from_spans, request_frame, spans_frame, tool_frame
from lab.frames.completeness import shapes_of, usage
from lab.stores import read_otlp_json

DATA = Path(__file__).resolve().parent.parent / "data" / "instrumentations"
PROVENANCE = json.loads((DATA / "provenance.json").read_text())
LIBRARIES = ["genai", "openinference", "openllmetry", "litellm"]


def spans_of(library: str) -> pd.DataFrame:
    return spans_frame(read_otlp_json((DATA / f"{library}.json").read_bytes()))


def model_calls(library: str) -> pd.DataFrame:
    """Return the tokens of each model call, in order."""
    spans = spans_of(library)
    shapes = shapes_of(spans)
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
    table = pd.DataFrame({name: usage(spans, shapes, name) for name in names})
    table["start_at"] = spans["start_at"]
    return table[shapes.turn].sort_values("start_at")[list(names)].reset_index(drop=True)


def tools(library: str) -> pd.DataFrame:
    """Return the tool calls; the ids of calls are random, and the text of JSON is free."""
    columns = ["tool", "arguments", "result", "failed", "status_error"]
    table = tool_frame(spans_of(library))[columns]
    for column in ("arguments", "result"):
        table[column] = [plain(text) for text in table[column]]
    return table


def plain(text: str) -> Any:
    """Return what a library wrote: the small model's arguments may be JSON, or a mere text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def requests(library: str) -> pd.DataFrame:
    spans = spans_of(library)
    frame = request_frame(records_from_spans(spans), spans)
    columns = ["status", "turns", "tool_runs", "tool_failures", "trace_complete"]
    return frame[columns].astype({"status": str})


def test_every_library_is_recorded_with_its_version_and_date() -> None:
    """Recorded data states when, and from which versions."""
    assert set(PROVENANCE) == set(LIBRARIES)
    for entry in PROVENANCE.values():
        assert all(entry[name] for name in ("recorded_on", "package", "version", "server"))


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_tables_are_those_of_opentelemetrys_own_library(library: str) -> None:
    """Three model calls with the server's tokens, two tool calls, one of which failed."""
    pd.testing.assert_frame_equal(model_calls(library), model_calls("genai"))
    pd.testing.assert_frame_equal(tools(library), tools("genai"))
    pd.testing.assert_frame_equal(requests(library), requests("genai"))


def test_the_tables_are_complete() -> None:
    """Arguments and results are in the messages only, and so is the failure.

    The server did not report cached and reasoning tokens: they are not known, not 0.
    """
    calls = model_calls("genai")
    assert len(calls) == 3 and (calls[["prompt_tokens", "completion_tokens"]] > 0).all().all()
    assert calls[["cached_tokens", "reasoning_tokens"]].isna().all().all()

    order, cancel = tools("genai").to_dict("records")
    assert order["tool"] == "get_order" and order["arguments"] == {"o": ""}
    assert order["result"]["status"] == "shipped" and not order["failed"]
    assert cancel["tool"] == "cancel_order" and cancel["arguments"] == "state"
    assert cancel["failed"] and not cancel["status_error"]

    (request,) = requests("genai").to_dict("records")
    assert request["turns"] == 3
    assert request["tool_runs"] == 2
    assert request["tool_failures"] == 1
