"""The report: one page with everything in it, also about what failed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.errors import NotebookError
from lab.runner.execute import run_notebooks
from lab.runner.report import main, newest, write_report
from lab.settings import Settings
from tests.runner.notebooks import write

FIGURE = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots(figsize=(1, 1))\nax.plot([1, 2]);"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report about one good and one failing notebook, really executed."""
    folder = tmp_path_factory.mktemp("run")
    good = write(
        folder / "00_good.ipynb", "## Two <lines>\n\nThe *slower* one is red. More words.", FIGURE
    )
    bad = write(folder / "01_bad.ipynb", "raise ValueError('<script>alert(1)</script>')")
    (folder / "out" / "logs").mkdir(parents=True)
    (folder / "out" / "logs" / "vllm.log").write_text("")
    runs = run_notebooks(
        [good, bad], folder / "out" / "notebooks", {}, Settings(state_dir=folder / "state")
    )
    return write_report(
        folder / "out", runs, {"vllm": "0.32.0 (cpu build)"}, ["PartFailed: vllm died"]
    )


def test_figures_are_in_the_page_with_heading_and_caption(page: Path) -> None:
    """The heading that it stands under and the sentence before it, in plain words.

    Alt text for who cannot see it.
    """
    text = page.read_text()
    assert len(re.findall(r'<img src="data:image/png;base64,[A-Za-z0-9+/=]{100,}"', text)) == 1
    assert "<b>Two &lt;lines&gt;</b> &middot; The slower one is red." in text
    assert 'alt="The slower one is red."' in text


def test_failures_say_why_and_which_log_to_read(page: Path) -> None:
    """The error, the end of the traceback, the stack's own words, links to the logs.

    Nothing of it is markup.
    """
    text = page.read_text()
    assert "1 of 2 notebooks passed" in text and "failed in cell 3" in text
    assert "PartFailed: vllm died" in text and 'href="logs/vllm.log"' in text
    assert "ValueError: &lt;script&gt;" in text and "<script" not in text


def test_page_needs_nothing_else(page: Path) -> None:
    """No style, script, font or picture from elsewhere."""
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page.read_text())
    assert "0.32.0 (cpu build)" in page.read_text()


def test_an_earlier_run_can_be_reported_again(page: Path, capsys: pytest.CaptureFixture) -> None:
    """`lab report FOLDER` makes the same page from what the run left."""
    before = page.read_text()
    page.unlink()
    assert main([str(page.parent)]) == 0
    assert page.read_text() == before
    assert capsys.readouterr().out.strip() == str(page)


def test_no_run_no_report(tmp_path: Path) -> None:
    """The error names the command that makes one."""
    with pytest.raises(NotebookError, match="make run"):
        newest(tmp_path)
    with pytest.raises(NotebookError, match="holds no run"):
        main([str(tmp_path)])
