"""Native histograms, of a real Prometheus that has them, are read as classic ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from lab import fleet
from lab.frames import histogram_frame
from lab.settings import load_settings
from lab.stores import Prometheus
from tests.stores.native_prometheus import histogram, native_prometheus, sample, series, write

TTFT = "vllm:time_to_first_token_seconds"
LABELS = {"job": "vllm", "instance": "a:8000", "model_name": "m", "engine": "0"}


class Written(NamedTuple):
    url: str
    first: float
    last: float


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    """Two engines, the second with wider buckets, and a gauge."""
    last = time.time() - 5
    first = last - 45
    fine = [histogram(first, [4, 6], -3, 1, 4.1), histogram(last, [18, 22, 2], -3, 1, 17.0)]
    wide = [histogram(first, [1], 0, 0, 0.8), histogram(last, [8, 0, 1], 0, 0, 9.5)]
    gauge = [sample(first, 3), sample(last, 4)]
    with native_prometheus(tmp_path_factory.mktemp("native")) as url:
        write(
            url,
            series({"__name__": TTFT, **LABELS}, histograms=fine),
            series({"__name__": TTFT, **LABELS, "engine": "1"}, histograms=wide),
            series({"__name__": "vllm:num_requests_running", **LABELS}, samples=gauge),
        )
        yield Written(url, first, last)


def test_counts_are_exact_at_the_bounds_that_all_samples_share(store: Written) -> None:
    """Buckets of engine 1 end at powers of 2, those of engine 0 also between them."""
    answer = Prometheus(store.url).samples(TTFT, store.first, store.last)
    frame = histogram_frame(answer, store.first, store.last)
    counts = {float(row.upper): float(row.count) for row in frame.itertuples(index=False)}
    assert counts[0.5] == 16 and counts[1.0] == 2 + 7 and counts[4.0] == 1
    assert sum(counts.values()) == 32 + 8
    assert answer.provenance.warnings == ()


def test_the_fleet_reads_them(store: Written) -> None:
    """The mean and the bucket of each quantile, per engine."""
    window = "/".join(datetime.fromtimestamp(t, UTC).isoformat() for t in (store.first, store.last))
    settings = load_settings(place="recorded", prometheus_url=store.url)
    latency = fleet.look(settings, window).latency.set_index("engine")
    assert latency.loc["engine 0", ["n", "mean_s"]].tolist() == [32, pytest.approx(12.9 / 32)]
    assert latency.loc["engine 0", "p50_low_s"] == pytest.approx(0.35355, rel=1e-4)
    assert latency.loc["engine 0", "p50_high_s"] == 0.5
    assert latency.loc["all", "n"] == 40


def test_prometheus_own_quantile_lies_in_the_bucket(store: Written) -> None:
    """A second source: histogram_quantile of the native histogram itself."""
    promql = f'histogram_quantile(0.5, increase({TTFT}{{engine="0"}}[1m]))'
    (result,) = Prometheus(store.url).query(promql, store.last + 1).metrics
    assert 0.35355 <= float(result["value"][1]) <= 0.5
