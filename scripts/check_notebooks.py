"""Check notebooks against the rules; with --fix strip what a run left behind."""

import sys
from pathlib import Path
from typing import Annotated

import nbformat
import typer
from nbstripout import strip_output

from lab.command_line import as_main
from lab.files import write_atomically
from scripts.notebook_rules import problems

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def strip(notebook: Path) -> bool:
    """Strip outputs, counts and what papermill added; return whether there was anything."""
    before = notebook.read_text(encoding="utf-8")
    content = nbformat.reads(before, as_version=4)
    content.cells = [
        c for c in content.cells if "injected-parameters" not in c.metadata.get("tags", [])
    ]

    content.metadata.pop("papermill", None)
    for cell in content.cells:
        cell.metadata.pop("papermill", None)
    content = strip_output(content, False, False, True, extra_keys=["cell.metadata.execution"])
    after = nbformat.writes(content) + "\n"
    if after == before:
        return False
    write_atomically(notebook, after)
    return True


def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Default: all.")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Strip what a run left behind.")] = False,
) -> int:
    """Check notebooks against the rules. Exit status 1 if one breaks a rule, or was stripped."""
    bad = False
    for path in files or sorted(NOTEBOOKS.glob("*.ipynb")):
        if fix and strip(path):
            bad = True
            print(f"{path}: stripped")
        for problem in problems(path):
            bad = True
            print(f"{path}: {problem}")
    return int(bad)


main = as_main(check, "python -m scripts.check_notebooks")


if __name__ == "__main__":
    sys.exit(main())
