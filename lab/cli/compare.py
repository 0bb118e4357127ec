"""`lab compare`: two runs, windows or recordings, or one and a baseline; for people and for CI."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lab.command_line import as_main, refuse, write_output
from lab.comparison import UNCLEAR, WORSE, compare
from lab.comparison.report import as_junit, as_markdown
from lab.comparison.sample import load_sample
from lab.runner import facts
from lab.settings import load_settings

STATUS_WORSE = 3
STATUS_UNCLEAR = 4


def compare_runs(
    a: Annotated[
        str,
        typer.Argument(
            help="The baseline: a run (folder or id), RECORDING or RECORDING/RUN, a window ('last "
            "15m' or START/END), or a .parquet file of --save; with commas, several of one system."
        ),
    ],
    b: Annotated[str, typer.Argument(help="What to compare with it. Left out with --save.")] = "",
    margin: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Equal within this share of a's mean.")
    ] = 0.05,
    save: Annotated[
        Path | None, typer.Option(help="Write A as a baseline to this .parquet file.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write Markdown to this file.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit status 4 where E2E or failures are unclear.")
    ] = False,
) -> int:
    """Compare B with the baseline A: what is worse, by how much, and how sure that is.

    Exit status: 3 if a measure is worse, otherwise 0. A baseline holds numbers only, no prompts or
    answers, and is made to be kept in a repository.
    """
    if not (b or save):
        raise refuse("name what to compare with the baseline, or --save", "B")
    settings = load_settings()
    sample, notes = load_sample(a, settings)
    if save:
        if save.suffix != ".parquet":
            raise refuse("a baseline is a .parquet file", "--save")
        about = sample.about | {"made_on": facts.collect(settings)}
        print(f"{replace(sample, about=about).save(save)}: {len(sample)} requests")
    if not b:
        return 0

    other, more = load_sample(b, settings)
    result = compare(sample, other, margin=margin)
    result = replace(result, notes=(*notes, *more, *result.notes))
    print(result)
    for path, text in ((markdown, as_markdown(result)), (junit, as_junit(result))):
        if path:
            write_output(path, text)
    if result.verdict == WORSE:
        return STATUS_WORSE
    return STATUS_UNCLEAR if strict and result.verdict == UNCLEAR else 0


main = as_main(compare_runs, "lab compare")
