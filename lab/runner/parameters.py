"""Check parameters before papermill sees them.

papermill only logs a name that a notebook does not have, and runs on.
"""

from __future__ import annotations

import ast
import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import papermill

from lab.errors import NotebookError

TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
}


def parameters_of(notebook: Path) -> dict[str, dict[str, Any]]:
    """Return {name: {inferred_type_name, default, help}} of a notebook's parameters cell.

    Raises NotebookError for a file that is not a notebook.
    """
    # papermill warns of every notebook without such a cell; `assign` reports it where it matters.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        return dict(papermill.inspect_notebook(notebook))
    except Exception as e:  # papermill, nbformat and json raise without a common base
        raise NotebookError(
            f"{notebook.name} cannot be read as a notebook",
            got=f"{type(e).__name__}: {e}",
            fix=f"restore {notebook}, or save it in JupyterLab, which adds what is missing",
        ) from e


def assign(notebooks: list[Path], given: Mapping[str, Any]) -> dict[Path, dict[str, Any]]:
    """Return for each notebook those of the given parameters that it has.

    Raises NotebookError for a name that none of them has (with similar names), for a value of
    another type than the parameter's default, and for a window with a notebook that takes none: it
    would start the lab and analyse something else.
    """
    known = {path: parameters_of(path) for path in notebooks}
    names = {name for parameters in known.values() for name in parameters}
    for path, parameters in known.items():
        if "window" in given and "window" not in parameters:
            raise NotebookError(
                f"{path.name} takes no window: it sends its own requests",
                got=f"window={given['window']}",
                fix="use notebook 09 (lab run 09 -p window=...), or `lab investigate WINDOW`",
            )

    for name in given:
        if name not in names:
            raise _unknown(name, notebooks, names)

    shares: dict[Path, dict[str, Any]] = {}
    for path, parameters in known.items():
        shares[path] = {name: value for name, value in given.items() if name in parameters}
        for name, value in shares[path].items():
            _check_type(path, name, value, parameters[name])
    return shares


def _unknown(name: str, notebooks: list[Path], names: set[str]) -> NotebookError:
    similar = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    which = notebooks[0].name if len(notebooks) == 1 else f"any of the {len(notebooks)} notebooks"
    return NotebookError(
        f"{name!r} is not a parameter of {which}",
        got=f"the parameters are {', '.join(sorted(names)) or 'none'}",
        fix=f"did you mean {' or '.join(similar)}?" if similar else "use one of those names",
    )


def _check_type(path: Path, name: str, value: Any, parameter: dict[str, Any]) -> None:
    default = parameter["default"]
    allowed = TYPES.get(parameter["inferred_type_name"]) or TYPES.get(_type_of(default))
    if allowed is None:
        return

    # A bool is an int for Python, but not for a reader of the notebook.
    fits = isinstance(value, allowed) and (allowed == (bool,) or not isinstance(value, bool))
    if not fits:
        raise NotebookError(
            f"parameter {name} of {path.name} cannot be {value!r}",
            got=f"its default is {default}, so it takes a {allowed[-1].__name__}",
            fix=f"give a value like {default}",
        )


def _type_of(default: str) -> str:
    try:
        return type(ast.literal_eval(default)).__name__
    except (ValueError, SyntaxError):
        return ""
