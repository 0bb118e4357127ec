"""Trace and span ids as numbers, whole columns at a time: numbers join much faster than texts."""

from __future__ import annotations

import binascii

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc


def span_numbers(ids: pd.Series) -> np.ndarray:
    """Span ids (16 hex digits; '' for none) as uint64, 0 for none."""
    array = _whole(pa.array(ids, type=pa.large_string(), from_pandas=True))
    padded = _whole(pc.utf8_lpad(array.fill_null(""), 16, "0"))
    return np.frombuffer(binascii.unhexlify(_characters(padded)), dtype=">u8").astype(np.uint64)


def trace_codes(ids: pd.Series) -> tuple[np.ndarray, pd.Index]:
    """(index of each row's trace, the distinct trace ids)."""
    encoded = _whole(pa.array(ids, type=pa.large_string(), from_pandas=True)).dictionary_encode()
    return np.asarray(encoded.indices), pd.Index(encoded.dictionary.to_pandas(), dtype="str")


def _whole(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _characters(array: pa.LargeStringArray) -> memoryview | bytes:
    """The text of all strings, one after another."""
    _, offsets, data = array.buffers()
    edges = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    return memoryview(data)[edges[0] : edges[-1]] if data is not None else b""


_SIX_BITS = np.full(256, 255, dtype=np.uint8)
_SIX_BITS[
    np.frombuffer(
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=", dtype=np.uint8
    )
] = [
    *range(64),
    0,
]
_HEX_PAIRS = np.array(
    [int.from_bytes(f"{n:02x}".encode(), "little") for n in range(256)], dtype="<u2"
)


def hex_ids(ids: pa.Array, digits: int) -> pa.Array:
    """Ids as OTLP JSON has them (base64, as Tempo writes them, or hex) as hex digits; '' for none and for all zeros.

    Raises ValueError for ids of another length, or with other characters.
    """
    texts = ids.fill_null("").cast(pa.large_string())
    lengths = np.asarray(pc.binary_length(texts))
    there = lengths > 0
    if not there.any():
        return texts
    length = int(lengths.max())
    if not (lengths[there] == length).all() or length not in (digits, -(-digits // 6) * 4):
        raise ValueError(f"ids of {digits} hex digits are of other lengths")
    characters = np.frombuffer(_characters(texts), dtype=np.uint8).reshape(-1, length)
    if length == digits:
        characters = np.frombuffer(_characters(pc.utf8_lower(texts)), dtype=np.uint8).reshape(
            -1, length
        )
        zero = (characters == ord("0")).all(axis=1)
    else:
        bits = _SIX_BITS[characters].reshape(len(characters), -1, 4).astype(np.uint32)
        if (bits == 255).any():
            raise ValueError("an id is not base64")
        groups = bits[..., 0] << 18 | bits[..., 1] << 12 | bits[..., 2] << 6 | bits[..., 3]
        parts = np.stack([groups >> 16, groups >> 8 & 255, groups & 255], axis=-1).astype(np.uint8)
        octets = parts.reshape(len(characters), -1)[:, : digits // 2]
        zero = ~octets.any(axis=1)
        characters = _HEX_PAIRS[octets].view(np.uint8)
    kept = there.copy()
    kept[there] = ~zero
    offsets = np.concatenate(([0], np.cumsum(kept * digits))).astype(np.int64)
    data = np.ascontiguousarray(characters[~zero])
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(data))
