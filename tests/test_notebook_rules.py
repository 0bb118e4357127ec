"""The rules for notebooks find the faults that they are meant to find."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output

from lab.errors import LabError
from scripts import readme_table
from scripts.check_notebooks import main, strip
from scripts.notebook_rules import LONGEST_CELL, opening_of, problems
from tests.runner.notebooks import write


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    return write(tmp_path / "07_look_around.ipynb", "1 + 1")


def _executed(path: Path) -> None:
    """Add what papermill leaves in an executed notebook."""
    content = nbformat.read(path, as_version=4)
    content.metadata["papermill"] = {"input_path": "somewhere"}
    content.cells.insert(
        2, new_code_cell("rate = 9", metadata={"tags": ["injected-parameters"], "papermill": {}})
    )
    content.cells[3].outputs = [new_output("stream", text="2")]
    content.cells[3].execution_count = 4
    nbformat.write(content, path)


def test_a_valid_notebook_has_no_problems(notebook: Path) -> None:
    """A notebook that follows the rules passes, and its opening is parsed."""
    assert problems(notebook) == []
    opening = opening_of(notebook)
    assert (opening.number, opening.title, opening.minutes, opening.bullets) == (
        "07",
        "Look around",
        10,
        ("one thing",),
    )


def test_traces_of_a_run_are_found_and_stripped(notebook: Path) -> None:
    """Outputs, counts and papermill's metadata are found, and stripping restores the notebook."""
    before = notebook.read_bytes()
    _executed(notebook)
    text = " ".join(problems(notebook))
    for trace in (
        "outputs",
        "execution count",
        "papermill's metadata",
        "injected",
        "metadata of a run",
    ):
        assert trace in text
    assert main([str(notebook)]) == 1
    assert strip(notebook) and problems(notebook) == [] and not strip(notebook)
    assert nbformat.reads(before.decode(), 4).cells == nbformat.read(notebook, 4).cells


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("rate = 1.0  # per second", "not 'name: type = value"),
        ("rate: float = 1.0", "not 'name: type = value"),
        ("rate: float = 2 * 3  # per second", "does not give a scalar"),
    ],
)
def test_parameters_are_typed_commented_scalars(tmp_path: Path, line: str, problem: str) -> None:
    """The comments of parameters are the documentation that papermill shows."""
    assert problem in " ".join(problems(write(tmp_path / "07_a.ipynb", parameters=line)))


def test_the_structure_is_checked(tmp_path: Path) -> None:
    """Number, opening, recap, parameters cell, cell length and kernel are checked."""
    path = write(tmp_path / "08_a.ipynb", "\n".join(["1"] * (LONGEST_CELL + 1)), parameters=None)
    content = nbformat.read(path, as_version=4)
    content.cells.pop()
    content.metadata["kernelspec"]["name"] = "my-env"
    nbformat.write(content, path)
    text = " ".join(problems(path))
    for problem in (
        "number 07, its file 08",
        "Recap",
        "0 cells tagged",
        "belongs in lab/",
        "my-env",
    ):
        assert problem in text


def test_the_readme_table(notebook: Path) -> None:
    """There is one row per notebook, and only text between the markers is replaced."""
    rows = readme_table.table(notebook.parent)
    assert (
        "[07 Look around](notebooks/07_look_around.ipynb) | one thing | first | 10 | the stack |"
        in rows
    )
    readme = f"before\n{readme_table.BEGIN}\nold\n{readme_table.END}\nafter\n"
    assert readme_table.with_table(readme, "new") == readme.replace("old", "new")
    with pytest.raises(LabError, match="markers"):
        readme_table.with_table("nothing", "new")


def test_an_unknown_role_is_found(notebook: Path) -> None:
    """A misspelt tag would silently keep a cell out of the report's views."""
    content = nbformat.read(notebook, as_version=4)
    content.cells[2].metadata["tags"] = ["role:sre"]
    nbformat.write(content, notebook)
    assert problems(notebook) == []
    content.cells[2].metadata["tags"] = ["role:ser"]
    content.cells[0].metadata["tags"] = ["role:sre"]
    nbformat.write(content, notebook)
    assert [p[:6] for p in problems(notebook)] == ["cell 1", "cell 3"]


def _problems_with(folder: Path, *code: str, recap: str = "") -> list[str]:
    """Return the problems of the first of two notebooks with these code cells and this recap."""
    first = write(folder / "07_look_around.ipynb", *code)
    write(folder / "08_look_back.ipynb", number="08")
    content = nbformat.read(first, as_version=4)
    content.cells[-1].source = recap or "## Recap\n\nNext: [08 Look around](08_look_back.ipynb)."
    nbformat.write(content, first)
    return problems(first)


def test_links_point_to_the_next_notebook_by_its_title(tmp_path: Path) -> None:
    """A missing file, a wrong title and a 'Next:' that skips a notebook are found."""
    assert _problems_with(tmp_path) == []
    for recap, problem in (
        ("Next: [08 Look around](08_gone.ipynb).", "links to 08_gone.ipynb, which is not"),
        (
            "Next: [08 GPU](08_look_back.ipynb).",
            "links to '08 GPU', but its title is '08 Look around'",
        ),
        ("Next: your own servers.", "'Next:' does not link to 08_look_back.ipynb"),
        ("[08 Look around](08_look_back.ipynb). Next: your own.", "does not link"),
    ):
        text = " ".join(_problems_with(tmp_path, recap=f"## Recap\n\n{recap}"))
        assert problem in text, recap


def test_wide_code_is_found(tmp_path: Path) -> None:
    """A line of code that JupyterLab would have to scroll is found."""
    assert _problems_with(tmp_path, "x = 1" + " " * 82 + "#") == []
    assert "line of 89 columns" in " ".join(_problems_with(tmp_path, "x = 1" + " " * 83 + "#"))


def test_exercises_have_a_name_and_no_solution(tmp_path: Path) -> None:
    """An exercise belongs to its notebook, is unanswered, and no cell solves it."""
    check = 'lab.check("07-only-one-right", answer, compared)'
    assert _problems_with(tmp_path, "answer = ...", check) == []
    for code, problem in (
        (("answer = 3", check), "must be 'answer = ...'"),
        (("answer = ...", check.replace("07-only", "07-just")), "is not an exercise of this"),
        (("answer = ...", check.replace("07-only-one-right", "06-never-idle")), "of this notebook"),
    ):
        assert problem in " ".join(_problems_with(tmp_path, *code)), code
    path = write(tmp_path / "07_look_around.ipynb", "1 + 1")
    content = nbformat.read(path, as_version=4)
    content.cells[2].metadata["tags"] = ["solution"]
    nbformat.write(content, path)
    assert "cell 3 shows a solution" in " ".join(problems(path))
