"""Compare the store's answers with those recorded from a real Tempo (see data/tempo/README.md).

As a script it prints the agreement by kind and, with `--differences`, the differences.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

DATA = Path(__file__).with_name("data") / "tempo"
KINDS = ("search", "range", "instant", "get")
_S = 10**9


@functools.cache
def _text(name: str) -> bytes:
    return gzip.decompress((DATA / f"{name}.json.gz").read_bytes())


def load(name: str) -> Any:
    """Return a recorded file, `corpus` or `answers`."""
    return json.loads(_text(name))


def corpus_at(t0_ns: int) -> dict[str, Any]:
    """Return the corpus as an OTLP JSON request whose spans begin at `t0_ns` (unix ns)."""
    groups = load("corpus")
    for group in groups:
        for scope in group["scopeSpans"]:
            for span in scope["spans"]:
                span["startTimeUnixNano"] = str(t0_ns + span.pop("start"))
                span["endTimeUnixNano"] = str(t0_ns + span.pop("end"))
                for event in span.get("events", []):
                    event["timeUnixNano"] = str(t0_ns + event["timeUnixNano"])
    return {"resourceSpans": groups}


def trace_ids() -> list[str]:
    """Return the trace ids of the corpus in the order of their first span."""
    spans = [s for g in load("corpus") for scope in g["scopeSpans"] for s in scope["spans"]]
    return list(dict.fromkeys(s["traceId"] for s in spans))


@dataclass
class CaseRunner:
    """Send the recorded queries to a store that contains the corpus at `t0_s` (unix s)."""

    tempo: httpx.Client
    t0_s: int

    def answer(self, kind: str, query: str) -> dict[str, Any]:
        """Return the store's answer in the format of the recorded ones."""
        if kind == "get":
            return self._get(query)

        if kind == "search":
            response = self.tempo.get("/api/search", params=self._search_params(query))
        else:
            path = "/api/metrics/query_range" if kind == "range" else "/api/metrics/query"
            response = self.tempo.get(path, params=self._metrics_params(query))

        if response.status_code != 200:
            return {"status": response.status_code}
        body = response.json()
        if kind == "search":
            traces = sorted((self._trace(t) for t in body.get("traces", [])), key=_trace_id)
            return {"status": 200, "traces": traces}
        series = [self._series(s) for s in body.get("series", [])]
        return {"status": 200, "series": sorted(series, key=lambda s: json.dumps(s["labels"]))}

    def _search_params(self, query: str) -> dict[str, Any]:
        window = {"start": self.t0_s - 5, "end": self.t0_s + 80}
        return {"q": query, "limit": 1000, "spss": 100, **window}

    def _metrics_params(self, query: str) -> dict[str, Any]:
        return {"q": query, "start": self.t0_s, "end": self.t0_s + 60, "step": "10s"}

    def _get(self, path: str) -> dict[str, Any]:
        window = f"start={self.t0_s - 5}&end={self.t0_s + 80}"
        if path.startswith("v2trace"):
            trace = trace_ids()[int(path.removeprefix("v2trace"))]
            body = self.tempo.get(f"/api/v2/traces/{quote(trace)}?{window}").json()
            groups = body["trace"]["resourceSpans"]
            spans = sum(len(s["spans"]) for g in groups for s in g["scopeSpans"])
            return {"status": 200, "spans": spans}

        response = self.tempo.get(f"{path}{'&' if '?' in path else '?'}{window}")
        if response.status_code != 200:
            return {"status": response.status_code}
        body = response.json()
        body.pop("metrics", None)
        return {"status": 200, "body": _sorted_tags(body)}

    def _trace(self, trace: dict[str, Any]) -> dict[str, Any]:
        root = [trace.get("rootServiceName", ""), trace.get("rootTraceName", "")]
        sets = [self._set(s) for s in trace["spanSets"]]
        return {
            "id": trace["traceID"].rjust(32, "0"),
            "ms": trace.get("durationMs", 0),
            "root": root,
            "start": int(trace["startTimeUnixNano"]) - self.t0_s * _S,
            "sets": sorted(sets, key=json.dumps),
        }

    def _set(self, spanset: dict[str, Any]) -> dict[str, Any]:
        spans = [
            {
                "id": s["spanID"].rjust(16, "0"),
                "name": s.get("name", ""),
                "start": int(s["startTimeUnixNano"]) - self.t0_s * _S,
                "dur": int(s.get("durationNanos", 0)),
                "attrs": _attributes(s.get("attributes", [])),
            }
            for s in spanset["spans"]
        ]
        return {
            "attrs": _attributes(spanset.get("attributes", [])),
            "matched": spanset["matched"],
            "spans": sorted(spans, key=lambda s: s["id"]),
        }

    def _series(self, series: dict[str, Any]) -> dict[str, Any]:
        labels = _attributes(series["labels"])
        if "samples" not in series:
            return {"labels": labels, "samples": series.get("value", 0.0)}
        samples = [
            [(int(s["timestampMs"]) - self.t0_s * 1000) / 1000, s.get("value", 0.0)]
            for s in series["samples"]
        ]
        return {"labels": labels, "samples": samples}


def _trace_id(trace: dict[str, Any]) -> str:
    return trace["id"]


def _attributes(attributes: list[dict[str, Any]]) -> list[list[Any]]:
    triples = []
    for attribute in attributes:
        ((kind, value),) = attribute["value"].items()
        triples.append([attribute["key"], kind, int(value) if kind == "intValue" else value])
    return sorted(triples, key=json.dumps)


def _sorted_tags(body: dict[str, Any]) -> dict[str, Any]:
    if "scopes" in body:
        scopes = [{"name": s["name"], "tags": sorted(s["tags"])} for s in body["scopes"]]
        return {"scopes": sorted(scopes, key=lambda s: s["name"])}
    return {key: sorted(values, key=json.dumps) for key, values in body.items()}


def normal(answer: Any) -> Any:
    """Return an answer with floats rounded to nine significant digits, so equality is exact."""
    if isinstance(answer, float):
        return float(f"{round(answer, 9):.9g}")  # recorded samples have nine decimals
    if isinstance(answer, list):
        return [normal(item) for item in answer]
    if isinstance(answer, dict):
        return {key: normal(value) for key, value in answer.items()}
    return answer


def agree(kind: str, query: str, recorded: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Return whether our answer equals the recorded one, except for irrelevant differences."""
    if recorded["status"] != 200 or ours["status"] != 200:
        return ours["status"] == recorded["status"]

    recorded = normal(recorded)
    ours = normal(ours)
    if kind == "search":
        _drop_unrequested_names(recorded, ours)
    if kind == "get" and "body" in recorded:
        recorded["body"] = _sorted_tags(recorded["body"])
    if kind == "get" and "limit=" in query:
        return {k: len(v) for k, v in recorded["body"].items()} == {
            k: len(v) for k, v in ours["body"].items()
        }
    if kind in ("range", "instant"):
        for series in recorded["series"]:
            series["labels"].sort(key=json.dumps)
        recorded["series"] = _without_ties(recorded["series"])
        ours["series"] = _without_ties(ours["series"])
    if kind == "search":
        for trace in recorded["traces"]:
            trace["sets"].sort(key=json.dumps)
        for trace in ours["traces"]:
            trace["sets"].sort(key=json.dumps)
    return recorded == ours


def _without_ties(series: list[dict[str, Any]]) -> list[Any]:
    """Return series sorted; for compare(), the rarest values of ten are only counted.

    Of equally frequent values Tempo keeps any ten.
    """
    attributes: dict[str, list[tuple[float, Any]]] = {}
    for s in series:
        names = [label[0] if label[0] != "__meta_type" else label[2] for label in s["labels"]]
        samples = s["samples"]
        total = sum(v for _, v in samples) if isinstance(samples, list) else samples
        attributes.setdefault(json.dumps(names), []).append((total, s))

    lines: list[Any] = []
    for names, counted in attributes.items():
        compared = "baseline" in names or "selection" in names
        least = min(total for total, _ in counted) if compared and len(counted) >= 10 else None
        lines += [s for total, s in counted if total != least]
        lines += [[names, least, sum(total == least for total, _ in counted)]] if least else []
    return sorted(lines, key=json.dumps)


def _drop_unrequested_names(recorded: dict[str, Any], ours: dict[str, Any]) -> None:
    """Remove span names from our answer that Tempo omits because the query does not select them."""
    requested = any(s["name"] for t in recorded["traces"] for g in t["sets"] for s in g["spans"])
    for trace in [] if requested else ours["traces"]:
        for spanset in trace["sets"]:
            for span in spanset["spans"]:
                span["name"] = ""


def now_t0_s() -> int:
    """Return a time about 70 s ago, a multiple of 10 s, as when Tempo was queried."""
    return int(time.time() - 70) // 10 * 10


def compare_all(asker: CaseRunner) -> dict[str, list[tuple[str, bool, Any, Any]]]:
    """Return (query, agreement, recorded, ours) of every case, by kind."""
    answers = load("answers")
    result: dict[str, list[tuple[str, bool, Any, Any]]] = {}
    for kind in KINDS:
        result[kind] = []
        for query, recorded in answers[kind].items():
            ours = asker.answer(kind, query)
            result[kind].append((query, agree(kind, query, recorded, ours), recorded, ours))
    return result


def main() -> None:
    """Print the agreement by kind."""
    from tests.tracestore.conftest import start, stop

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--differences", action="store_true", help="show what differs")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        parts = start(Path(folder))
        running = parts[0]
        t0_s = now_t0_s()
        body = json.dumps(corpus_at(t0_s * _S)).encode()
        running.export(body, Content_Type="application/json").raise_for_status()
        result = compare_all(CaseRunner(running.tempo, t0_s))
        stop(*parts)

    for kind, cases in result.items():
        print(f"{kind:8} {sum(ok for _, ok, _, _ in cases):4} of {len(cases):4} agree")
        for query, ok, recorded, ours in cases:
            if ok:
                continue
            print(f"    {query}")
            if options.differences:
                print(f"        Tempo: {json.dumps(recorded)[:1500]}")
                print(f"        ours:  {json.dumps(ours)[:1500]}")


if __name__ == "__main__":
    main()
