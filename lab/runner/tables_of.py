"""Read a table back from the HTML that pandas shows, as plain cells: the report draws it in its own style, and nothing
of the HTML gets into the page."""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser

MOST_ROWS = 20
MISSING = "\N{EN DASH}"


@dataclass(frozen=True)
class Table:
    """Rows of (is it a heading, columns that it spans, text). `left_out` rows were too many to show."""

    head: list[list[tuple[bool, int, str]]]
    body: list[list[tuple[bool, int, str]]]
    left_out: int = 0


def table_of(html: str) -> Table | None:
    """The first table in `html`; None if there is none, or an empty one."""
    reader = _Reader()
    reader.feed(html)
    if not reader.body:
        return None
    return Table(
        _one_head(reader.head), reader.body[:MOST_ROWS], max(0, len(reader.body) - MOST_ROWS)
    )


def _one_head(rows: list[list[tuple[bool, int, str]]]) -> list[list[tuple[bool, int, str]]]:
    """pandas writes the index's names in a row of their own, below empty cells: one row will do."""
    if len(rows) != 2 or len(rows[0]) != len(rows[1]):
        return rows
    if any(above[2] and below[2] for above, below in zip(*rows, strict=True)):
        return rows
    return [[(True, above[1], above[2] or below[2]) for above, below in zip(*rows, strict=True)]]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.head: list[list[tuple[bool, int, str]]] = []
        self.body: list[list[tuple[bool, int, str]]] = []
        self._rows: list[list[tuple[bool, int, str]]] | None = None
        self._row: list[tuple[bool, int, str]] | None = None
        self._cell: tuple[bool, int] | None = None
        self._text: list[str] = []
        self._done = False
        self._below: dict[int, int] = {}  # column -> rows that its last heading spans below its own

    def _fill(self, column: int) -> None:
        """Empty headings for what a heading above spans, as pandas writes a second level of an index."""
        while self._row is not None and self._below.get(column, 0) > 0:
            self._below[column] -= 1
            self._row.append((True, 1, ""))
            column += 1

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._done:
            return
        if tag in ("thead", "tbody"):
            self._rows = self.head if tag == "thead" else self.body
        elif tag == "tr" and self._rows is not None:
            self._row = []
        elif tag in ("th", "td") and self._row is not None:
            self._fill(len(self._row))
            self._cell, self._text = (tag == "th", _number(attrs, "colspan")), []
            self._below[len(self._row)] = _number(attrs, "rowspan") - 1

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td") and self._cell is not None and self._row is not None:
            self._row.append((*self._cell, _shown("".join(self._text).strip())))
            self._cell = None
        elif tag == "tr" and self._row is not None and self._rows is not None:
            self._rows.append(self._row)
            self._row = None
        elif tag == "table" and self.body:
            self._done = True


def _shown(text: str) -> str:
    return MISSING if text in ("<NA>", "NaN", "NaT", "None") else text


def _number(attrs: list[tuple[str, str | None]], name: str) -> int:
    text = dict(attrs).get(name) or "1"
    return int(text) if text.isdecimal() else 1
