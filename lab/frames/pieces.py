"""Texts in batches of about as many bytes: large enough for a parser's speed, small enough for memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

Text = TypeVar("Text", bytes, memoryview)
BATCH_BYTES = 4 << 20


def batches(texts: Iterable[Text], least_bytes: int = BATCH_BYTES) -> Iterator[list[Text]]:
    """The texts in order, as lists that hold `least_bytes` or little more each; none is empty, the last may be less."""
    batch: list[Text] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= least_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
