"""One parser, and one look, for every verb of `lab`: annotations are its command line."""

import contextlib
import functools
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.errors import LabError, SettingsError

STYLE: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich",
}

# Options that several verbs have.
PrometheusUrl = Annotated[
    str, typer.Option(metavar="URL", help="Prometheus. Default: that of the settings.")
]
TempoUrl = Annotated[str, typer.Option(metavar="URL", help="Tempo. Default: that of the settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def as_main(
    function: Callable[..., int | None], program: str, *, prints_errors: bool = False
) -> Callable[..., int]:
    """Return `main(argv)` of a program, which parses `argv` for `function` by its annotations.

    It returns the exit status: that of the function (None is 0), or 2, with a message on stderr,
    for a wrong command line. A LabError of the function is raised; with `prints_errors` it is
    printed, and the status is 1. A parameter of the type typer.Context receives `argv` as its
    `obj`. Without arguments, `main()` parses those of the process.
    """

    def main(argv: list[str] | None = None) -> int:
        argv = sys.argv[1:] if argv is None else argv
        status = 0

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> None:
            nonlocal status
            try:
                status = function(*args, **options) or 0
            except LabError as e:
                if not prints_errors:
                    raise
                print(e, file=sys.stderr)
                status = 1

        app = typer.Typer(**STYLE)
        app.command()(call)
        try:
            app(argv, prog_name=program, obj=argv)
        except SystemExit as e:
            return int(e.code or status)
        return status

    return main


def write_output(path: Path, text: str) -> None:
    """Write the file that an option names. Raises SettingsError where it cannot be written."""
    from lab.files import write_atomically  # not for `lab --help`

    try:
        write_atomically(path, text)
    except OSError as e:
        raise SettingsError(f"{path} cannot be written", got=str(e), fix="name another file") from e


@contextlib.contextmanager
def term_as_interrupt() -> Iterator[None]:
    """Have SIGTERM raise KeyboardInterrupt, as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def refuse(message: str, option: str) -> typer.BadParameter:
    """Return the error for an option's value that its type allows and the verb does not."""
    return typer.BadParameter(message, param_hint=option)
