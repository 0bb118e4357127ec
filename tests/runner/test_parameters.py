"""Unknown parameters, which papermill silently ignores, are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import NotebookError
from lab.runner.execute import assign, parameters_of
from lab.runner.session import parse_parameters
from tests.runner.notebooks import write


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    return write(tmp_path / "00_a.ipynb")


def test_a_misspelt_name_is_refused(notebook: Path) -> None:
    """The error lists the parameters and suggests the most similar one."""
    with pytest.raises(
        NotebookError,
        match=r"(?s)'rte' is not a parameter of 00_a.ipynb.*fast, name, rate.*mean rate",
    ):
        assign([notebook], {"rte": 9})


def test_a_notebook_without_a_parameters_cell_takes_no_parameters(tmp_path: Path) -> None:
    """papermill would insert them at the top, where the notebook's values override them."""
    with pytest.raises(NotebookError, match="the parameters are none"):
        assign([write(tmp_path / "00_b.ipynb", parameters=None)], {"rate": 9})


def test_each_notebook_gets_its_parameters(notebook: Path, tmp_path: Path) -> None:
    """A parameter is given to the notebooks that have it, and refused if none does."""
    other = write(tmp_path / "01_b.ipynb", parameters="users: int = 4  # at once")
    assert assign([notebook, other], {"rate": 2, "users": 8}) == {
        notebook: {"rate": 2},
        other: {"users": 8},
    }
    with pytest.raises(NotebookError, match="any of the 2 notebooks"):
        assign([notebook, other], {"x": 1})


def test_a_notebook_without_a_window_is_refused(notebook: Path, tmp_path: Path) -> None:
    """It would start the lab and analyse requests of its own next to those of the window."""
    other = write(tmp_path / "09_b.ipynb", parameters='window: str = ""  # your own telemetry')
    given = {"window": "last 15m"}
    assert assign([other], given) == {other: given}
    with pytest.raises(NotebookError, match=r"(?s)00_a.ipynb takes no window.*lab run 09"):
        assign([notebook, other], given)


@pytest.mark.parametrize(
    ("name", "value"), [("rate", "fast"), ("rate", True), ("name", 3), ("fast", 1)]
)
def test_a_wrong_type_is_refused(notebook: Path, name: str, value: object) -> None:
    """A string instead of a number would fail later, inside a cell."""
    with pytest.raises(NotebookError, match=f"(?s)parameter {name}.*default"):
        assign([notebook], {name: value})


def test_comment_and_type_are_the_documentation(notebook: Path) -> None:
    """The type, default and meaning of each parameter are read from its line."""
    assert parameters_of(notebook)["rate"] == {
        "name": "rate",
        "inferred_type_name": "float",
        "default": "1.0",
        "help": "requests per second",
    }


def test_a_file_that_is_not_a_notebook(tmp_path: Path) -> None:
    """The error names the file and the reason."""
    (tmp_path / "00_x.ipynb").write_text("{")
    with pytest.raises(NotebookError, match="00_x.ipynb cannot be read"):
        assign([tmp_path / "00_x.ipynb"], {})


def test_values_on_the_command_line() -> None:
    """Values are read as YAML scalars, and anything other than name=value is refused."""
    assert parse_parameters(["rate=2.5", "name=x y", "fast=true"]) == {
        "rate": 2.5,
        "name": "x y",
        "fast": True,
    }
    for bad in ("rate", "=3", "a b=3"):
        with pytest.raises(NotebookError, match="name=value"):
            parse_parameters([bad])


def test_a_time_stays_a_text() -> None:
    """YAML would read a window's time as a date, which no parameter is."""
    pairs = ["window=2026-11-28T14:50:00Z", "day=2026-11-28", "requests=3"]
    assert parse_parameters(pairs) == {
        "window": "2026-11-28T14:50:00Z",
        "day": "2026-11-28",
        "requests": 3,
    }
