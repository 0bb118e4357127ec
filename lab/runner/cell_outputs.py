"""Read figures and tables from an executed notebook, with their heading and caption.

A notebook tags a code cell `role:developer`, `role:sre` or `role:payer` (several are fine) where
its output answers that reader's question. The report's view of a role has every figure, all printed
text, and the tables of such a cell.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup, Tag

from lab import headlines
from lab.headlines import Headline

# The formats in which a notebook saves a figure, best first.
FORMATS = ("image/png", "image/svg+xml", "image/jpeg")
MAX_ROWS = 20
PREDICTION = "**Predict first.**"  # a question to the attendee, not a caption
UNITS = {"s": "s", "ms": "ms", "usd": "USD", "mib": "MiB"}
MISSING = "\N{EN DASH}"
_NO_VALUE = ("<NA>", "NaN", "NaT", "None")
_STRUCTURE = ("thead", "tbody", "tr", "th", "td")


@dataclass(frozen=True)
class Figure:
    """One figure as a data URL, with its heading and caption (plain text)."""

    heading: str
    caption: str
    source: str

    @property
    def anchor(self) -> str:
        """Return a name for links to the figure: the same picture has the same."""
        return f"figure-{hashlib.sha256(self.source.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Table:
    """A table as HTML without styles or foreign markup. `left_out` rows were too many to show."""

    html: str
    left_out: int = 0


def read_cells(notebook: Path) -> list[Any]:
    """Return a notebook's cells; none if it cannot be read, which its run reports."""
    try:
        return list(nbformat.read(notebook, as_version=4).cells)
    except Exception:  # nbformat and json raise without a common base
        return []


def figures_of(notebook: Path) -> list[Figure]:
    """Return all figures of a notebook, in order."""
    cells = captions(read_cells(notebook))
    return [figure for described in cells for figure in _figures_in(*described)]


def _figures_in(cell: Any, heading: str, caption: str) -> Iterator[Figure]:
    for output in cell.get("outputs", []):
        if source := as_data_url(output.get("data", {})):
            yield Figure(heading, caption, source)


def captions(cells: list[Any]) -> Iterator[tuple[Any, str, str]]:
    """Yield each cell with its heading and the first whole sentence of the markdown before it."""
    heading = ""
    caption = ""
    for cell in cells:
        if cell.cell_type == "markdown" and not cell.source.startswith(PREDICTION):
            heading = _last_heading(cell.source) or heading
            caption = _first_sentence(cell.source)
        yield cell, heading, caption


def as_data_url(data: dict[str, str]) -> str:
    """Return an output's picture as a data URL; empty if it has none."""
    for kind in FORMATS:
        if kind in data:
            content = "".join(data[kind])
            if kind == "image/svg+xml":
                content = base64.b64encode(content.encode()).decode()
            return f"data:{kind};base64,{''.join(content.split())}"
    return ""


def table_of(html: str) -> Table | None:
    """Return the first table in pandas' `html`; None if there is none, or an empty one."""
    table = BeautifulSoup(html, "html.parser").find("table")
    rows = table.select("tbody tr") if table else []
    if not table or not rows:
        return None

    for row in rows[MAX_ROWS:]:
        row.decompose()
    _merge_head(table)
    _drop_numbering(table)
    table.attrs = {}
    for tag in table.find_all(True):
        _clean(tag)
    return Table(str(table), max(0, len(rows) - MAX_ROWS))


def _clean(tag: Tag) -> None:
    """Reduce a tag to structure and text; remove one that is not a part of a table."""
    if tag.name not in _STRUCTURE:
        tag.decompose()
        return
    spans = {name: str(tag.get(name, "")) for name in ("colspan", "rowspan")}
    tag.attrs = {name: value for name, value in spans.items() if value.isdecimal()}
    if tag.name in ("th", "td"):
        text = tag.get_text(strip=True)
        tag.string = MISSING if text in _NO_VALUE else text
    if tag.name == "th":
        tag.string = _in_words(tag.get_text())
        tag["scope"] = "col" if tag.find_parent("thead") else "row"


def _in_words(name: str) -> str:
    """Return the name of a column or row as a reader would write it: `only_a_ratio`: only a."""
    if not re.fullmatch(r"[a-z0-9_]*_[a-z0-9_]*", name):
        return name
    words = name.removesuffix("_ratio").split("_")
    unit = f" ({UNITS[words.pop()]})" if words[-1] in UNITS and len(words) > 1 else ""
    return " ".join(words) + unit


def _drop_numbering(table: Tag) -> None:
    """Remove an index that only counts the rows from 0."""
    index = table.select("tbody tr > th:first-child")
    corner = table.select("thead tr > th:first-child")
    numbers = [cell.get_text(strip=True) for cell in index]
    is_named = any(cell.get_text(strip=True) for cell in corner)
    counts_rows = numbers == [str(i) for i in range(len(table.select("tbody tr")))]
    if counts_rows and not is_named:
        for cell in (*index, *corner):
            cell.decompose()


def _merge_head(table: Tag) -> None:
    """Merge the row of the index's names, which pandas writes below empty cells, into the first."""
    rows = [row.find_all("th") for row in table.select("thead tr")]
    if len(rows) != 2 or len(rows[0]) != len(rows[1]):
        return
    pairs = [
        (a, a.get_text(strip=True), b.get_text(strip=True)) for a, b in zip(*rows, strict=True)
    ]
    if any(above and below for _, above, below in pairs):
        return
    for cell, above, below in pairs:
        cell.string = above or below
    table.select("thead tr")[1].decompose()


def _last_heading(markdown: str) -> str:
    headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", markdown, re.MULTILINE)
    return plain(headings[-1]) if headings else ""


def _first_sentence(markdown: str) -> str:
    """Return the first sentence, with a second one after a few words in bold."""
    for paragraph in re.split(r"\n\s*\n", markdown):
        lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
        text = plain(" ".join(lines))
        if text and not text.startswith(("- ", "|", "<", "```")):
            sentences = re.split(r"(?<=[.!?])\s+(?=[^a-z])", text)
            count = 2 if lines[0].startswith("**") else 1
            caption = " ".join(sentences[:count])
            return f"{caption[:-1]}." if caption.endswith(":") else caption
    return ""


def plain(markdown: str) -> str:
    """Return Markdown without its marks of emphasis, code and links."""
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"[*`]|(?<!\w)_|_(?!\w)", "", text).strip()


def headlines_of(notebook: Path) -> list[Headline]:
    """Return the figures that a notebook has for the beginning of the report."""
    outputs = [o for cell in read_cells(notebook) for o in cell.get("outputs", [])]
    bundles = [output.get("data", {}) for output in outputs]
    return [headlines.read(data[headlines.MIME]) for data in bundles if headlines.MIME in data]


def warnings_of(notebook: Path) -> list[str]:
    """Return what a reader of this notebook's figures has to know: that the driver lagged."""
    for cell in read_cells(notebook):
        for output in cell.get("outputs", []):
            printed = (output.get("text", ""), output.get("data", {}).get("text/plain", ""))
            if any(headlines.LAGGED in "".join(text).casefold() for text in printed):
                return [headlines.LAGGED_MEANS]
    return []


PREFIX = "role:"
ROLES = {
    "developer": "Is it right, and where does a request spend its time?",
    "sre": "Is it healthy, how much can it take, and what should raise an alert?",
    "payer": "What does it cost, who causes it, and what would save?",
}
TITLES = {"developer": "For the developer", "sre": "For the SRE", "payer": "For the one who pays"}


@dataclass(frozen=True)
class Finding:
    """The output of one tagged cell; empty if the cell was not reached, or has no output."""

    notebook: str
    title: str
    heading: str
    caption: str
    figures: tuple[Figure, ...] = ()
    texts: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def empty(self) -> bool:
        """Return whether there is nothing to show."""
        return not (self.figures or self.texts or self.tables)


@dataclass(frozen=True)
class View:
    """One role's section of the report, its findings in the notebooks' order."""

    role: str
    title: str
    question: str
    findings: list[Finding] = field(default_factory=list)


def roles_of(cell: Any) -> list[str]:
    """Return the roles that a cell is tagged for, also those that do not exist."""
    return [t.removeprefix(PREFIX) for t in cell.metadata.get("tags", []) if t.startswith(PREFIX)]


def views_of(notebooks: dict[Path, str]) -> list[View]:
    """Return one view per role, of these executed notebooks {path: title}."""
    views = {role: View(role, TITLES[role], question) for role, question in ROLES.items()}
    for path, title in notebooks.items():
        for cell, heading, caption in captions(read_cells(path)):
            for role in roles_of(cell):
                if role in views:
                    views[role].findings.append(_finding(cell, path.stem, title, heading, caption))
    return list(views.values())


def _finding(cell: Any, notebook: str, title: str, heading: str, caption: str) -> Finding:
    outputs = cell.get("outputs", [])
    pages = ("".join(output.get("data", {}).get("text/html", "")) for output in outputs)
    return Finding(
        notebook,
        title,
        heading,
        caption,
        figures=tuple(_figures_in(cell, heading, caption)),
        texts=tuple(filter(None, map(_text, outputs))),
        tables=tuple(filter(None, map(table_of, pages))),
    )


def _text(output: Any) -> str:
    """Return what the cell printed, or a value that is neither a figure nor a table."""
    if output.get("output_type") == "stream" and output.get("name") == "stdout":
        return "".join(output.get("text", "")).strip()
    data = output.get("data", {})
    if output.get("output_type") == "execute_result" and set(data) == {"text/plain"}:
        return "".join(data["text/plain"]).strip().strip("'")
    return ""
