"""Take the figures out of an executed notebook, each with the heading it stands under and the sentence before it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

# What a figure can be saved as in a notebook, best first.
FORMATS = ("image/png", "image/svg+xml", "image/jpeg")


@dataclass(frozen=True)
class Figure:
    """One figure as a data address, with its heading and caption (plain text)."""

    heading: str
    caption: str
    source: str


def figures_of(notebook: Path) -> list[Figure]:
    """All figures, in order; none for a notebook that cannot be read (its run says why)."""
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except Exception:
        return []
    found = []
    for cell, heading, caption in captions(cells):
        for output in cell.get("outputs", []):
            source = as_address(output.get("data", {}))
            if source:
                found.append(Figure(heading, caption, source))
    return found


def captions(cells: list[Any]) -> Iterator[tuple[Any, str, str]]:
    """Each cell with the heading that it stands under and the first sentence of the markdown before it."""
    heading, caption = "", ""
    for cell in cells:
        if cell.cell_type == "markdown":
            heading = _last_heading(cell.source) or heading
            caption = _first_sentence(cell.source)
        yield cell, heading, caption


def as_address(data: dict[str, str]) -> str:
    """An output's picture as a data address; '' if it has none."""
    for kind in FORMATS:
        if kind in data:
            content = "".join(data[kind])
            if kind == "image/svg+xml":
                content = base64.b64encode(content.encode()).decode()
            return f"data:{kind};base64,{''.join(content.split())}"
    return ""


def _last_heading(markdown: str) -> str:
    headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", markdown, re.MULTILINE)
    return plain(headings[-1]) if headings else ""


def _first_sentence(markdown: str) -> str:
    for paragraph in re.split(r"\n\s*\n", markdown):
        text = plain(" ".join(line for line in paragraph.splitlines() if not line.startswith("#")))
        if text and not text.startswith(("- ", "|", "<", "```")):
            return re.split(r"(?<=[.!?:])\s", text, maxsplit=1)[0]
    return ""


def plain(markdown: str) -> str:
    """Markdown's emphasis, code and link marks taken off."""
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"[*`]|(?<!\w)_|_(?!\w)", "", text).strip()
