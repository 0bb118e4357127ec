"""Slides are made from a notebook."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from lab.errors import LabError
from lab.settings import REPO
from scripts import slides
from tests.runner.notebooks import write

NOTEBOOK = REPO / "notebooks/01_follow_one_request.ipynb"


def test_every_heading_starts_a_slide(tmp_path: Path) -> None:
    """Headings are in order, and the checks of exercises are left out."""
    assert slides.main(["--out", str(tmp_path), str(NOTEBOOK)]) == 0
    html = (tmp_path / "01_follow_one_request.slides.html").read_text(encoding="utf-8")
    headings = re.findall(r"<section><section.*?<h[12][^>]*>([^<]+)", html, re.DOTALL)
    assert [h.strip() for h in headings[:2]] == ["01 Follow one request", "Ask once"]
    assert {"The trace", "Exercises", "Recap"} <= {h.strip() for h in headings}
    assert "reveal.js" in html and "lab.check(" not in re.sub("<[^>]*>", "", html)


def test_pictures_are_in_the_slides(tmp_path: Path) -> None:
    """A picture beside the notebooks is embedded, since slides are moved to other machines."""
    notebook = write(tmp_path / "01_look.ipynb", "1 + 1")
    content = nbformat.read(notebook, as_version=4)
    content.cells[0].source += "\n\n![parts](../docs/images/architecture.svg)"
    nbformat.write(content, notebook)
    html = slides.make_slides(notebook, tmp_path).read_text(encoding="utf-8")
    assert 'src="data:image/svg+xml;base64,' in html and "../docs/images" not in html


def test_a_file_that_is_not_a_notebook_is_refused(tmp_path: Path) -> None:
    """The error names the file."""
    (tmp_path / "x.ipynb").write_text("no JSON")
    with pytest.raises(LabError, match="x.ipynb cannot be read as a notebook"):
        slides.make_slides(tmp_path / "x.ipynb", tmp_path)
