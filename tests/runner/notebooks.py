"""Write small notebooks for the tests of the runner."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
PARAMETERS = """rate: float = 1.0  # requests per second
name: str = 'a'  # the user
fast: bool = False  # skip the wait"""
OPENING = """# {number} Look around

*Level: first · Time: 10 minutes · Needs: the stack*

You will see:

- one thing"""


def write(path: Path, *code: str, parameters: str | None = PARAMETERS, number: str = "07") -> Path:
    """Write a notebook that follows the rules, with `code` between opening and recap."""
    cells = [new_markdown_cell(OPENING.format(number=number))]
    if parameters is not None:
        cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [new_code_cell(c) if not c.startswith("## ") else new_markdown_cell(c) for c in code]
    cells.append(new_markdown_cell("## Recap\n\nThat was it. Next: nothing."))
    notebook = new_notebook(
        cells=cells, metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    nbformat.write(notebook, path)
    return path
