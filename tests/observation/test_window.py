"""A window of time is analysed as a run: notation, included requests, missing data."""

from __future__ import annotations

import json

import pytest

import lab
from lab import cost, frames, latency
from lab.errors import NoData, StoreError, WorkloadError
from lab.observation import judge_requests, parse_tool_calls
from lab.observation.window import ARRIVED_S, QUERY, parse_window, window_run
from lab.schema import Service, Span
from lab.settings import Settings, load_settings
from lab.tracestore.traceql.parse import parse
from lab.world import make_scenarios
from tests.frames.telemetry import SERVER, T0, agent_request, document, span
from tests.stores.servers import RecordingServer, Reply, serving

NOW = T0 + 1000.0
WINDOW = "2027-01-15T08:00:00Z/2027-01-15T08:01:00Z"  # T0 and a minute


@pytest.fixture
def tempo(monkeypatch: pytest.MonkeyPatch):
    """Respond like a Tempo in which trace 1 begins at T0 and trace 2 half a minute before."""
    monkeypatch.setattr("lab.observation.window.time.time", lambda: NOW)
    spans_by_trace = {f"{n:032x}": agent_request(n, shift_s=s) for n, s in ((1, 0.0), (2, -30.0))}

    def respond(path: str, params: dict[str, str]) -> Reply:
        if path == "/api/search":
            return Reply(
                json.dumps(
                    {
                        "traces": [
                            {"traceID": i} for i in list(spans_by_trace)[: int(params["limit"])]
                        ]
                    }
                ).encode()
            )
        if path.startswith("/api/v2/traces/"):
            spans = [s for s in spans_by_trace[path.rsplit("/", 1)[1]] if s[0] != Service.CLIENT]
            return Reply(b'{"trace":' + document(*spans) + b"}")
        return Reply(b"no", 404)

    with serving(respond) as server:
        yield server


def settings_of(server: RecordingServer) -> Settings:
    return load_settings(tempo_url=server.url)


def test_a_window_has_two_notations() -> None:
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
def test_an_invalid_window_is_refused(text: str, message: str) -> None:
    """The error lists the accepted notations."""
    with pytest.raises(WorkloadError, match=f"{message}(.|\n)*START/END"):
        parse_window(text, NOW)


def test_requests_that_began_in_the_window(tempo: RecordingServer) -> None:
    """Requests that began earlier are excluded, nothing is sent, and the phases add up."""
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


def test_a_window_lacks_what_only_a_client_knows(tempo: RecordingServer) -> None:
    """Nothing fails without chunks, ground truth and a client: the columns are NA."""
    run = window_run(settings_of(tempo), WINDOW)
    seen = lab.observe(run, settings_of(tempo))
    assert len(latency.engine_calls(seen.spans)) == 2 and seen.requests["ttft_s"].isna().all()
    assert cost.needed_turns(seen.requests).empty
    with pytest.raises(WorkloadError, match="lab record"):
        run.save("anywhere")


def test_a_failed_request_of_a_window_is_not_judged(tempo: RecordingServer) -> None:
    """Its tool calls are not known, even where its scenario is."""
    seen = lab.observe(window_run(settings_of(tempo), WINDOW), settings_of(tempo))
    scenario = make_scenarios(1, seed=3)[0].id
    failed = seen.run.records.assign(status="error", scenario_id=scenario, turn_index=0)
    assert failed["tool_calls"].isna().all()
    judged = judge_requests(failed, seen.spans)
    assert judged["request_id"].tolist() == failed["request_id"].tolist()
    assert judged[["right_tool", "answer_states"]].isna().all(axis=None)
    assert judged["called_tools"].isna().all()
    assert [parse_tool_calls(calls) for calls in failed["tool_calls"]] == [[]]


def test_unknown_cache_hits_are_counted(tempo: RecordingServer) -> None:
    """No span of a model call's caller says what was cached; the run reports how many those are."""
    run = window_run(settings_of(tempo), WINDOW)
    assert "1 of them do not say what was in the prefix cache" in repr(run)


def test_the_error_for_an_empty_window_explains_the_search(tempo: RecordingServer) -> None:
    """A window without a request, or without one to the model, is an error with a fix."""
    settings = settings_of(tempo)
    with pytest.raises(NoData, match=r"no request began(.|\n)*begun before(.|\n)*LAB_TEMPO_URL"):
        window_run(settings, "2027-01-15T08:02:00Z/2027-01-15T08:03:00Z")
    with pytest.raises(
        NoData, match=r"no request to canary(.|\n)*1 requests, to (no named model|lab-model)"
    ):
        window_run(settings, WINDOW, model="canary")


def test_too_many_requests_are_refused(tempo: RecordingServer) -> None:
    """Tempo would return an arbitrary selection, from which every figure would be wrong."""
    with pytest.raises(StoreError, match="more than 1 requests(.|\n)*shorter window"):
        window_run(settings_of(tempo), WINDOW, max_traces=1)


def test_a_window_starts_no_lab(monkeypatch: pytest.MonkeyPatch, tempo: RecordingServer) -> None:
    """Analysing existing servers does not start the lab."""
    monkeypatch.setattr("lab.stack.up", lambda *_, **__: pytest.fail("a lab was stood up"))
    monkeypatch.setenv("LAB_TEMPO_URL", tempo.url)
    assert lab.stand_up(window=WINDOW).endpoint("tempo") == tempo.url


def test_useful_work_is_unknown_without_ground_truth(tempo: RecordingServer) -> None:
    """Without the right answers no call of a window is classified as useful."""
    settings = settings_of(tempo)
    seen = lab.observe(window_run(settings, WINDOW), settings)
    turns = frames.turn_frame(seen.requests, seen.spans)
    work = cost.classify_work(turns, seen.requests, cost.needed_turns(seen.requests))
    assert set(work) == {"not known"}


def told(*traces: list[tuple[str, dict]], refused: dict[int, str] | None = None):
    """Return a Tempo with these traces, the first of which has the id 1, refusing some by words."""
    made = {f"{n:032x}": spans for n, spans in enumerate(traces, start=1)}

    def answer(path: str, params: dict[str, str]) -> Reply:
        if path == "/api/search":
            # As Tempo: a query finds what it names, an empty one finds everything.
            known = [i for i, spans in made.items() if spans[0][0] != "shop"]
            ids = list(made) if params["q"] == "{}" else known
            return Reply(json.dumps({"traces": [_summary(i, made[i]) for i in ids]}).encode())
        if path.startswith("/api/v2/traces/"):
            if words := (refused or {}).get(int(path.rsplit("/", 1)[1], 16)):
                return Reply(words.encode(), 422)
            return Reply(b'{"trace":' + document(*made[path.rsplit("/", 1)[1]]) + b"}")
        return Reply(b"no", 404)

    return serving(answer)


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
    with (
        told([span(1, 0, "shop", "GET /cart", 0.0, 0.1, SERVER)]) as tempo,
        pytest.raises(NoData, match=r"no request in them(.|\n)*shop: GET /cart(.|\n)*dialects"),
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


def test_a_refused_trace_is_left_out_and_named(now: None) -> None:
    """The sanity checks have the store's own words, and the other requests are read."""
    words = "trace exceeds max size (max bytes: 5000000)"
    with told(agent_request(1), agent_request(2), refused={2: words}) as tempo:
        run = window_run(settings_of(tempo), WINDOW)
    assert run.records["trace_id"].tolist() == [f"{1:032x}"]
    assert list(run.sanity.refused) == [f"{2:032x}"]
    assert "1 more were left out, which the store did not return: Tempo refused" in repr(run)
    assert words in repr(run)


def test_the_query_is_traceql() -> None:
    """By the grammar of the lab's own store, which is Tempo's."""
    assert parse(QUERY)
