"""Every public function of the clients ends in time with a LabError on any misbehaviour."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab.errors import LabError, StoreUnreachable
from lab.frames import histogram_frame, increase_exact, series_frame, spans_frame
from lab.stores import Prometheus, Tempo
from lab.stores.otlp import missing_parents, span_counts
from tests.stores.hostile import MISBEHAVIOURS, misbehaving

TIMEOUT_S = 0.4
ID = f"{1:032x}"


def all_of(*functions: Callable) -> Callable[[object], None]:
    def call(answer: object) -> None:
        for function in functions:
            function(answer)

    return call


read_metrics = all_of(
    lambda a: a.require(),
    lambda a: a.metrics,
    series_frame,
    lambda a: increase_exact(a, 0, 10),
    lambda a: histogram_frame(a, 0, 10),
)
read_spans = all_of(spans_frame, span_counts, missing_parents, lambda a: a.documents)

PROMETHEUS: dict[str, Callable[[Prometheus], object]] = {
    "query": lambda p: read_metrics(p.query("up")),
    "range": lambda p: read_metrics(p.range("up", 0, 10, 1)),
    "long range": lambda p: read_metrics(p.range("up", 0, 9_000, 1)),
    "stream": lambda p: series_frame(p.stream("up", 0, 9_000, 1)),
    "samples": lambda p: read_metrics(p.samples("up", 0, 10)),
    "metric_names": lambda p: p.metric_names(),
    "label_values": lambda p: p.label_values("job", match="up"),
    "first_present": lambda p: p.first_present("a", "b"),
    "present": lambda p: p.present("vllm:kv_cache_usage_perc"),
    "targets": lambda p: p.targets(),
    "alerts": lambda p: p.alerts(),
    "rules": lambda p: p.rules(),
    "wait_for_scrape": lambda p: p.wait_for_scrape(10.0, timeout_s=0.1),
    "wait_for_scrape of a job": lambda p: p.wait_for_scrape(10.0, jobs=["a"], timeout_s=0.1),
}
TEMPO: dict[str, Callable[[Tempo], object]] = {
    "search": lambda t: t.search("{}", 0, 10).require(),
    "trace": lambda t: read_spans(t.trace(ID)),
    "traces": lambda t: read_spans(t.traces([ID, "2"])),
    "spans": lambda t: read_spans(t.spans("{}", 0, 10)),
    "wait_for_traces": lambda t: t.wait_for_traces([ID], timeout_s=0.1).require(),
    "wait for a window": lambda t: t.wait_for_traces([ID], timeout_s=0.1, window=(0, 10)).require(),
    "streams": lambda t: t.streams or t.search("{}", 0, 10),  # a Tempo may lack the path
}
# Valid responses for some functions, which may use them.
VALID = {
    ("data null", "metric_names"),  # Prometheus sends null for an empty list
    ("data null", "label_values"),
    ("no targets", "targets"),
    ("an unknown kind", "wait_for_traces"),  # its ids are valid
    ("an unknown kind", "wait for a window"),
}


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit responses to 4 MiB and shorten the polling intervals."""
    monkeypatch.setattr("lab.stores.http.MAX_BYTES", 4 << 20)
    monkeypatch.setattr("lab.stores.prometheus.POLL_S", 0.01)
    monkeypatch.setattr("lab.stores.tempo.POLL_S", 0.01)


@pytest.mark.parametrize(("client", "table"), [(Prometheus, PROMETHEUS), (Tempo, TEMPO)])
def test_every_public_function_is_in_the_tables(client: type, table: dict[str, Callable]) -> None:
    """A new one is to be tried against every misbehaviour, too."""
    methods = {name for name in vars(client) if not name.startswith("_")} - {"NAME"}
    assert methods <= set(table)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MISBEHAVIOURS)
def test_every_misbehaviour_is_a_lab_error(kind: str) -> None:
    """There is no other exception, no warning and no success, within a few time limits."""
    cases = [(Prometheus, *item) for item in PROMETHEUS.items()]
    cases += [(Tempo, *item) for item in TEMPO.items()]
    with (
        misbehaving(kind) as url,
        warnings.catch_warnings(),
        ThreadPoolExecutor(8) as pool,  # most of them wait for a time limit
    ):
        warnings.simplefilter("error")
        failures = list(pool.map(lambda case: failure_of(kind, url, *case), cases))
    assert not any(failures), "\n".join(filter(None, failures))


def failure_of(kind: str, url: str, make: Callable, name: str, function: Callable) -> str:
    """Return what is wrong with how a function ended; '' for a LabError in time."""
    started = time.monotonic()
    try:
        function(make(url, timeout_s=TIMEOUT_S))
        if (kind, name) not in VALID:
            return f"{name}: no error"
    except LabError:
        pass
    except BaseException as e:  # noqa: BLE001  the failure that this test looks for
        return f"{name}: {type(e).__name__}: {str(e)[:200]}"
    took_s = time.monotonic() - started
    return f"{name}: {took_s:.1f} s" if took_s > 60 + 10 * TIMEOUT_S else ""


@pytest.mark.parametrize("kind", ["slow body", "slow head"])
def test_the_time_limit_applies_to_the_whole_response(kind: str) -> None:
    """A server that sends a byte now and then is given up after the time limit."""
    with misbehaving(kind) as url, pytest.raises(StoreUnreachable, match="in time"):
        Prometheus(url, timeout_s=TIMEOUT_S).query("up")


@pytest.mark.parametrize("kind", ["endless body", "a gzip bomb"])
def test_a_response_has_a_maximum_size(kind: str) -> None:
    """Reading stops at the maximum size."""
    with misbehaving(kind) as url, pytest.raises(StoreUnreachable, match="too large"):
        Prometheus(url, timeout_s=120).query("up")
