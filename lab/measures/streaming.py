"""The stream as the reader saw it: how the tokens came, and where they stopped coming."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from lab.errors import FrameError


def token_latencies(records: pd.DataFrame) -> pd.DataFrame:
    """TTFT, TPOT and E2E of each request as its client saw them, in seconds, in the order of the records.

    Columns `request_id`, `ttft_s`, `tpot_s`, `e2e_s`. TPOT (time per output token) is a request's mean:
    (last token - first token) / (tokens - 1), NaN for a request of fewer than two, and for one whose tokens all came
    in a single chunk. The time between tokens (ITL) is not a number a request but one a gap: see `stream_gaps`.
    """
    more = (records["completion_tokens"] - 1).where(records["completion_tokens"] > 1)
    decoding = records["last_token_at"] - records["first_token_at"]
    tpot = decoding.where(decoding > 0) / more
    columns = {"request_id": records["request_id"], "ttft_s": records["ttft_s"], "tpot_s": tpot}
    return pd.DataFrame(columns | {"e2e_s": records["e2e_s"]})


def stream_gaps(records: pd.DataFrame) -> pd.DataFrame:
    """One row a pause between two chunks of a stream: `request_id`, `position` (1: after the first chunk), `gap_s`.

    `records` are the driver's (`chunk_offsets_s`: a JSON list of seconds). A chunk is what the server sent at once: a
    server that holds tokens back (a parser that waits for a whole tool name) sends several in one, with a longer pause
    before it. Requests of fewer than two chunks have no pause. Raises FrameError without that column.
    """
    if "chunk_offsets_s" not in records:
        raise FrameError(
            "these records have no chunk_offsets_s",
            fix="take them from Run.records, not a request frame",
        )
    offsets = [
        np.asarray(json.loads(text) if isinstance(text, str) else text)
        for text in records["chunk_offsets_s"]
    ]
    gaps = [np.diff(one) if len(one) > 1 else np.empty(0) for one in offsets]
    sizes = [len(one) for one in gaps]
    return pd.DataFrame(
        {
            "request_id": np.repeat(records["request_id"].to_numpy(), sizes),
            "position": np.concatenate(
                [np.arange(1, n + 1) for n in sizes] or [np.empty(0)]
            ).astype("int64"),
            "gap_s": np.concatenate(gaps or [np.empty(0)]),
        }
    )


def longest_gaps(records: pd.DataFrame) -> pd.DataFrame:
    """One row a request: `request_id`, `chunks`, `longest_gap_s` (NaN of fewer than two chunks), and `share_ratio`: how
    much of the time from first to last chunk that one pause was."""
    gaps = stream_gaps(records)
    by_request = gaps.groupby("request_id")["gap_s"].agg(["size", "max", "sum"])
    found = by_request.reindex(records["request_id"])
    chunks = [len(json.loads(t) if isinstance(t, str) else t) for t in records["chunk_offsets_s"]]
    share = found["max"] / found["sum"].where(found["sum"] > 0)
    return pd.DataFrame(
        {
            "request_id": records["request_id"].to_numpy(),
            "chunks": chunks,
            "longest_gap_s": found["max"].to_numpy(),
            "share_ratio": share.to_numpy(),
        }
    )
