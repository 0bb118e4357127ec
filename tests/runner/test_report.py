"""The report is one self-contained page, also for failed notebooks."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from lab.errors import NotebookError
from lab.runner.cell_outputs import captions
from lab.runner.execute import run_notebooks
from lab.runner.report import main, newest, write_report
from lab.settings import Settings
from tests.runner.notebooks import write

FIGURE = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots(figsize=(1, 1))\nax.plot([1, 2]);"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report for one passing and one failing notebook that were really executed."""
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
    """A figure has the heading above it, the preceding sentence as caption, and alt text."""
    text = page.read_text()
    assert len(re.findall(r'<img src="data:image/png;base64,[A-Za-z0-9+/=]{100,}"', text)) == 1
    assert "<b>Two &lt;lines&gt;</b> &middot; The slower one is red." in text
    assert 'alt="The slower one is red."' in text


def test_failures_show_the_reason_and_the_log_to_read(page: Path) -> None:
    """The error, the traceback, the stack's errors and links to logs are shown as plain text."""
    text = page.read_text()
    assert "1 of 2 notebooks passed" in text and "failed in cell 3" in text
    assert "PartFailed: vllm died" in text and 'href="logs/vllm.log"' in text
    assert "ValueError: &lt;script&gt;" in text and "<script" not in text


def test_the_page_is_self_contained(page: Path) -> None:
    """No style sheet, script, font or picture is loaded from elsewhere."""
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page.read_text())
    assert "0.32.0 (cpu build)" in page.read_text()


def test_an_earlier_run_can_be_reported_again(page: Path, capsys: pytest.CaptureFixture) -> None:
    """`lab report FOLDER` writes the same page from the files of the run."""
    before = page.read_text()
    page.unlink()
    assert main([str(page.parent)]) == 0
    assert page.read_text() == before
    assert capsys.readouterr().out.strip() == str(page)


def test_without_a_run_there_is_no_report(tmp_path: Path) -> None:
    """The error names the command that creates one."""
    with pytest.raises(NotebookError, match="make run"):
        newest(tmp_path)
    with pytest.raises(NotebookError, match="holds no run"):
        main([str(tmp_path)])


ANSWERS = """import lab
from types import SimpleNamespace
late = SimpleNamespace(lag=SimpleNamespace(lagged=True))
display(lab.headline("ttft_p95", (0.25, 0.2, 0.3), 60, run=late))
lab.headline("at_slo", (25, 25, float("inf")), 7, note="TTFT 0.25 s")"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the page of a run with two headlines, and one figure for two roles."""
    folder = tmp_path_factory.mktemp("answers")
    text = "## Speed\n\n**The mechanism.** A table of three sources follows:"
    notebook = write(folder / "04_speed.ipynb", text, FIGURE, ANSWERS, "print('THE DRIVER LAGGED')")
    content = nbformat.read(notebook, as_version=4)
    content.cells[3].metadata["tags"] = ["role:sre", "role:payer"]
    nbformat.write(content, notebook)
    runs = run_notebooks(
        [notebook], folder / "out" / "notebooks", {}, Settings(state_dir=folder / "state")
    )
    facts = {
        "date": "2026-11-28 20:09 UTC",
        "machine": "Xeon, 2 logical cores, 24 GiB",
        "load average before": "3.1",
    }
    return write_report(folder / "out", runs, facts).read_text()


def test_the_page_begins_with_the_answers(answers: str) -> None:
    """Date, five figures with intervals, roles, notebooks; what is missing says so."""
    places = ["2026-11-28 20:09", "p95 of the time to the first token", 'id="for-developer"']
    places += ['id="for-payer"', 'id="notebooks"', 'id="04_speed"', 'id="machine"']
    positions = [answers.index(text) for text in places]
    assert positions == sorted(positions)
    assert "0.25 s [0.2, 0.3]" in answers and "at least 25 requests per second" in answers
    assert answers.count("not measured in this run") == 3


def test_warnings_accompany_the_figures(answers: str) -> None:
    """A lagging driver is named beside the headline, in each role's view and at the notebook."""
    assert answers.count("the driver lagged, so the latencies contain its own delay") == 4
    assert "The machine was busy before the run (load average 3.1 on 2 cores)" in answers


def test_a_figure_is_in_the_page_once(answers: str) -> None:
    """Other places link to it, and executed notebooks and logs are links."""
    assert answers.count("<img ") == 1
    (anchor,) = re.findall(r'<figure id="(figure-[0-9a-f]+)">', answers)
    assert answers.count(f'href="#{anchor}"') == 2
    assert 'href="notebooks/04_speed.ipynb"' in answers and 'href="logs/"' in answers


def test_captions_are_whole(answers: str) -> None:
    """Not cut at a colon, and more than the words in bold."""
    assert "The mechanism. A table of three sources follows." in answers
    cell = nbformat.v4.new_markdown_cell("One, i.e. two: three! Four.")
    assert next(captions([cell]))[2] == "One, i.e. two: three!"
    question = nbformat.v4.new_markdown_cell("**Predict first.** How many?")
    assert [caption for _, _, caption in captions([cell, question])][1] == "One, i.e. two: three!"
