"""Notebooks align text to the left, explain phases, and look up prices first."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from lab.cost import api_prices, find_price, machine_prices
from lab.errors import LabError
from lab.latency import PHASE_MEANINGS, durations_by_source, phase_table
from lab.notebook import frame_html, styler_html
from lab.schema import PHASES
from lab.settings import load_settings

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
TABLE = pd.DataFrame({"span": ["· a", "b"], "n": [1, 2], "ok": [True, False], "what": ["x", "y"]})


def test_text_columns_are_aligned_to_the_left() -> None:
    """The first and last of four columns are counted from the right, and others unchanged."""
    html = frame_html(TABLE)
    assert html is not None
    assert re.findall(r":nth-last-child\((\d)\)", html) == ["4", "1"]
    assert 'class="dataframe lab-4-1"' in html and "· a" in html
    assert frame_html(TABLE[["n", "ok"]]) == TABLE[["n", "ok"]]._repr_html_()


def test_a_styler_keeps_its_number_format() -> None:
    """A table whose labels are not unique is shown too."""
    html = styler_html(TABLE.style.format({"n": "{:.2f}"}))
    assert html.count("text-align: left") == 1 and "1.00" in html
    assert "1.00" in styler_html(pd.concat([TABLE, TABLE]).style.format({"n": "{:.2f}"}))


def test_hidden_columns_are_not_counted() -> None:
    """pandas hides the middle of a wide table, which would make positions from the right wrong."""
    wide = pd.DataFrame({f"c{n}": ["x"] for n in range(60)})
    with pd.option_context("display.max_columns", 20):  # as in a notebook
        assert frame_html(wide) == wide._repr_html_()


def test_phases_and_durations_are_explained() -> None:
    """Every phase of the schema has a meaning, and durations have their unit."""
    assert set(PHASE_MEANINGS) == {*PHASES, "unexplained_s", "overlap_s"}
    frame = pd.DataFrame({name: [0.1] for name in (*PHASES, "unexplained_s", "overlap_s")})
    frame["e2e_s"] = 0.1 * len(PHASES)
    table = phase_table(frame)
    assert table.meaning.notna().all() and table.seconds.sum() == pytest.approx(frame.e2e_s[0])
    assert durations_by_source(frame).columns.name == "seconds"


def test_an_unknown_machine_or_price_list_is_an_error_with_the_known_names() -> None:
    """The error lists the machines or the price lists."""
    settings = load_settings()
    with pytest.raises(LabError, match=r"'foo'(.|\n)*aws-m7g-large"):
        find_price(machine_prices(settings), "foo")
    with pytest.raises(LabError, match=r"'foo'(.|\n)*openai-gpt-6-luna"):
        find_price(api_prices(settings), "foo")


@pytest.mark.parametrize("name", ["03_first_look", "06_count_the_cost"])
def test_prices_are_looked_up_before_any_load_is_driven(name: str) -> None:
    """A misspelt machine must not cost a run."""
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    driven = next(i for i, source in enumerate(code) if "lab.drive(" in source)
    lookups = [i for i, source in enumerate(code) if "find_price(" in source]
    assert lookups and max(lookups) < driven
