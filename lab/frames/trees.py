"""One trace as a tree: order, depth, self time, critical path."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.frames.requests import union_length
from lab.frames.spans import check_spans, end_ns, start_ns

_NS = 1_000_000_000
Children = dict[int, list[int]]


def trace_tree(spans: pd.DataFrame) -> pd.DataFrame:
    """Return the spans of one trace as a reader expects them: parents first, then by start.

    - `depth`: 0 for a root; `children`: the number of spans that name this one as their parent;
    - `offset_s`: start, relative to the earliest span of the trace;
    - `self_s`: duration less the union of its children's times inside it;
    - `critical_s`: time that this span itself spends on the critical path: of the latest-ending
      child back to the one that ended before that one began, and so on (the algorithm of Uber's
      CRISP, "CRISP: Critical Path Analysis of Large-Scale Microservice Architectures", USENIX ATC
      2022). Over a tree whose children lie inside their parents it adds up to the root's duration;
    - `orphan`: its parent is named, but is not in the trace (it is drawn as a root).

    A client's HTTP span ends with the headers, also where the answer is streamed and the server's
    span goes on. For `self_s` and `critical_s` such a span is taken to last as long as the
    server's.

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
    start = start_ns(spans)
    end = end_ns(spans)
    row_of = {span_id: i for i, span_id in enumerate(spans["span_id"])}
    parents = np.array([row_of.get(p, -1) for p in spans["parent_id"]])
    children: Children = {}
    for row in np.argsort(start, kind="stable"):
        children.setdefault(int(parents[row]), []).append(int(row))
    order, depth = _walk(children)
    end = _with_streams(spans["kind"].to_numpy(object), order, parents, end)
    child = np.flatnonzero(parents >= 0)
    parent = parents[child]
    child_start = np.maximum(start[child], start[parent])
    child_end = np.minimum(end[child], end[parent])
    in_children = union_length(parent, child_start, child_end, len(spans))
    spans["depth"] = depth
    spans["children"] = [len(children.get(i, ())) for i in range(len(spans))]
    spans["offset_s"] = (start - start.min()) / _NS
    spans["self_s"] = (end - start - in_children) / _NS
    spans["critical_s"] = _critical_ns(children, start, end) / _NS
    spans["orphan"] = (parents == -1) & (spans["parent_id"] != "").to_numpy(bool)
    return spans.iloc[order].reset_index(drop=True)


def _walk(children: Children) -> tuple[list[int], np.ndarray]:
    """Return the rows in depth-first order, and every row's depth.

    Raises FrameError for spans that are their own ancestors.
    """
    size = sum(map(len, children.values()))
    order = []
    depth = np.zeros(size, dtype=np.int64)
    stack = [(row, 0) for row in reversed(children.get(-1, []))]
    while stack:
        row, level = stack.pop()
        order.append(row)
        depth[row] = level
        stack += [(child, level + 1) for child in reversed(children.get(row, []))]
    if len(order) < size:
        raise FrameError(
            "the trace is not a tree",
            got=f"{size - len(order)} spans that are their own ancestors",
        )
    return order, depth


def _with_streams(
    kind: np.ndarray, order: list[int], parents: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """Return the ends, those of HTTP client spans moved to the end of the server's span below."""
    end = end.copy()
    for row in reversed(order):
        parent = parents[row]
        if parent < 0 or parents[parent] < 0:
            continue
        if kind[row] == "server" and kind[parent] == "client":
            end[parent] = max(end[parent], end[row])
    return end


def _critical_ns(children: Children, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return what each span spends on its root's critical path.

    There is no recursion, since a trace may be deeper than Python's stack.
    """
    critical = np.zeros(len(start), dtype=np.int64)
    stack = [(root, start[root], end[root]) for root in children.get(-1, [])]
    while stack:
        span, low, high = stack.pop()
        begin = high
        by_end = sorted(children.get(span, []), key=lambda c: min(end[c], high), reverse=True)
        for child in by_end:
            child_start = max(start[child], low)
            child_end = min(end[child], high)
            # An empty span, or one beside a sibling that is on the path already.
            if child_end <= child_start or child_end > begin:
                continue
            critical[span] += begin - child_end
            stack.append((child, child_start, child_end))
            begin = child_start
        critical[span] += begin - low
    return critical
