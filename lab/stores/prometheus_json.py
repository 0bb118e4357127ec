"""Prometheus' JSON: labels are decoded, samples are left as they are.

Native histograms become the classic series that they stand for: _bucket with `le`, _sum and _count.
A sample names its non-empty buckets only, and their width may change in between. The bounds of the
classic series are those that divide no bucket of any sample, so that every count is exact.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import msgspec

from lab.errors import StoreError
from lab.stores.answers import MetricAnswer, Series

_ABSENT = msgspec.Raw()
_REPLICA_LABELS = ("prometheus_replica", "receive_replica", "__replica__")
# What msgspec raises for content that is not what it should be: RecursionError for nesting,
# ValueError for bad UTF-8.
NOT_JSON = (msgspec.DecodeError, ValueError, RecursionError)


class _Result(msgspec.Struct):
    metric: dict[str, str] = {}
    value: msgspec.Raw = _ABSENT
    values: msgspec.Raw = _ABSENT
    histogram: msgspec.Raw = _ABSENT
    histograms: msgspec.Raw = _ABSENT


T = TypeVar("T")


class _Data(msgspec.Struct, Generic[T]):
    resultType: str
    result: T


class Envelope(msgspec.Struct, Generic[T]):
    """Any response of the API; `data` is a list of series, or Raw, which the caller decodes."""

    status: str
    data: T | msgspec.Raw = _ABSENT
    error: str = ""
    errorType: str = ""
    warnings: list[str] | None = None
    infos: list[str] | None = None
    isPartial: bool = False  # VictoriaMetrics


RawResponse = Envelope[msgspec.Raw]
UsualResponse = Envelope[_Data[list[_Result]]]
decode_envelope = msgspec.json.Decoder(RawResponse).decode
_decode_usual = msgspec.json.Decoder(UsualResponse).decode
_decode_data = msgspec.json.Decoder(_Data[msgspec.Raw]).decode


def usual_response(body: bytes) -> UsualResponse | None:
    """Return a successful response with a list of series, None for any other response."""
    try:
        response = _decode_usual(body)
    except NOT_JSON:
        return None
    return response if response.status == "success" else None


def series_of(response: RawResponse | UsualResponse) -> tuple[str, tuple[Series, ...], list[str]]:
    """Return ('vector' or 'matrix', the series, warnings).

    A native histogram becomes the classic series that it stands for. One without a name, as rate()
    returns it, is left out with a warning. Raises StoreError where there is nothing else, and
    ValueError for a response in another format.
    """
    data = response.data
    if isinstance(data, msgspec.Raw):
        return "vector", (_scalar(data),), _warnings(response)
    if data.resultType not in ("vector", "matrix"):
        raise ValueError(f"unknown resultType {data.resultType!r}")

    series = []
    native: dict[str, list[_Result]] = {}
    for result in data.result:
        series += _float_series(result)
        if _has_histograms(result):
            native.setdefault(result.metric.get("__name__", ""), []).append(result)

    nameless = [result.metric for result in native.pop("", [])]
    for name, results in native.items():
        bodies = [_histograms(result) for result in results]
        series += classic_series(name, [result.metric for result in results], bodies)
    warnings = [*_warnings(response), *_left_out(nameless, series), *_replicas(series)]
    return data.resultType, tuple(series), warnings


def _scalar(data: msgspec.Raw) -> Series:
    decoded = _decode_data(data)
    if decoded.resultType not in ("scalar", "string"):
        raise ValueError(f"unknown resultType {decoded.resultType!r}")
    return Series({}, (_list_of_one(decoded.result),))


def _has_histograms(result: _Result) -> bool:
    return result.histogram is not _ABSENT or result.histograms is not _ABSENT


def _float_series(result: _Result) -> list[Series]:
    """Return the series of a result's numbers; none where it has native histograms only."""
    if result.values is not _ABSENT:
        return [Series(result.metric, (result.values,))]
    if result.value is not _ABSENT:
        return [Series(result.metric, (_list_of_one(result.value),))]
    if _has_histograms(result):
        return []
    raise ValueError(f"the series {result.metric} has no samples")


def joined(answers: list[MetricAnswer], start: float, end: float, step_s: float) -> MetricAnswer:
    """Return one answer made of the pieces of a range, its series joined by their labels."""
    first = answers[0]
    provenance = replace(
        first.provenance,
        start=start,
        end=end,
        step_s=step_s,
        requests=len(answers),
        took_s=sum(a.provenance.took_s for a in answers),
        received_bytes=sum(a.provenance.received_bytes for a in answers),
        warnings=tuple(dict.fromkeys(w for a in answers for w in a.provenance.warnings)),
    )
    if len(answers) == 1:
        return replace(first, provenance=provenance)

    by_labels: dict[frozenset[tuple[str, str]], list[Series]] = {}
    for answer in answers:
        for series in answer.series:
            by_labels.setdefault(frozenset(series.labels.items()), []).append(series)
    whole = []
    for parts in by_labels.values():
        pieces = tuple(piece for part in parts for piece in part.pieces)
        whole.append(Series(parts[0].labels, pieces))
    return replace(first, series=tuple(whole), provenance=provenance)


def _histograms(result: _Result) -> bytes:
    one = result.histogram
    return bytes(result.histograms if one is _ABSENT else _list_of_one(one))


def _list_of_one(sample: msgspec.Raw) -> msgspec.Raw:
    return msgspec.Raw(b"[" + bytes(sample) + b"]")


def _warnings(response: RawResponse | UsualResponse) -> list[str]:
    texts = [*(response.warnings or []), *(response.infos or [])]
    if response.isPartial:
        texts.append("the response is partial: some of the storage nodes did not answer")
    return texts


def _left_out(nameless: Sequence[dict[str, str]], series: Sequence[Series]) -> list[str]:
    """Return a warning for native histograms without a name. Raises StoreError for these alone."""
    if nameless and not series:
        raise StoreError(
            "the answer holds native histograms without a name, which are not read",
            got="; ".join(str(m) for m in nameless[:3]),
            fix="query the raw samples (`Prometheus.samples`), or histogram_quantile(), "
            "histogram_sum() or histogram_count() of it",
        )
    labels = sorted({str(m) for m in nameless})
    return [f"native histograms without a name are left out: {', '.join(labels)}"] if labels else []


def _replicas(series: Sequence[Series]) -> list[str]:
    """Return a warning for series that several replicas of a Prometheus have scraped."""
    warnings = []
    for label in _REPLICA_LABELS:
        values = sorted({one.labels[label] for one in series if label in one.labels})
        if len(values) > 1:
            warnings.append(
                f"the same targets may be there {len(values)} times, by {label} "
                f"({', '.join(values[:5])}): aggregate with max without ({label})"
            )
    return warnings


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
