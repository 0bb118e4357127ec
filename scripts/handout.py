"""Make what is handed out at a workshop: `python -m scripts.handout [RUN]`.

It writes out/handout/ and out/handout.zip: the executed notebooks of a run (by default the newest
in out/) as web pages, its report, the architecture picture and the glossary. With `--solutions`, it
writes notebooks that contain the reference solutions to out/solutions/ instead.
"""

import html
import shutil
import sys
from pathlib import Path
from typing import Annotated

import nbformat
import typer
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import markdown2html_mistune

from lab.command_line import as_main
from lab.errors import LabError
from lab.runner.execute import title_of
from lab.runner.report import REPORT_FILE, newest
from lab.settings import REPO
from tests.solutions import solved

NOTEBOOKS = REPO / "notebooks"
DOCS = {"architecture": "The parts of the lab", "glossary": "Glossary"}
PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    "<style>body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto }}"
    " td, th {{ text-align: left; padding: .3rem .8rem .3rem 0; vertical-align: top }}</style>"
    "{body}</html>\n"
)


def write_solutions(folder: Path) -> list[Path]:
    """Write a copy of each notebook that contains the reference solutions of the tests."""
    folder.mkdir(parents=True, exist_ok=True)
    return [solved(path, folder) for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))]


def write_handout(run: Path, folder: Path) -> Path:
    """Write the handout of an executed run into a new `folder`, and return its zip file.

    Raises LabError where the run has no executed notebook.
    """
    executed = sorted((run / "notebooks").glob("[0-9]*.ipynb"))
    if not executed:
        raise LabError(
            f"{run} has no executed notebook", fix="name a folder of out/ that `lab run` wrote"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    links = []
    if (run / REPORT_FILE).exists():
        shutil.copy(run / REPORT_FILE, folder / "report.html")
        links.append(("report.html", "The report"))
    for notebook in executed:
        page, _ = HTMLExporter().from_notebook_node(nbformat.read(notebook, as_version=4))
        page = page.replace('src="../docs/images/', 'src="images/')
        (folder / f"{notebook.stem}.html").write_text(page, encoding="utf-8")
        shutil.copy(notebook, folder)
        links.append((f"{notebook.stem}.html", title_of(notebook)))
    for name, title in DOCS.items():
        text = (REPO / f"docs/{name}.md").read_text(encoding="utf-8")
        _write_page(folder / f"{name}.html", title, markdown2html_mistune(text))
        links.append((f"{name}.html", title))
    shutil.copytree(REPO / "docs/images", folder / "images")

    items = "".join(f'<li><a href="{file}">{html.escape(title)}</a></li>' for file, title in links)
    title = "LLM Observability Lab: handout"
    _write_page(folder / "index.html", title, f"<h1>{title}</h1><ul>{items}</ul>")
    return Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))


def _write_page(path: Path, title: str, body: str) -> None:
    path.write_text(PAGE.format(title=title, body=body), encoding="utf-8")


def handout(
    run: Annotated[
        Path | None, typer.Argument(help="A folder of out/. Default: the newest.")
    ] = None,
    solutions: Annotated[
        bool, typer.Option("--solutions", help="Write the solved notebooks instead.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the result.")] = None,
) -> None:
    """Make what is handed out at a workshop: executed notebooks, report, picture, glossary."""
    if solutions:
        folder = out or REPO / "out/solutions"
        print(f"{len(write_solutions(folder))} notebooks with solutions are in {folder}")
    else:
        print(write_handout(run or newest(REPO / "out"), out or REPO / "out/handout"))


main = as_main(handout, "python -m scripts.handout", prints_errors=True)


if __name__ == "__main__":
    sys.exit(main())
