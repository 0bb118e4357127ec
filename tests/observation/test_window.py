"""A window of time as a run: how it is written, what is kept, and what is reported as missing."""

from __future__ import annotations

import json

import pytest

import lab
from lab import cost, frames, latency
from lab.errors import NoData, StoreError, WorkloadError
from lab.observation.window import ARRIVED_S, QUERY, parse_window, window_run
from lab.schema import Service, Span
from lab.settings import Settings, load_settings
from lab.tracestore.traceql.parse import parse
from tests.frames.telemetry import SERVER, T0, agent_request, document, span
from tests.stores.servers import Reply, Told, telling

NOW = T0 + 1000.0
WINDOW = "2027-01-15T08:00:00Z/2027-01-15T08:01:00Z"  # T0 and a minute


@pytest.fixture
def tempo(monkeypatch: pytest.MonkeyPatch):
    """A real Tempo's answers: trace 1 begins at T0, trace 2 half a minute before."""
    monkeypatch.setattr("lab.observation.window.time.time", lambda: NOW)
    made = {f"{n:032x}": agent_request(n, shift_s=s) for n, s in ((1, 0.0), (2, -30.0))}

    def answer(path: str, params: dict[str, str]) -> Reply:
        if path == "/api/search":
            return Reply(
                json.dumps(
                    {"traces": [{"traceID": i} for i in list(made)[: int(params["limit"])]]}
                ).encode()
            )
        if path.startswith("/api/v2/traces/"):
            spans = [s for s in made[path.rsplit("/", 1)[1]] if s[0] != Service.CLIENT]
            return Reply(b'{"trace":' + document(*spans) + b"}")
        return Reply(b"no", 404)

    with telling(answer) as told:
        yield told


def settings_of(told: Told) -> Settings:
    return load_settings(tempo_url=told.url)


def test_a_window_is_written_in_two_ways() -> None:
    """An interval with time zones, or the last minutes without the seconds that still arrive."""
    assert parse_window(WINDOW, NOW) == (T0, T0 + 60)
    assert parse_window("2027-01-15T09:00:00+01:00/2027-01-15T08:01:00Z", NOW) == (T0, T0 + 60)
    assert parse_window("last 15m", NOW) == (NOW - ARRIVED_S - 900, NOW - ARRIVED_S)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("15m", "not a window"),
        ("last week", "not a window"),
        ("a/b", "not a window"),
        ("2027-01-15T08:00:00/2027-01-15T08:01:00", "no time zone"),
        ("2027-01-15T08:01:00Z/2027-01-15T08:00:00Z", "does not end after its start"),
        ("2027-01-15T08:00:00Z/2027-01-15T09:00:00Z", "ends in the future"),
    ],
)
def test_what_is_no_window_is_refused(text: str, message: str) -> None:
    """With the forms that there are."""
    with pytest.raises(WorkloadError, match=f"{message}(.|\n)*START/END"):
        parse_window(text, NOW)


def test_requests_that_began_in_the_window(tempo: Told) -> None:
    """One that began before it is not of it; nothing is sent; the request frame adds up."""
    settings = settings_of(tempo)
    run = lab.drive(settings, n_requests=60, window=WINDOW)
    assert run.records["trace_id"].tolist() == [f"{1:032x}"] and run.not_sent == 0
    assert run.window == (T0, T0 + 60) and "nothing was sent" in repr(run)
    seen = lab.observe(run, settings)
    assert seen.arrival.complete == (f"{1:032x}",) and not seen.arrival.incomplete
    assert (
        seen.requests.loc[0, "e2e_s"] == pytest.approx(0.95)
        and seen.requests.loc[0, "trace_complete"]
    )
    assert seen.requests[["right_tool", "answer_states"]].isna().all(axis=None)
    turns = frames.turn_frame(seen.requests, seen.spans)
    assert (
        turns["tenant"].unique().tolist() == ["(unknown)"] and turns["prompt_tokens"].sum() == 300
    )


def test_what_a_window_cannot_have_is_reported(tempo: Told, capsys: pytest.CaptureFixture) -> None:
    """A reason is printed, and nothing fails: no chunk, no truth, no experiment, no client."""
    run = window_run(settings_of(tempo), WINDOW)
    seen = lab.observe(run, settings_of(tempo))
    assert not seen.has("chunks") and "no data on the client's chunks" in capsys.readouterr().out
    calls = latency.chat_calls(seen)
    assert len(calls) == 2 and calls["ttft_s"].isna().all()
    assert cost.needed_turns(seen.requests).empty
    with pytest.raises(WorkloadError, match="lab record"):
        run.save("anywhere")


def test_what_a_direct_call_found_in_the_cache_is_not_made_up(
    tempo: Told, capsys: pytest.CaptureFixture
) -> None:
    """Unknown beside calls of which it is known; otherwise an upper bound, which is printed."""
    settings = settings_of(tempo)
    run = window_run(settings, WINDOW)
    seen = lab.observe(run, settings)
    turns = frames.turn_frame(seen.requests, run.spans)
    assert cost.fresh_tokens(seen, turns).tolist() == [84, 136]
    turns.loc[0, "api"] = "chat"
    assert cost.fresh_tokens(seen, turns).isna().tolist() == [True, False]
    assert (
        cost.fresh_tokens(seen, turns[:1]).tolist() == [84]
        and "full prompt lengths" in capsys.readouterr().out
    )
    assert "1 of them do not say what was in the prefix cache" in repr(run)


def test_an_empty_window_says_what_was_looked_for(tempo: Told) -> None:
    """No request in it, or none to that model: where, when, and what to do."""
    settings = settings_of(tempo)
    with pytest.raises(NoData, match=r"no request began(.|\n)*begun before(.|\n)*LAB_TEMPO_URL"):
        window_run(settings, "2027-01-15T08:02:00Z/2027-01-15T08:03:00Z")
    with pytest.raises(
        NoData, match=r"no request to canary(.|\n)*1 requests, to (no named model|lab-model)"
    ):
        window_run(settings, WINDOW, model="canary")


def test_too_many_requests_are_refused(tempo: Told) -> None:
    """A Tempo gives some of them, by its own choice: any number of these would be wrong."""
    with pytest.raises(StoreError, match="more than 1 requests(.|\n)*shorter window"):
        window_run(settings_of(tempo), WINDOW, max_traces=1)


def test_a_window_stands_nothing_up(monkeypatch: pytest.MonkeyPatch, tempo: Told) -> None:
    """Somebody who looks at their own servers does not want a lab."""
    monkeypatch.setattr("lab.stack.up", lambda *_, **__: pytest.fail("a lab was stood up"))
    monkeypatch.setenv("LAB_TEMPO_URL", tempo.url)
    assert lab.stand_up(window=WINDOW).endpoint("tempo") == tempo.url


def test_the_use_of_work_is_not_known_without_truth(tempo: Told) -> None:
    """The right answers to a window's requests are not known, so no call is called useful."""
    settings = settings_of(tempo)
    seen = lab.observe(window_run(settings, WINDOW), settings)
    turns = frames.turn_frame(seen.requests, seen.spans)
    work = cost.classify_work(turns, seen.requests, cost.needed_turns(seen.requests))
    assert set(work) == {"not known"}


def told(*traces: list[tuple[str, dict]]):
    """Return a Tempo with these traces, the first of which has the id 1."""
    made = {f"{n:032x}": spans for n, spans in enumerate(traces, start=1)}

    def answer(path: str, params: dict[str, str]) -> Reply:
        if path == "/api/search":
            # As Tempo: a query finds what it names, an empty one finds everything.
            known = [i for i, spans in made.items() if spans[0][0] != "shop"]
            ids = list(made) if params["q"] == "{}" else known
            return Reply(json.dumps({"traces": [_summary(i, made[i]) for i in ids]}).encode())
        if path.startswith("/api/v2/traces/"):
            return Reply(b'{"trace":' + document(*made[path.rsplit("/", 1)[1]]) + b"}")
        return Reply(b"no", 404)

    return telling(answer)


def _summary(trace_id: str, spans: list[tuple[str, dict]]) -> dict[str, str]:
    service, root = spans[0]
    return {"traceID": trace_id, "rootServiceName": service, "rootTraceName": root["name"]}


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.observation.window.time.time", lambda: NOW)


def test_requests_of_another_dialect_are_requests(now: None) -> None:
    """OpenInference spans of an application, without Llama Stack and vLLM."""
    usage = {"llm.token_count.prompt": 900, "llm.token_count.completion": 60}
    chain = {"openinference.span.kind": "CHAIN", "user.id": "u-1"}
    spans = [
        span(1, 0, "app", "AgentExecutor", 0.0, 0.9, **chain),
        span(2, 1, "app", "ChatOpenAI", 0.1, 0.6, **{"openinference.span.kind": "LLM"}, **usage),
    ]
    with told(spans) as tempo:
        run = window_run(settings_of(tempo), WINDOW)
        seen = lab.observe(run, settings_of(tempo))
    assert run.records[["user_id", "prompt_tokens"]].to_numpy().tolist() == [["u-1", 900]]
    assert seen.requests["trace_complete"].all() and seen.requests["turns"].tolist() == [1]
    assert "1 traces checked, 0 excluded from phases" in repr(run)


def test_traces_of_an_unknown_kind_are_named(now: None) -> None:
    """They never count as zero requests: the error names what there is, and what to do."""
    with told([span(1, 0, "shop", "GET /cart", 0.0, 0.1, SERVER)]) as tempo:
        with pytest.raises(
            NoData, match=r"no request in them(.|\n)*shop: GET /cart(.|\n)*dialects"
        ):
            window_run(settings_of(tempo), WINDOW)


def test_spans_of_others_exclude_a_trace(now: None) -> None:
    """Its phases are marked as unusable, and the run counts it."""
    late = span(90, 104, Service.VLLM, Span.VLLM, 40.0, 41.0, SERVER, trace=1)
    with told([*agent_request(1), late]) as tempo:
        run = window_run(settings_of(tempo), WINDOW)
        arrival = lab.observe(run, settings_of(tempo)).arrival
    assert list(arrival.incomplete.values()) == ["1 of its spans belong to other requests"]
    assert "1 excluded from phases" in repr(run) and "1 with spans of other requests" in repr(run)


def test_the_query_is_traceql() -> None:
    """By the grammar of the lab's own store, which is Tempo's."""
    assert parse(QUERY)
