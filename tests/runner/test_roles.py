"""The report's views by role contain the output of the tagged cells and nothing else."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from lab.runner.cell_outputs import MAX_ROWS, MISSING, ROLES, table_of, views_of
from lab.runner.execute import run_notebooks
from lab.runner.report import write_report
from lab.settings import Settings
from tests.runner.notebooks import write

TABLE = "import pandas as pd\npd.DataFrame({'usd': [1.25, 2.5]}, index=['<i>acme</i>', 'globex'])"
FIGURE = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots(figsize=(1, 1))\nax.plot([1, 2]);"


def cells(html: str, part: str = "tbody") -> list[list[str]]:
    """Return the text of each cell, as a browser shows it."""
    rows = BeautifulSoup(html, "html.parser").select(f"{part} tr")
    return [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in rows]


def _tag(path: Path, starts: str, *roles: str) -> None:
    content = nbformat.read(path, as_version=4)
    (cell,) = [c for c in content.cells if c.source.startswith(starts)]
    cell.metadata["tags"] = [f"role:{role}" for role in roles]
    nbformat.write(content, path)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the report of a passed notebook and of one that failed before its tagged cell."""
    folder = tmp_path_factory.mktemp("run")
    text = "## The bill\n\nWho pays most. And more."
    good = write(
        folder / "06_good.ipynb", text, TABLE, "print('12 < 13 USD')", "'not tagged'", FIGURE
    )
    _tag(good, "import pandas", "payer")
    _tag(good, "print", "payer", "sre")
    _tag(good, "import matplotlib", "sre")
    bad = write(folder / "07_bad.ipynb", "## Too late\n\nNever seen.", "1 / 0", "print('never')")
    _tag(bad, "print", "developer")
    runs = run_notebooks(
        [good, bad], folder / "out" / "notebooks", {}, Settings(state_dir=folder / "state")
    )
    write_report(folder / "out", runs, {})
    return folder / "out"


def test_each_role_gets_its_tagged_output_in_order(executed: Path) -> None:
    """Tables, printed lines and figures come with heading and sentence; other output does not."""
    views = {v.role: v for v in views_of({executed / "notebooks" / "06_good.ipynb": "Good"})}
    assert list(views) == list(ROLES)
    table, line = views["payer"].findings
    assert (table.heading, table.caption) == ("The bill", "Who pays most.")
    assert cells(table.tables[0].html) == [["<i>acme</i>", "1.25"], ["globex", "2.50"]]
    assert line.texts == ("12 < 13 USD",) and not line.tables
    printed, drawn = views["sre"].findings
    assert printed.texts == line.texts
    assert len(drawn.figures) == 1 and drawn.figures[0].source.startswith("data:image/png")
    assert views["developer"].findings == []


def test_the_page_shows_the_views_before_the_notebooks_and_escapes_them(executed: Path) -> None:
    """Three sections, linked from the top, precede the notebooks, and tables are plain text."""
    page = (executed / "index.html").read_text()
    positions = [page.index(f'id="for-{role}"') for role in ROLES]
    assert positions == sorted(positions) and positions[-1] < page.index('id="06_good"')
    assert all(f'href="#for-{role}"' in page for role in ROLES)
    assert "&lt;i&gt;acme&lt;/i&gt;" in page and "<i>acme" not in page
    assert page.count("12 &lt; 13 USD") == 2


def test_a_cell_that_was_not_reached_is_reported(executed: Path) -> None:
    """A view must not look complete when a notebook failed."""
    page = (executed / "index.html").read_text()
    developer = page[page.index('id="for-developer"') : page.index('id="for-sre"')]
    assert "Too late" in developer and "No result in this run" in developer


def test_a_long_table_is_truncated_and_marked() -> None:
    """The report shows the first rows and the number of rows left out."""
    rows = "".join(f"<tr><th>{i}</th><td>{i}</td></tr>" for i in range(MAX_ROWS + 3))
    table = table_of(
        f"<table><thead><tr><th></th><th>n</th></tr></thead><tbody>{rows}</tbody></table>"
    )
    assert len(cells(table.html)) == MAX_ROWS and table.left_out == 3


def test_html_without_a_table_has_no_table() -> None:
    """The text of a style block is not a cell, and an empty table is ignored."""
    assert table_of("<style>td { color: red }</style><p>hello</p>") is None
    assert table_of("<table><tbody></tbody></table>") is None
    assert table_of("") is None


def test_an_index_of_two_levels_keeps_its_columns() -> None:
    """Empty cells below a heading that spans rows keep numbers under their names."""
    frame = pd.DataFrame(
        {"n": [1, 2, 3]}, index=pd.MultiIndex.from_tuples([("a", "x"), ("a", "y"), ("b", "x")])
    )
    html = table_of(frame.to_html()).html
    assert cells(html) == [["a", "x", "1"], ["y", "2"], ["b", "x", "3"]]
    assert '<th rowspan="2" scope="row">a</th>' in html


def test_a_named_index_shares_the_header_row_and_missing_values_are_dashes() -> None:
    """The name of the index stands in the header row."""
    frame = pd.DataFrame(
        {"n": pd.array([1, None], dtype="Int64")}, index=pd.Index(["a", "b"], name="tool")
    )
    table = table_of(frame.to_html())
    assert cells(table.html, "thead") == [["tool", "n"]]
    assert cells(table.html) == [["a", "1"], ["b", MISSING]]


def test_markup_in_a_table_stays_out_of_the_page() -> None:
    """Styles, scripts, event handlers and links of a notebook's HTML are removed."""
    html = (
        "<table border=1 onclick='x()'><style>p {}</style><tbody><tr style='color: red'>"
        "<td class='y' colspan=2><script>alert(1)</script><a href='//evil'>link</a></td></tr>"
        "</table>"
    )
    assert table_of(html).html == (
        '<table><tbody><tr><td colspan="2">link</td></tr></tbody></table>'
    )


def test_names_are_words_and_row_numbers_are_left_out() -> None:
    """A reader of the report does not know the code: `only_a_ratio` is a name of ours."""
    frame = pd.DataFrame({"only_a_ratio": [0.1, 0.2], "mean_s": [1, 2]}, index=["right_tool", "b"])
    html = table_of(frame.to_html()).html
    assert cells(html, "thead") == [["", "only a", "mean (s)"]]
    assert cells(html)[0][0] == "right tool"
    numbered = table_of(frame.reset_index(drop=True).to_html()).html
    assert cells(numbered) == [["0.1", "1"], ["0.2", "2"]]
    assert cells(numbered, "thead") == [["only a", "mean (s)"]]
