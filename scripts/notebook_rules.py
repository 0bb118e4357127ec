"""The rules for notebooks in git, and what can be read from a notebook that follows them."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from lab.runner.roles import ROLES, roles_of

META_LINE = re.compile(
    r"^\*Level: (?P<level>[^·*]+) · Time: (?P<minutes>\d+) minutes · Needs: (?P<needs>[^*]+)\*$",
    re.MULTILINE,
)
LONGEST_CELL = 25  # lines; a longer one belongs in lab/
# One typed and commented scalar a line: papermill shows type, default and comment.
PARAMETER = re.compile(r"^\w+: (int|float|str|bool) = (?P<value>.+?)  # \S.*$")


@dataclass(frozen=True)
class Opening:
    """What the first cell of a notebook says."""

    number: str
    title: str
    level: str
    minutes: int
    needs: str
    bullets: tuple[str, ...]


def opening_of(notebook: Path) -> Opening | None:
    """The first cell's content, None where it does not follow the rules (`problems` says how)."""
    cells = nbformat.read(notebook, as_version=4).cells
    source = cells[0].source if cells and cells[0].cell_type == "markdown" else ""
    title, meta = re.match(r"# (\d\d) (.+)", source), META_LINE.search(source)
    if not (title and meta):
        return None
    bullets = tuple(re.findall(r"^- (.+)$", source.partition("You will see:")[2], re.MULTILINE))
    return Opening(
        title.group(1),
        title.group(2).strip(),
        meta["level"].strip(),
        int(meta["minutes"]),
        meta["needs"].strip(),
        bullets,
    )


def problems(notebook: Path) -> list[str]:
    """Every rule that a notebook breaks, as sentences; none for a notebook that may be committed."""
    content = nbformat.read(notebook, as_version=4)
    found = [
        *_traces_of_a_run(content),
        *_shape(notebook, content.cells),
        *_parameters(content.cells),
    ]
    name = content.metadata.get("kernelspec", {}).get("name")
    if name != "python3":
        found.append(f"its kernel is {name!r}; only 'python3' is there on every machine")
    return found


def _traces_of_a_run(content: Any) -> list[str]:
    found = []
    if "papermill" in content.metadata:
        found.append("papermill's metadata is in it")
    for index, cell in enumerate(content.cells):
        tags = cell.metadata.get("tags", [])
        if cell.get("outputs"):
            found.append(f"cell {index + 1} has outputs")
        if cell.get("execution_count") is not None:
            found.append(f"cell {index + 1} has an execution count")
        if "papermill" in cell.metadata or "execution" in cell.metadata:
            found.append(f"cell {index + 1} has metadata of a run")
        if "injected-parameters" in tags:
            found.append(f"cell {index + 1} was injected by papermill")
    return found


def _shape(notebook: Path, cells: list[Any]) -> list[str]:
    if not cells:
        return ["it is empty"]
    found, opening = [], opening_of(notebook)
    if opening is None:
        found.append(
            "the first cell is not '# NN Title' with '*Level: ... · Time: NN minutes · Needs: ...*'"
        )
    elif opening.number != notebook.name[:2]:
        found.append(f"its title has number {opening.number}, its file {notebook.name[:2]}")
    elif not 1 <= len(opening.bullets) <= 3:
        found.append("the first cell has not one to three bullets after 'You will see:'")
    last = cells[-1]
    if (
        last.cell_type != "markdown"
        or not last.source.startswith("## Recap")
        or "Next:" not in last.source
    ):
        found.append("the last cell is not '## Recap' with 'Next:'")
    for index, cell in enumerate(cells):
        lines = cell.source.count("\n") + 1
        if cell.cell_type == "code" and lines > LONGEST_CELL:
            found.append(
                f"cell {index + 1} has {lines} lines; what needs more than {LONGEST_CELL} belongs in lab/"
            )
        for role in roles_of(cell):
            if role not in ROLES or cell.cell_type != "code":
                found.append(
                    f"cell {index + 1} is tagged 'role:{role}'; code cells may have {', '.join(ROLES)}"
                )
    return found


def _parameters(cells: list[Any]) -> list[str]:
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        return [f"it has {len(tagged)} cells tagged 'parameters' instead of one"]
    found = []
    for line in tagged[0].source.splitlines():
        match = PARAMETER.match(line)
        if not line.strip() or line.startswith("#"):
            continue
        if not match:
            found.append(f"parameter line {line!r} is not 'name: type = value  # comment'")
        elif not _is_scalar(match["value"]):
            found.append(f"parameter line {line!r} does not give a scalar")
    return found


def _is_scalar(text: str) -> bool:
    try:
        return isinstance(ast.literal_eval(text), (int, float, str, bool))
    except (ValueError, SyntaxError):
        return False
