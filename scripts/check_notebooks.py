"""Check notebooks against the rules; with --fix strip what a run left behind."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nbformat
from nbstripout import strip_output

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


def main(argv: list[str]) -> int:
    """Return 1 if a notebook breaks a rule, or was changed by --fix (so that a commit stops)."""
    parser = argparse.ArgumentParser(prog="scripts.check_notebooks", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--fix", action="store_true", help="strip what a run left behind")
    options = parser.parse_args(argv)

    bad = False
    for path in options.files or sorted(NOTEBOOKS.glob("*.ipynb")):
        if options.fix and strip(path):
            bad = True
            print(f"{path}: stripped")
        for problem in problems(path):
            bad = True
            print(f"{path}: {problem}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
