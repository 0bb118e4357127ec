"""Native histograms as the classic series that they stand for: _bucket with `le`, _sum and _count.

A sample names its non-empty buckets only, and their width may change in between. The bounds of the
classic series are those that divide no bucket of any sample, so that every count is exact.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from lab.stores.answers import Series


class _Histogram(msgspec.Struct):
    count: str = "0"
    sum: str = "0"
    buckets: list[tuple[int, str, str, str]] = []


Sample = tuple[float, _Histogram]
decode_samples = msgspec.json.Decoder(list[Sample]).decode


def classic_series(
    name: str, labels: Sequence[dict[str, str]], bodies: Sequence[bytes]
) -> list[Series]:
    """Return the classic series of native ones of one name, with the same bounds for all of them.

    `labels` and `bodies` (JSON samples) are those of each series. Raises msgspec.DecodeError or
    ValueError for samples in another format.
    """
    samples = [decode_samples(body) for body in bodies]
    bounds = _common_bounds([histogram for each in samples for _, histogram in each])
    series = []
    for own, each in zip(labels, samples, strict=True):
        series.append(_series(own, f"{name}_sum", [(at, h.sum) for at, h in each]))
        series.append(_series(own, f"{name}_count", [(at, h.count) for at, h in each]))
        for bound in bounds:
            values = [(at, repr(_below(h, bound))) for at, h in each]
            series.append(_series(own | {"le": repr(bound)}, f"{name}_bucket", values))
        infinite = own | {"le": "+Inf"}
        series.append(_series(infinite, f"{name}_bucket", [(at, h.count) for at, h in each]))
    return series


def _series(labels: dict[str, str], name: str, values: list[tuple[float, str]]) -> Series:
    return Series({**labels, "__name__": name}, (msgspec.Raw(json.dumps(values).encode()),))


def _common_bounds(histograms: Sequence[_Histogram]) -> list[float]:
    """Return the finite edges of buckets that lie within no other bucket, sorted."""
    intervals = {(float(low), float(high)) for h in histograms for _, low, high, _ in h.buckets}
    edges = sorted({edge for interval in intervals for edge in interval})
    inside: set[float] = set()
    for low, high in intervals:
        inside.update(edge for edge in edges if low < edge < high)
    return [edge for edge in edges if edge not in inside and abs(edge) != float("inf")]


def _below(histogram: _Histogram, bound: float) -> float:
    return sum(
        (float(count) for _, _, high, count in histogram.buckets if float(high) <= bound), 0.0
    )
