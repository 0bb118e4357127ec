"""The handout and the solutions are made by one command each."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import nbformat
import pytest

from lab.errors import LabError
from lab.settings import REPO
from scripts import handout
from scripts.notebook_rules import exercises_in
from tests.runner.notebooks import write


def test_the_handout_has_executed_notebooks_and_valid_links(tmp_path: Path) -> None:
    """Pages, notebooks, glossary and pictures are in the zip file, and every link leads to one."""
    (tmp_path / "run/notebooks").mkdir(parents=True)
    notebook = write(tmp_path / "run/notebooks/07_look.ipynb", "1 + 1")
    content = nbformat.read(notebook, as_version=4)
    content.cells[0].source += "\n\n![parts](../docs/images/architecture.svg)"
    content.cells[2].outputs = [nbformat.v4.new_output("stream", text="the output")]
    nbformat.write(content, notebook)
    (tmp_path / "run/index.html").write_text("the report")

    archive = handout.write_handout(tmp_path / "run", tmp_path / "handout")
    names = set(zipfile.ZipFile(archive).namelist())
    index = (tmp_path / "handout/index.html").read_text()
    links = re.findall('href="([^"]+)"', index)
    assert {"report.html", "07_look.html", "glossary.html", "architecture.html"} == set(links)
    assert {f"handout/{link}" for link in links} <= names
    assert "the output" in (tmp_path / "handout/07_look.html").read_text()
    assert "<table>" in (tmp_path / "handout/glossary.html").read_text()
    for page in ("architecture.html", "07_look.html"):
        pictures = re.findall('<img[^>]* src="([^":]+)"', (tmp_path / "handout" / page).read_text())
        assert pictures
        assert all((tmp_path / "handout" / picture).resolve().exists() for picture in pictures)
        assert all(picture.startswith("images/") for picture in pictures)


def test_without_executed_notebooks_there_is_no_handout(tmp_path: Path) -> None:
    """The error names the folder."""
    with pytest.raises(LabError, match="has no executed notebook"):
        handout.write_handout(tmp_path, tmp_path / "handout")


def test_the_solutions_are_in_a_copy(tmp_path: Path) -> None:
    """Every exercise is solved, and the repository's notebooks stay as they are."""
    before = {path: path.read_text() for path in (REPO / "notebooks").glob("*.ipynb")}
    assert handout.main(["--solutions", "--out", str(tmp_path)]) == 0
    written = sorted(tmp_path.glob("*.ipynb"))
    assert [path.name for path in written] == sorted(path.name for path in before)
    for path in written:
        cells = nbformat.read(path, as_version=4).cells
        assert exercises_in(cells)
        assert not [cell for cell in cells if re.fullmatch(r"\w+ = \.\.\.", cell.source)]
    assert before == {path: path.read_text() for path in before}
