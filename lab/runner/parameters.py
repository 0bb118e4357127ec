"""Check parameters before papermill sees them: it only logs a name that the notebook does not have, and runs on."""

from __future__ import annotations

import ast
import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import papermill

from lab.errors import NotebookError

NUMBERS = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


def parameters_of(notebook: Path) -> dict[str, dict[str, Any]]:
    """{name: {inferred_type_name, default, help}} of a notebook's parameters cell. Raises NotebookError."""
    # papermill warns about every notebook without such a cell; we say it where it matters.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        return papermill.inspect_notebook(notebook)
    except Exception as e:  # papermill, nbformat and json raise without a common base
        raise NotebookError(
            f"{notebook.name} cannot be read as a notebook",
            got=f"{type(e).__name__}: {e}",
            fix=f"restore {notebook}, or open and save it in JupyterLab, which adds what is missing",
        ) from e


def assign(notebooks: list[Path], given: Mapping[str, Any]) -> dict[Path, dict[str, Any]]:
    """For each notebook those of the given parameters that it has.

    Raises NotebookError for a name that none of them has (with the names that come near), and for a value of another
    type than the parameter's default.
    """
    known = {path: parameters_of(path) for path in notebooks}
    everything = {name for parameters in known.values() for name in parameters}
    for name in given:
        if name not in everything:
            raise _unknown(name, notebooks, everything)
    shares: dict[Path, dict[str, Any]] = {}
    for path, parameters in known.items():
        shares[path] = {name: value for name, value in given.items() if name in parameters}
        for name, value in shares[path].items():
            _check_type(path, name, value, parameters[name])
    return shares


def _unknown(name: str, notebooks: list[Path], everything: set[str]) -> NotebookError:
    near = difflib.get_close_matches(name, everything, n=3, cutoff=0.5)
    which = notebooks[0].name if len(notebooks) == 1 else f"any of the {len(notebooks)} notebooks"
    return NotebookError(
        f"{name!r} is not a parameter of {which}",
        got=f"the parameters are {', '.join(sorted(everything)) or 'none'}",
        fix=f"did you mean {' or '.join(near)}?" if near else "use one of those names",
    )


def _check_type(path: Path, name: str, value: Any, parameter: dict[str, Any]) -> None:
    allowed = NUMBERS.get(parameter["inferred_type_name"]) or NUMBERS.get(
        _type_of(parameter["default"])
    )
    if allowed is None:
        return
    # bool is an int for Python, but not for a reader of the notebook
    fits = isinstance(value, allowed) and (allowed == (bool,) or not isinstance(value, bool))
    if not fits:
        raise NotebookError(
            f"parameter {name} of {path.name} cannot be {value!r}",
            got=f"its default is {parameter['default']}, so it takes a {allowed[-1].__name__}",
            fix=f"give a value like {parameter['default']}",
        )


def _type_of(default: str) -> str:
    try:
        return type(ast.literal_eval(default)).__name__
    except (ValueError, SyntaxError):
        return ""
