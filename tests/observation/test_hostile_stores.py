"""Every function and verb that reads the stores or the tool server fails on any misbehaviour."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import doctor, fleet, investigation, observation, places, recording
from lab.cli import alerts, app, attach, compare, investigate
from lab.cli import doctor as doctor_verb
from lab.cli import fleet as fleet_verb
from lab.cli import record as record_verb
from lab.comparison import sample
from lab.errors import LabError
from lab.observation import Observation
from lab.settings import Settings, load_settings
from lab.stores import Prometheus
from lab.workload import Plan, Poisson, Run
from tests.frames.telemetry import records
from tests.stores.hostile import MISBEHAVIOURS, misbehaving

START = 1_767_225_600.0
WINDOW = "2026-01-01T00:00:00Z/2026-01-01T00:00:10Z"
RECORDS = records(1, scheduled_at=START, done_at=START + 1.0)
RUN = Run("run", (START, START + 10.0), RECORDS, Plan((), Poisson(1.0), 0))
METRIC = "vllm:num_requests_running"

Call = Callable[[Settings], object]


def observed(settings: Settings) -> Observation:
    return Observation(RUN, settings)


def require(findings: list[doctor.Finding]) -> None:
    """Raise LabError where there is any finding: a healthy store has none."""
    if findings:
        raise LabError(findings[0].evidence)


# Function -> how to call it. `test_every_client_is_in_the_tables` looks for new ones.
FUNCTIONS: dict[object, Call] = {
    observation.observe: lambda s: observation.observe(RUN, s, wait_s=0.1).arrival.require(),
    observation.wait_for_spans: lambda s: observation.wait_for_spans(s, RECORDS, 0.1)[1].require(),
    observation.drive: lambda s: observation.drive(s, n_requests=1, window=WINDOW),
    places.tools_frame: places.tools_frame,
    fleet.look: lambda s: fleet.look(s, WINDOW),
    fleet.look_at: lambda s: fleet.look_at(Prometheus(s), START, START + 10),
    investigation.investigate: lambda s: investigation.investigate(s, WINDOW),
    investigation.gather: lambda s: investigation.gather(s, RUN.window, (START - 60, START)),
    sample.load_sample: lambda s: sample.load_sample(WINDOW, s),
    recording.record: lambda s: recording.record(s, "mine", START, START + 10),
    attach.look_at_prometheus: attach.look_at_prometheus,
    attach.look_at_tempo: attach.look_at_tempo,
    attach.scrape_job: attach.scrape_job,
    doctor.examine: lambda s: require(doctor.examine([s.prometheus_url], s)),
}
METHODS: dict[str, Call] = {
    "of_vllm": lambda s: observed(s).of_vllm(METRIC),
    "scraped_until": lambda s: observed(s).scraped_until,
    "scraped": lambda s: observed(s).scraped("vllm"),
    "increases": lambda s: observed(s).increases(METRIC),
    "increase": lambda s: observed(s).increase(METRIC),
    "samples": lambda s: observed(s).samples(METRIC),
    "histogram": lambda s: observed(s).histogram("vllm:time_to_first_token_seconds"),
}
# Verbs print what is wrong, and have an exit status that is not 0.
URL = "{url}"
VERBS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "attach": (attach.main, ["--prometheus", URL, "--tempo", URL]),
    "investigate": (investigate.main, [WINDOW]),
    "compare": (compare.main, [WINDOW, WINDOW]),
    "doctor": (doctor_verb.main, [URL]),
    "fleet": (fleet_verb.main, ["--window", WINDOW]),
    "alerts": (alerts.main, []),
    "record": (record_verb.main, ["mine", "--start", WINDOW[:20], "--end", WINDOW[21:]]),
}
# They do not read a store; or what they call is in the tables.
NOT_CLIENTS = {
    "prometheus",
    "tempo",
    "place_of",
    "read_target",
    "judge_requests",
    "run_shards",
    "stand_up",
    "status_frame",
    "rehearse",
    "judge",
}
VERBS_ELSEWHERE = {"run", "report", "load", "incident", "tracestore", "bench"}
VALID = {
    ("data null", "scrape_job"),  # Prometheus sends null for an empty list
    ("data null", "of_vllm"),
}


def test_every_client_is_in_the_tables() -> None:
    """Functions with settings or a store among their parameters, methods, and verbs."""
    clients = set()
    for module in (observation, places, fleet, investigation, sample, recording, attach, doctor):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            parameters = str(inspect.signature(function))
            is_here = function.__module__.startswith(module.__name__) and not name.startswith("_")
            if is_here and ("Settings" in parameters or "Store" in parameters):
                clients.add(function)
    missing = {f.__name__ for f in clients - set(FUNCTIONS)} - NOT_CLIENTS
    methods = {name for name in vars(Observation) if not name.startswith("_")}
    assert missing == set()
    assert methods - set(METHODS) - NOT_CLIENTS == set()
    assert set(app.DELEGATED) - set(VERBS) == VERBS_ELSEWHERE


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    """Return settings whose servers are all at one address; responses are limited to 4 MiB."""
    monkeypatch.setattr("lab.stores.http.MAX_BYTES", 4 << 20)
    monkeypatch.setattr("lab.stores.prometheus.POLL_S", 0.01)
    monkeypatch.setattr("lab.stores.tempo.POLL_S", 0.01)
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("LAB_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LAB_TIMEOUT_S", "0.1")

    def at(url: str) -> Settings:
        for name in ("PROMETHEUS", "TEMPO", "MCP", "VLLM", "LLAMA_STACK"):
            monkeypatch.setenv(f"LAB_{name}_URL", url)
        return load_settings()

    return at


@pytest.mark.slow
@pytest.mark.parametrize("kind", MISBEHAVIOURS)
def test_every_misbehaviour_is_a_lab_error(
    kind: str, settings: Callable[[str], Settings], capsys: pytest.CaptureFixture
) -> None:
    """There is no other exception, no traceback and no empty result, within a few time limits."""
    failures = []
    calls = {f.__name__: call for f, call in FUNCTIONS.items()} | METHODS
    with misbehaving(kind) as url:
        there = settings(url)
        for name, call in calls.items():
            started = time.monotonic()
            try:
                result = call(there)
                if (kind, name) not in VALID:
                    failures.append(f"{name}: no error: {str(result)[:300]}")
            except LabError:
                pass
            except BaseException as e:  # noqa: BLE001  the failure that this test looks for
                failures.append(f"{name}: {type(e).__name__}: {str(e)[:200]}")
            if (took_s := time.monotonic() - started) > 60:
                failures.append(f"{name}: {took_s:.1f} s")
        for name, (main, arguments) in VERBS.items():
            try:
                status = main([text.format(url=url) for text in arguments])
                output = capsys.readouterr().out
                if status == 0 and (kind, name) not in VALID:
                    failures.append(f"lab {name}: no error: {output[-300:]}")
            except LabError:
                pass
            except BaseException as e:  # noqa: BLE001
                failures.append(f"lab {name}: {type(e).__name__}: {str(e)[:200]}")
    assert not failures, "\n".join(failures)
