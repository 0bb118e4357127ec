"""A direct call's trace is whole only with vLLM's span in it."""

from __future__ import annotations

import pandas as pd

from lab.observation.observation import NO_ENGINE, NOT_SENT, direct_ids, problems, wait_for_spans
from lab.schema import Service, Span
from lab.settings import load_settings
from tests.stores.servers import serving
from tests.stores.test_tempo import spans_of, tempo_with

COLUMNS = [
    "trace_id",
    "span_id",
    "parent_id",
    "service",
    "name",
    "kind",
    "start_at",
    "duration_s",
    "status",
]


def spans(*rows: tuple[str, str, str, str, str]) -> pd.DataFrame:
    """Spans of (trace, id, parent, service, name), at one instant."""
    at = pd.Timestamp("2027-01-01", tz="UTC")
    full = [(*row, "client", at, 0.1, "unset") for row in rows]
    return pd.DataFrame(full, columns=COLUMNS).assign(status_message="")


CLIENT_ONLY = ("a" * 32, "1" * 16, "", Service.CLIENT, Span.CLIENT)
ENGINE = ("b" * 32, "3" * 16, "2" * 16, Service.VLLM, Span.VLLM)
ITS_CLIENT = ("b" * 32, "2" * 16, "", Service.CLIENT, Span.CLIENT)


def test_the_clients_span_alone_is_not_a_whole_trace_of_a_direct_call() -> None:
    """It comes seconds before vLLM's. Agents' traces are judged by their model calls as before."""
    frame = spans(CLIENT_ONLY, ENGINE, ITS_CLIENT)
    assert problems(frame, {"a" * 32, "b" * 32}) == {"a" * 32: NO_ENGINE, "b" * 32: ""}
    assert problems(frame, set()) == {"a" * 32: "", "b" * 32: ""}


def test_a_trace_that_is_not_there_is_not_in_the_answer() -> None:
    """The wait itself says that nothing of it has arrived."""
    assert problems(spans(CLIENT_ONLY), {"c" * 32}) == {"a" * 32: ""}


def test_which_requests_were_direct() -> None:
    """Answered, and through the chat API."""
    records = pd.DataFrame(
        {
            "trace_id": ["x", "y", "z"],
            "api": ["chat", "chat", "responses"],
            "status": ["ok", "error", "ok"],
        }
    )
    assert direct_ids(records) == {"x"}


def test_a_request_that_was_never_sent_is_not_waited_for() -> None:
    """The store is not queried for it; a request that failed otherwise has a trace."""
    numbers = (1, 2, 3)
    ids = [f"{number:032x}" for number in numbers]
    records = pd.DataFrame(
        {
            "trace_id": ids,
            "api": "responses",
            "status": ["ok", "error", "cancelled"],
            "sent_at": [1.0, None, None],
        }
    )
    traces = {number: spans_of(number, (1, 0)) for number in numbers[:2]}
    with serving(tempo_with(traces)) as server:
        settings = load_settings(tempo_url=server.url, running_stack=False)
        frame, arrival = wait_for_spans(settings, records)
    assert set(frame.trace_id) == set(arrival.complete) == set(ids[:2])
    assert arrival.incomplete == {ids[2]: NOT_SENT}
    assert not any(ids[2] in path for path, _ in server.requests)
