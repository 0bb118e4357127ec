"""Texts in batches of about as many bytes: large enough for a parser's speed, small enough for memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

Text = TypeVar("Text", bytes, memoryview)
BATCH_BYTES = 4 << 20


def batches(texts: Iterable[Text]) -> Iterator[list[Text]]:
    """The texts in order, as lists that hold `BATCH_BYTES` or little more each; none is empty."""
    batch: list[Text] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
