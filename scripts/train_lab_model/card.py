"""The evaluation's table in a model card, between two marks."""

from __future__ import annotations

import os
from pathlib import Path

from lab.errors import ModelError

BEGIN, END = "<!-- evaluation -->", "<!-- end of evaluation -->"


def put_table(card: Path, table: str) -> None:
    """Replace what stands between the marks. Raises ModelError if the card has no such marks."""
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ModelError(f"{card} has no place for the table", do=f"put {BEGIN} and {END} where it should stand")
    draft = card.with_suffix(".draft")
    draft.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    os.replace(draft, card)
