"""The rules for notebooks in git, and what can be read from a notebook that follows them."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from lab.exercises import EXERCISES
from lab.runner.cell_outputs import ROLES, roles_of

META_LINE = re.compile(
    r"^\*Level: (?P<level>[^·*]+) · Time: (?P<minutes>\d+) minutes · Needs: (?P<needs>[^*]+)\*$",
    re.MULTILINE,
)
LONGEST_CELL = 25  # lines; a longer one belongs in lab/
WIDEST_LINE = 88  # columns of code, which fit beside JupyterLab's folders
# One typed and commented scalar per line: papermill shows type, default and comment.
PARAMETER = re.compile(r"^\w+: (int|float|str|bool) = (?P<value>.+?)  # \S.*$")
LINK = re.compile(r"\[(?P<title>[^\]]+)\]\((?P<file>[^)#]+\.ipynb)\)")
CHECK = re.compile(r'lab\.check\(\s*"(?P<exercise>[^"]+)",\s*(?P<answer>\w+)')
STRIP = "strip it with `python -m scripts.check_notebooks --fix`"


@dataclass(frozen=True)
class Opening:
    """The content of a notebook's first cell."""

    number: str
    title: str
    level: str
    minutes: int
    needs: str
    bullets: tuple[str, ...]


def opening_of(notebook: Path) -> Opening | None:
    """Return the first cell's content, None where it does not follow the rules (see `problems`)."""
    cells = nbformat.read(notebook, as_version=4).cells
    source = cells[0].source if cells and cells[0].cell_type == "markdown" else ""
    title = re.match(r"# (\d\d) (.+)", source)
    meta = META_LINE.search(source)
    if not (title and meta):
        return None
    bullets = re.findall(r"^- (.+)$", source.partition("You will see:")[2], re.MULTILINE)
    return Opening(
        title.group(1),
        title.group(2).strip(),
        meta["level"].strip(),
        int(meta["minutes"]),
        meta["needs"].strip(),
        tuple(bullets),
    )


def exercises_in(cells: list[Any]) -> dict[str, int]:
    """Return {name of an exercise: index of the cell that checks it}."""
    checks = {}
    for index, cell in enumerate(cells):
        if cell.cell_type == "code":
            for match in CHECK.finditer(cell.source):
                checks[match["exercise"]] = index
    return checks


def answers_in(cells: list[Any]) -> dict[str, int]:
    """Return {name of an exercise: index of its cell `answer = ...`}, before the check.

    Predictions are asked long before they are checked.
    """
    answers = {}
    for name, index in exercises_in(cells).items():
        variables = {
            match["answer"]
            for match in CHECK.finditer(cells[index].source)
            if match["exercise"] == name
        }
        for before in range(index):
            if cells[before].source.strip() in {f"{variable} = ..." for variable in variables}:
                answers[name] = before
    return answers


def problems(notebook: Path) -> list[str]:
    """Return every rule that a notebook breaks, as sentences; none where it may be committed."""
    content = nbformat.read(notebook, as_version=4)
    if not content.cells:
        return ["it is empty"]
    name = content.metadata.get("kernelspec", {}).get("name")
    kernel = f"its kernel is {name!r}; only 'python3' is there on every machine"
    return [
        *_traces_of_a_run(content),
        *_opening_and_recap(notebook, content.cells),
        *_cells(content.cells),
        *_links(notebook, content.cells),
        *_exercises(notebook, content.cells),
        *_parameters(content.cells),
        *([kernel] if name != "python3" else []),
    ]


def _traces_of_a_run(content: Any) -> Iterator[str]:
    traces: dict[str, Callable[[Any], bool]] = {
        "outputs": lambda cell: bool(cell.get("outputs")),
        "an execution count": lambda cell: cell.get("execution_count") is not None,
        "metadata of a run": lambda cell: bool({"papermill", "execution"} & set(cell.metadata)),
        "code injected by papermill": lambda cell: "injected-parameters" in _tags(cell),
    }
    if "papermill" in content.metadata:
        yield f"papermill's metadata is in it: {STRIP}"
    for what, is_in in traces.items():
        cells = [str(index + 1) for index, cell in enumerate(content.cells) if is_in(cell)]
        if cells:
            yield f"{what} in cell {', '.join(cells)}: {STRIP}"


def _tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])


def _opening_and_recap(notebook: Path, cells: list[Any]) -> Iterator[str]:
    opening = opening_of(notebook)
    if opening is None:
        meta = "*Level: ... · Time: NN minutes · Needs: ...*"
        yield f"the first cell is not '# NN Title' with '{meta}'"
    elif opening.number != notebook.name[:2]:
        yield f"its title has number {opening.number}, its file {notebook.name[:2]}"
    elif not 1 <= len(opening.bullets) <= 3:
        yield "the first cell does not have one to three bullets after 'You will see:'"

    last = cells[-1].source if cells[-1].cell_type == "markdown" else ""
    if not last.startswith("## Recap") or "Next:" not in last:
        yield "the last cell is not '## Recap' with 'Next:'"


def _cells(cells: list[Any]) -> Iterator[str]:
    for number, cell in enumerate(cells, 1):
        for role in roles_of(cell):
            if role not in ROLES or cell.cell_type != "code":
                roles = ", ".join(ROLES)
                yield f"cell {number} is tagged 'role:{role}'; code cells may have {roles}"
        if cell.cell_type != "code":
            continue
        lines = cell.source.splitlines()
        if len(lines) > LONGEST_CELL:
            yield f"cell {number} has {len(lines)} lines; code over {LONGEST_CELL} belongs in lab/"
        widest = max((len(line) for line in lines), default=0)
        if widest > WIDEST_LINE:
            yield f"cell {number} has a line of {widest} columns; at most {WIDEST_LINE} are shown"


def _links(notebook: Path, cells: list[Any]) -> Iterator[str]:
    """Yield links without a file or with another title, and a missing link to the next one."""
    for number, cell in enumerate(cells, 1):
        for link in LINK.finditer(cell.source) if cell.cell_type == "markdown" else ():
            target = notebook.parent / link["file"]
            opening = opening_of(target) if target.exists() else None
            if opening is None:
                yield f"cell {number} links to {link['file']}, which is not a notebook here"
            elif link["title"] != f"{opening.number} {opening.title}":
                title = f"{opening.number} {opening.title}"
                yield f"cell {number} links to '{link['title']}', but its title is '{title}'"

    names = sorted(path.name for path in notebook.parent.glob("[0-9][0-9]_*.ipynb"))
    after = names[names.index(notebook.name) + 1 :] if notebook.name in names else []
    if after and f"({after[0]})" not in cells[-1].source.partition("Next:")[2]:
        yield f"its 'Next:' does not link to {after[0]}"


def _exercises(notebook: Path, cells: list[Any]) -> Iterator[str]:
    """Yield what is wrong with the cells `answer = ...` and with the checks that follow them."""
    answers = answers_in(cells)
    for name, index in exercises_in(cells).items():
        if name not in EXERCISES or name[:2] != notebook.name[:2]:
            yield f"cell {index + 1} checks '{name}', which is not an exercise of this notebook"
        if name not in answers:
            yield f"a cell before cell {index + 1} must be 'answer = ...', with the checked name"
    for number, cell in enumerate(cells, 1):
        if "solution" in _tags(cell):
            yield f"cell {number} shows a solution; solutions belong in tests/solutions.py"


def _parameters(cells: list[Any]) -> Iterator[str]:
    tagged = [cell for cell in cells if "parameters" in _tags(cell)]
    if len(tagged) != 1:
        yield f"it has {len(tagged)} cells tagged 'parameters' instead of one"
        return
    for line in tagged[0].source.splitlines():
        match = PARAMETER.match(line)
        if not line.strip() or line.startswith("#"):
            continue
        if not match:
            yield f"parameter line {line!r} is not 'name: type = value  # comment'"
        elif not _is_scalar(match["value"]):
            yield f"parameter line {line!r} does not give a scalar"


def _is_scalar(text: str) -> bool:
    try:
        return isinstance(ast.literal_eval(text), (int, float, str, bool))
    except (ValueError, SyntaxError):
        return False
