"""The pages in docs/ agree with the notebooks, and their links are valid."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from lab.settings import REPO

DOCS = REPO / "docs"


def minutes_of_notebooks() -> dict[str, int]:
    """Return {"00 Stand up the lab": 15, ...} from the notebooks' first cells."""
    minutes = {}
    for path in sorted((REPO / "notebooks").glob("[0-9]*.ipynb")):
        head = nbformat.read(path, as_version=4).cells[0].source
        title = re.search(r"^# (.+)$", head, re.MULTILINE)[1]
        minutes[title] = int(re.search(r"Time: (\d+) minutes", head)[1])
    return minutes


def test_the_facilitators_minutes_are_those_of_the_notebooks() -> None:
    """Each notebook has notes with its duration, and the timetable's sums are correct."""
    text = (DOCS / "facilitator.md").read_text(encoding="utf-8")
    minutes = minutes_of_notebooks()
    headings = dict(re.findall(r"^### (\d\d .+) \((\d+) minutes\)$", text, re.MULTILINE))
    assert {title: int(n) for title, n in headings.items()} == minutes

    times = list(minutes.values())
    first, rest, incidents = sum(times[:4]), sum(times[4:9]), sum(times[9:])
    assert f"00 to 03 take {first} minutes, 04 to 08 take {rest}" in text
    assert f"09 and 10 take {incidents}:" in text
    assert f"all of them are {first + rest + incidents} minutes without breaks" in text


def test_every_notebook_states_its_goal() -> None:
    """The learning goal in the first cell is that of the facilitator's notes."""
    text = (DOCS / "facilitator.md").read_text(encoding="utf-8")
    pattern = r"^### (\d\d .+?) \(.+?\n\n\*\*Goal:\*\* (.+?)\n\n"
    goals = dict(re.findall(pattern, text, re.MULTILINE | re.DOTALL))
    assert set(goals) == set(minutes_of_notebooks())
    for path in sorted((REPO / "notebooks").glob("[0-9]*.ipynb")):
        head = nbformat.read(path, as_version=4).cells[0].source
        title = re.search(r"^# (.+)$", head, re.MULTILINE)[1]
        assert f"**Goal:** {goals[title]}" in head


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda p: p.name)
def test_links_to_files_are_valid(page: Path) -> None:
    """All linked pictures and pages exist."""
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8"))
    assert all((page.parent / target).exists() for target in targets), targets


def test_every_term_has_a_meaning_and_a_link() -> None:
    """Each term has one complete sentence and one link."""
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    terms = [row for row in rows if row[0].strip() != "term"]
    assert len(terms) >= 40
    for term, meaning, link in terms:
        assert re.search(r"\. \((\d\d|alerts|dashboards)\)$", meaning), term
        assert re.fullmatch(r"\[[^]]+\]\(https://[^ ]+\) ?", link), term
