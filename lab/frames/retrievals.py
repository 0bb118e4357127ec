"""Retrievals: one row per search in a vector store or an index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lab.frames.calls import ancestor, outermost
from lab.frames.completeness import shapes_of
from lab.frames.roles import Role, field_numbers, field_texts, plain_value
from lab.frames.spans import start_ns
from lab.frames.tools import first_of

_NS = 1e9
_QUERIES = ("query", "input", "question")  # a retriever's arguments
_LISTS = ("documents", "results", "result", "output")  # what has its documents in it


def retrieval_frame(spans: pd.DataFrame) -> pd.DataFrame:
    """Return one row per retrieval, in order of its start.

    A retriever and the database's client below it are one retrieval.

    - `trace_id`, `span_id` (of the outermost span);
    - `source`: the name of the data source, collection or database; `query`: its text, or what the
      retriever was given; `top_k`: the requested number of documents (Int64);
    - `documents`: the number that was returned (Int64), and `scores`: theirs, best first or as the
      library gives them. By default most libraries record neither documents nor query;
    - `failed`, and `error`: its type or message, '' for a retrieval that succeeded;
    - `start_s` (seconds since the epoch), `duration_s`.

    What no span has is None or NA. Raises FrameError for another frame.
    """
    shapes = shapes_of(spans)
    is_retrieval = shapes.role == Role.RETRIEVAL
    views = np.flatnonzero(is_retrieval)
    top = outermost(is_retrieval, views, ancestor(shapes.parent, views, is_retrieval))[views]
    rows = np.unique(top)
    rows = rows[np.argsort(start_ns(spans)[rows], kind="stable")]
    texts = {
        name: first_of(top, field_texts(spans, name, views), rows)
        for name in ("source", "query", "arguments", "documents", "result", "error")
    }
    searched = np.array([_query(text) for text in texts["arguments"]], dtype=object)
    known = [_documents(pair) for pair in zip(texts["documents"], texts["result"], strict=True)]
    status_error = (spans["status"] == "error").to_numpy(bool)[rows]
    message = spans["status_message"].replace("", "error").to_numpy(object)[rows]
    failed = status_error | pd.notna(texts["error"])
    error = np.where(pd.notna(texts["error"]), texts["error"], message)
    frame = pd.DataFrame(
        {
            "trace_id": shapes.ids[shapes.group[rows]],
            "span_id": spans["span_id"].to_numpy(object)[rows],
            "source": texts["source"],
            "query": np.where(pd.notna(texts["query"]), texts["query"], searched),
            "top_k": first_of(top, field_numbers(spans, "top_k")[views], rows),
            "documents": [None if each is None else len(each) for each in known],
            "scores": pd.Series(map(_scores, known), dtype=object),
            "failed": failed,
            "error": np.where(failed, error, ""),
            "start_s": start_ns(spans)[rows] / _NS,
            "duration_s": spans["duration_s"].to_numpy()[rows],
        }
    )
    return frame.astype({"top_k": "Int64", "documents": "Int64"})


def _query(text: str | None) -> str | None:
    value = plain_value(text) if text is not None else None
    if isinstance(value, dict):
        return next((value[name] for name in _QUERIES if isinstance(value.get(name), str)), text)
    return text


def _documents(texts: tuple[str | None, str | None]) -> list[Any] | None:
    """Return the documents that the first of these texts has, None where none has any."""
    for text in texts:
        value = plain_value(text) if text is not None else None
        while isinstance(value, dict):
            if value and all(name.isdecimal() for name in value):
                value = [value[name] for name in sorted(value, key=int)]
            else:
                value = next((value[name] for name in _LISTS if name in value), None)
        if isinstance(value, list):
            return value
    return None


def _scores(documents: list[Any] | None) -> list[float] | None:
    objects = [each.get("document", each) for each in documents or () if isinstance(each, dict)]
    scores = [each.get("score") for each in objects if isinstance(each, dict)]
    return [float(each) for each in scores if isinstance(each, (int, float))] or None
