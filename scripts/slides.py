"""Make slides from notebooks: `python -m scripts.slides [--out FOLDER] [NOTEBOOK ...]`.

`jupyter nbconvert --to slides` alone puts a whole notebook on one slide. Here every heading begins
a new one, code follows below it (down key), and the cells that check an exercise are left out. Take
executed notebooks, such as those of `lab run` in out/, to have their tables and figures too.
"""

import sys
from pathlib import Path
from typing import Annotated

import nbformat
import typer
from nbconvert import SlidesExporter
from nbformat import NotebookNode

from lab.command_line import as_main
from lab.errors import LabError
from lab.settings import REPO

HIDDEN_TAGS = {"parameters", "injected-parameters", "ci", "solution"}


def slide_type(cell: NotebookNode) -> str:
    """Return where nbconvert's slides put a cell."""
    tags = set(cell.metadata.get("tags", []))
    if cell.cell_type == "raw" or tags & HIDDEN_TAGS or "lab.check(" in cell.source:
        return "skip"
    if cell.cell_type == "code":
        return "subslide"
    return "slide" if cell.source.lstrip().startswith("#") else "subslide"


def make_slides(notebook: Path, folder: Path, reveal: str = "") -> Path:
    """Write the slides of a notebook to `folder`, and return their file.

    `reveal` is the address of a copy of reveal.js; the default is nbconvert's, on the internet.
    Raises LabError for a file that is not a notebook.
    """
    try:
        document = nbformat.read(notebook, as_version=4)
    except (OSError, ValueError) as e:
        raise LabError(
            f"{notebook} cannot be read as a notebook", got=str(e), fix="name a file NN_*.ipynb"
        ) from e
    for cell in document.cells:
        cell.metadata["slideshow"] = {"slide_type": slide_type(cell)}
        # nbconvert embeds pictures below the path in the resources only.
        cell.source = cell.source.replace("](../docs/images/", "](docs/images/")

    exporter = SlidesExporter(**({"reveal_url_prefix": reveal} if reveal else {}))
    exporter.embed_images = True
    resources = {"metadata": {"name": notebook.stem, "path": str(REPO)}}
    html, _ = exporter.from_notebook_node(document, resources=resources)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{notebook.stem}.slides.html"
    target.write_text(html, encoding="utf-8")
    return target


def slides(
    notebooks: Annotated[list[Path] | None, typer.Argument(help="Default: all.")] = None,
    out: Path = REPO / "out/slides",
    reveal: Annotated[str, typer.Option(help="Address of a copy of reveal.js.")] = "",
) -> None:
    """Make slides from notebooks."""
    for notebook in notebooks or sorted((REPO / "notebooks").glob("[0-9]*.ipynb")):
        print(make_slides(notebook, out, reveal))


main = as_main(slides, "python -m scripts.slides", prints_errors=True)


if __name__ == "__main__":
    sys.exit(main())
