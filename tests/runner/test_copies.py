"""Attendees work in copies: made once, never overwritten, and reset without losing anything."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from lab.cli.app import app
from lab.errors import NotebookError
from lab.exercises import check, score
from lab.runner import jupyter
from lab.settings import REPO
from tests.runner.notebooks import write


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return a folder with two notebooks, and one for copies that does not exist yet."""
    (tmp_path / "notebooks").mkdir()
    for number in ("00", "01"):
        write(tmp_path / "notebooks" / f"{number}_look.ipynb", number=number)
    return tmp_path / "notebooks", tmp_path / "work"


def test_a_copy_is_made_once(folders: tuple[Path, Path]) -> None:
    """What an attendee wrote stays; a notebook that came later is added."""
    source, work = folders
    assert [path.name for path in jupyter.make_copies(*folders)] == [
        "00_look.ipynb",
        "01_look.ipynb",
    ]
    (work / "00_look.ipynb").write_text("my answers")
    write(source / "02_look.ipynb", number="02")
    assert [path.name for path in jupyter.make_copies(*folders)] == ["02_look.ipynb"]
    assert (work / "00_look.ipynb").read_text() == "my answers"


def test_a_reset_sets_the_old_copy_aside(folders: tuple[Path, Path]) -> None:
    """Only the named notebook is replaced, and the repository's is never touched."""
    source, work = folders
    clean = (source / "00_look.ipynb").read_text()
    assert jupyter.reset([], source, work) is None
    (work / "00_look.ipynb").write_text("my answers")
    (work / "01_look.ipynb").write_text("others")
    aside = jupyter.reset(["00"], source, work)
    assert aside and (aside / "00_look.ipynb").read_text() == "my answers"
    assert (work / "00_look.ipynb").read_text() == clean == (source / "00_look.ipynb").read_text()
    assert (work / "01_look.ipynb").read_text() == "others"
    with pytest.raises(NotebookError, match="no notebook '77'"):
        jupyter.reset(["77"], source, work)


def test_git_ignores_the_copies() -> None:
    """A workshop leaves no change that git, lint or the notebook rules would see."""
    file = jupyter.WORK / "00_stand_up_the_lab.ipynb"
    done = subprocess.run(["git", "check-ignore", str(file)], cwd=REPO, capture_output=True)
    assert done.returncode == 0
    assert file.name in {path.name for path in jupyter.choose([], jupyter.NOTEBOOKS)}


def test_the_commands(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lab exercises` shows the score, and `lab reset notebooks --score` begins again."""
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(jupyter.reset, "__defaults__", folders)
    monkeypatch.setattr(jupyter.make_copies, "__defaults__", folders)

    check("00-writing-tools", 1, pd.DataFrame({"writes": [True, False]}))
    shown = CliRunner().invoke(app, ["exercises"])
    assert shown.exit_code == 0 and "[x] writing-tools" in shown.output
    done = CliRunner().invoke(app, ["reset", "notebooks", "--score"])
    assert done.exit_code == 0 and "clean notebooks are in" in done.output
    assert score() == {} and (folders[1] / "00_look.ipynb").exists()
