"""The report's views by role: what the cells tagged `role:...` of the executed notebooks have drawn, printed and shown.

A notebook tags a code cell `role:developer`, `role:sre` or `role:payer` (several are fine) where its output answers
that reader's question. Of such a cell the report takes every figure, everything printed, and the tables that it shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from lab.runner.figures_of import Figure, as_address, captions
from lab.runner.tables_of import Table, table_of

PREFIX = "role:"
ROLES = {
    "developer": "Is it right, and where does a request spend its time?",
    "sre": "Is it healthy, how much can it take, and what should wake somebody?",
    "payer": "What does it cost, who causes it, and what would save?",
}
TITLES = {"developer": "For the developer", "sre": "For the SRE", "payer": "For the one who pays"}


@dataclass(frozen=True)
class Finding:
    """What one tagged cell has to say. Nothing in it: the cell was not reached, or said nothing."""

    notebook: str
    title: str
    heading: str
    caption: str
    figures: tuple[Figure, ...] = ()
    texts: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.figures or self.texts or self.tables)


@dataclass(frozen=True)
class View:
    """One role's section of the report, its findings in the notebooks' order."""

    role: str
    title: str
    question: str
    findings: list[Finding] = field(default_factory=list)


def roles_of(cell: Any) -> list[str]:
    """The roles that a cell is tagged for, also those that do not exist."""
    return [t.removeprefix(PREFIX) for t in cell.metadata.get("tags", []) if t.startswith(PREFIX)]


def views_of(notebooks: dict[Path, str]) -> list[View]:
    """One view a role, of these executed notebooks {path: title}. One that cannot be read adds nothing."""
    views = {role: View(role, TITLES[role], question) for role, question in ROLES.items()}
    for path, title in notebooks.items():
        for role, finding in _findings(path, title):
            if role in views:
                views[role].findings.append(finding)
    return list(views.values())


def _findings(path: Path, title: str) -> list[tuple[str, Finding]]:
    try:
        cells = nbformat.read(path, as_version=4).cells
    except Exception:
        return []
    found = []
    for cell, heading, caption in captions(cells):
        for role in roles_of(cell):
            outputs = cell.get("outputs", [])
            data = [o.get("data", {}) for o in outputs]
            addresses = [a for d in data if (a := as_address(d))]
            figures = tuple(Figure(heading, caption, a) for a in addresses)
            texts = tuple(_text(o) for o in outputs if _text(o))
            tables = tuple(t for d in data if (t := table_of("".join(d.get("text/html", "")))))
            found.append(
                (role, Finding(path.stem, title, heading, caption, figures, texts, tables))
            )
    return found


def _text(output: Any) -> str:
    """What the cell printed, or the plain text of a value that is neither a figure nor a table."""
    if output.get("output_type") == "stream" and output.get("name") == "stdout":
        return "".join(output.get("text", "")).strip()
    data = output.get("data", {})
    if output.get("output_type") == "execute_result" and set(data) == {"text/plain"}:
        return "".join(data["text/plain"]).strip().strip("'")
    return ""
