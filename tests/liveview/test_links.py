"""Every notebook links to the live view of what it measures."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest

from lab.dashboards import DASHBOARDS
from lab.settings import REPO

NOTEBOOKS = sorted((REPO / "notebooks").glob("[0-9]*.ipynb"))
PAGES = ("lab", "query", "traces", "alerts")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name[:2])
def test_a_notebook_links_to_a_view_that_exists(notebook: Path) -> None:
    """The cell that stands the lab up ends with the link, to a page or to a row of a dashboard."""
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    (opening,) = [cell.source for cell in cells if "lab.stand_up(" in cell.source]
    last = ast.parse(opening).body[-1]
    assert isinstance(last, ast.Expr) and isinstance(last.value, ast.Call)
    assert ast.unparse(last.value.func) == "lab.live_view"
    view, *row = [ast.literal_eval(argument) for argument in last.value.args[1:]]
    assert view in PAGES or view in DASHBOARDS
    assert set(row) <= {r.title for r in DASHBOARDS[view].rows} if row else True
