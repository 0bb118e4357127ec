"""One trace as a tree: order, depth, self time, critical path."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.frames.spans import check_spans

_NS = 1_000_000_000


def trace_tree(spans: pd.DataFrame) -> pd.DataFrame:
    """The spans of ONE trace in the order in which a reader expects them (parents first, then by start), with

    - `depth`: 0 for a root; `children`: how many spans name this one as their parent;
    - `offset_s`: start, relative to the earliest span of the trace;
    - `self_s`: duration less the union of its children's times inside it;
    - `critical_s`: time that this span itself spends on the critical path: of the latest-ending child back to the one
      that ended before that one began, and so on (the algorithm of Uber's CRISP, "CRISP: Critical Path Analysis of
      Large-Scale Microservice Architectures", USENIX ATC 2022). Over a tree whose children lie inside their parents it
      sums up to the root's duration.
    - `orphan`: its parent is named, but is not in the trace (it is drawn as a root).

    A client's HTTP span ends with the headers, also where the answer is streamed and the server's span goes on.
    For `self_s` and `critical_s` such a span is taken to last as long as the server's.

    Raises FrameError for an empty frame, or spans of more than one trace.
    """
    check_spans(spans)
    if (traces := spans["trace_id"].nunique()) != 1:
        raise FrameError(
            "a tree is made of one trace",
            got=f"{traces} traces",
            fix="select the spans of one trace_id",
        )
    spans = spans.reset_index(drop=True)
    start = spans["start_at"].dt.as_unit("ns").astype("int64").to_numpy()
    end = start + np.rint(spans["duration_s"].to_numpy() * _NS).astype(np.int64)
    row_of = {span_id: i for i, span_id in enumerate(spans["span_id"])}
    parents = [row_of.get(p, -1) for p in spans["parent_id"]]
    children: dict[int, list[int]] = {}
    for row in np.argsort(start, kind="stable"):
        children.setdefault(parents[row], []).append(int(row))
    order, depth = _walk(children)
    end = _with_streams(spans["kind"].to_numpy(object), order, parents, end)
    critical = np.zeros(len(spans), dtype=np.int64)
    for root in children.get(-1, []):
        _critical(root, start[root], end[root], children, start, end, critical)
    spans["depth"] = depth
    spans["children"] = [len(children.get(i, ())) for i in range(len(spans))]
    spans["offset_s"] = (start - start.min()) / _NS
    spans["self_s"] = [_own(i, children.get(i, ()), start, end) / _NS for i in range(len(spans))]
    spans["critical_s"] = critical / _NS
    spans["orphan"] = [
        p == -1 and bool(text) for p, text in zip(parents, spans["parent_id"], strict=True)
    ]
    return spans.iloc[order].reset_index(drop=True)


def _walk(children: dict[int, list[int]]) -> tuple[list[int], np.ndarray]:
    """Rows in depth-first order, and every row's depth. Raises FrameError for spans that are their own ancestors."""
    size = sum(map(len, children.values()))
    order, depth = [], np.zeros(size, dtype=np.int64)
    waiting = [(row, 0) for row in reversed(children.get(-1, []))]
    while waiting:
        row, level = waiting.pop()
        order.append(row)
        depth[row] = level
        waiting += [(child, level + 1) for child in reversed(children.get(row, []))]
    if len(order) < size:
        raise FrameError(
            "the trace is no tree", got=f"{size - len(order)} spans that are their own ancestors"
        )
    return order, depth


def _with_streams(
    kind: np.ndarray, order: list[int], parents: list[int], end: np.ndarray
) -> np.ndarray:
    """Ends, those of HTTP client spans put off to the end of the server's span below."""
    end = end.copy()
    for row in reversed(order):
        parent = parents[row]
        if (
            parent >= 0
            and parents[parent] >= 0
            and kind[row] == "server"
            and kind[parent] == "client"
        ):
            end[parent] = max(end[parent], end[row])
    return end


def _own(row: int, children: list[int] | tuple[()], start: np.ndarray, end: np.ndarray) -> int:
    """Nanoseconds of a span that no child covers; children come in order of start."""
    free, at = 0, start[row]
    for child in children:
        free += max(0, min(start[child], end[row]) - at)
        at = max(at, min(end[child], end[row]))
    return int(free + max(0, end[row] - at))


def _critical(
    row: int,
    low: int,
    high: int,
    children: dict[int, list[int]],
    start: np.ndarray,
    end: np.ndarray,
    out: np.ndarray,
) -> None:
    """Add to `out` what each span below `row` spends on the critical path between low and high. No recursion, since a
    trace may be deeper than Python's stack."""
    waiting = [(row, low, high)]
    while waiting:
        span, low, high = waiting.pop()
        at = high
        for child in sorted(children.get(span, []), key=lambda c: min(end[c], high), reverse=True):
            child_start, child_end = max(start[child], low), min(end[child], high)
            if (
                child_end <= child_start or child_end > at
            ):  # empty, or beside a sibling that is on the path already
                continue
            out[span] += at - child_end
            waiting.append((child, child_start, child_end))
            at = child_start
        out[span] += at - low
