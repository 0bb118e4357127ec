"""Prometheus' JSON: what is needed of an answer, its samples left as they are."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from lab.errors import StoreError
from lab.stores.answers import MetricAnswer, Series

_ABSENT = msgspec.Raw()


class _Result(msgspec.Struct):
    metric: dict[str, str] = {}
    value: msgspec.Raw = _ABSENT
    values: msgspec.Raw = _ABSENT
    histogram: msgspec.Raw = _ABSENT
    histograms: msgspec.Raw = _ABSENT


class Data(msgspec.Struct):
    resultType: str
    result: msgspec.Raw


class Envelope(msgspec.Struct):
    status: str
    data: msgspec.Raw = _ABSENT
    error: str = ""
    errorType: str = ""
    warnings: list[str] = []


class Matrix(msgspec.Struct):
    resultType: str
    result: list[_Result]


class Answer(msgspec.Struct):
    """The usual answer, read in one go."""

    status: str
    data: Matrix
    warnings: list[str] = []


_decode_answer = msgspec.json.Decoder(Answer).decode
decode_envelope = msgspec.json.Decoder(Envelope).decode
decode_data = msgspec.json.Decoder(Data).decode
_decode_results = msgspec.json.Decoder(list[_Result]).decode


def usual_answer(body: bytes) -> Answer | None:
    """A successful answer with a list of series; None for any other, which is then looked at more closely."""
    try:
        answer = _decode_answer(body)
    except msgspec.DecodeError:
        return None
    return answer if answer.status == "success" else None


def series_of(data: Data | Matrix) -> tuple[Series, ...]:
    if data.resultType in ("scalar", "string"):
        return (Series({}, (msgspec.Raw(b"[" + bytes(data.result) + b"]"),)),)
    series = []
    for r in data.result if isinstance(data, Matrix) else _decode_results(data.result):
        if r.histogram is not _ABSENT or r.histograms is not _ABSENT:
            raise StoreError(
                "the answer holds native histograms",
                got=str(r.metric),
                fix="ask for histogram_quantile(), histogram_sum() or histogram_count() of it, or for classic buckets",
            )
        raw = r.values if r.values is not _ABSENT else msgspec.Raw(b"[" + bytes(r.value) + b"]")
        series.append(Series(r.metric, (raw,)))
    return tuple(series)


def joined(answers: list[MetricAnswer], start: float, end: float, step_s: float) -> MetricAnswer:
    """One answer of the pieces of a range."""
    first = answers[0]
    provenance = replace(
        first.provenance, start=start, end=end, step_s=step_s, requests=len(answers),
        took_s=sum(a.provenance.took_s for a in answers),
        received_bytes=sum(a.provenance.received_bytes for a in answers),
        warnings=tuple(dict.fromkeys(w for a in answers for w in a.provenance.warnings)),
    )  # fmt: skip
    if len(answers) == 1:
        return replace(first, provenance=provenance)
    by_labels: dict[frozenset[tuple[str, str]], list[Series]] = {}
    for one in (s for answer in answers for s in answer.series):
        by_labels.setdefault(frozenset(one.labels.items()), []).append(one)
    found = tuple(
        Series(parts[0].labels, tuple(piece for part in parts for piece in part.pieces))
        for parts in by_labels.values()
    )
    return replace(first, series=found, provenance=provenance)
