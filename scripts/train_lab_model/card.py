"""A measured table in a model card, between two marks."""

from __future__ import annotations

import os
from pathlib import Path

from lab.errors import ModelError


def put_table(card: Path, table: str, name: str) -> None:
    """Replace what stands between the marks of that name. Raises ModelError if the card has no such marks."""
    begins, ends = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    before, begin, rest = text.partition(begins)
    _, end, after = rest.partition(ends)
    if not (begin and end):
        raise ModelError(
            f"{card} has no place for the table",
            fix=f"put {begins} and {ends} where it should stand",
        )
    draft = card.with_suffix(".draft")
    draft.write_text(f"{before}{begins}\n{table}\n{ends}{after}", encoding="utf-8")
    os.replace(draft, card)
