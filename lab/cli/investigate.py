"""`lab investigate`: what changed in a window, since when, where, and which causes are likely."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.command_line import Json, PrometheusUrl, TempoUrl, as_main, refuse, write_output
from lab.investigation import Investigation, as_html, as_markdown, investigate
from lab.investigation.causes import NOTHING
from lab.investigation.report import causes_table, changes_table
from lab.settings import load_settings

FORMS = {".md": as_markdown, ".html": as_html}


def investigate_window(
    window: Annotated[
        str, typer.Argument(help="START/END in ISO 8601 with a time zone, or 'last 15m'.")
    ] = "last 5m",
    baseline: Annotated[
        str, typer.Option(help="What to compare it with. Default: the time before the window.")
    ] = "",
    prometheus: PrometheusUrl = "",
    tempo: TempoUrl = "",
    out: Annotated[
        Path | None, typer.Option(help="Write the report to this file: .md or .html.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Report what changed in a window, since when, where, and the likely causes.

    Reads any Prometheus and Tempo, or one of them alone; sends and starts nothing. The exit status
    is 1 where something changed.
    """
    if out is not None and out.suffix not in FORMS:
        raise refuse(f"{out} is neither .md nor .html", "--out")
    given: dict[str, Any] = {"prometheus_url": prometheus, "tempo_url": tempo}
    settings = load_settings(**{name: url for name, url in given.items() if url})
    result = investigate(settings, window, baseline)
    if out is not None:
        write_output(out, FORMS[out.suffix](result))
    print(json.dumps(as_values(result), indent=1) if as_json else as_markdown(result))
    return int(result.cause != NOTHING)


def as_values(result: Investigation) -> dict[str, Any]:
    """Return an investigation as plain values."""
    return {
        "window": result.window,
        "baseline": result.baseline,
        "headline": str(result),
        "cause": result.cause,
        "where": result.where,
        "onset": asdict(result.onset) if result.onset else None,
        "changes": json.loads(changes_table(result).to_json(orient="records")),
        "causes": json.loads(causes_table(result).to_json(orient="records")),
        "notes": result.notes,
    }


main = as_main(investigate_window, "lab investigate")
