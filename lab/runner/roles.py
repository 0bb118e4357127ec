"""The report's views by role: what the cells tagged `role:...` of the executed notebooks show.

A notebook tags a code cell `role:developer`, `role:sre` or `role:payer` (several are fine) where
its output answers that reader's question. The report takes every figure, all printed text, and the
tables of such a cell.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.runner.cell_outputs import Figure, Table, as_data_url, captions, read_cells, table_of

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
    figures = []
    texts = []
    tables = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if source := as_data_url(data):
            figures.append(Figure(heading, caption, source))
        if text := _text(output):
            texts.append(text)
        if table := table_of("".join(data.get("text/html", ""))):
            tables.append(table)
    return Finding(notebook, title, heading, caption, tuple(figures), tuple(texts), tuple(tables))


def _text(output: Any) -> str:
    """Return what the cell printed, or a value that is neither a figure nor a table."""
    if output.get("output_type") == "stream" and output.get("name") == "stdout":
        return "".join(output.get("text", "")).strip()
    data = output.get("data", {})
    if output.get("output_type") == "execute_result" and set(data) == {"text/plain"}:
        return "".join(data["text/plain"]).strip().strip("'")
    return ""
