"""One look and one parser for every verb of `lab`: a function's annotations are its command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from click.exceptions import ClickException
from typer import rich_utils

STYLE: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich",
}


def run(function: Callable[..., int | None], argv: list[str], verb: str) -> int:
    """Parse `argv` for `function` (typer annotations) and call it. Returns the exit status.

    It is 2, with a message on stderr, for a wrong command line. Other errors are raised.
    """
    app = typer.Typer(**STYLE)
    app.command()(function)
    command = typer.main.get_command(app)
    try:
        status = command.main(argv, prog_name=f"lab {verb}", standalone_mode=False)
    except ClickException as e:
        rich_utils.rich_format_error(e)
        return e.exit_code
    return int(status or 0)


def refuse(message: str, option: str) -> typer.BadParameter:
    """Return the error for an option's value that the types allow and the verb does not."""
    return typer.BadParameter(message, param_hint=option)
