"""`lab incident`: bring a known fault about, undo it, and say what it was."""

import json
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from lab import incidents
from lab.command_line import STYLE, Json
from lab.incidents import INCIDENTS, Record
from lab.settings import load_settings

app = typer.Typer(
    name="lab incident",
    help="Bring about a real incident in the running lab, undo it, and reveal what it was.",
    no_args_is_help=True,
    **STYLE,
)


def main(argv: list[str]) -> int:
    """Run a command. Returns its exit status; raises what lab.incidents raises."""
    try:
        app(argv, prog_name="lab incident")
    except SystemExit as e:
        return int(e.code or 0)
    return 0


@app.command("list")
def list_incidents(as_json: Json = False) -> None:
    """List the incidents, where each shows, and the alerts that must fire."""
    if as_json:
        rows = {
            name: {k: v for k, v in vars(i).items() if k != "draw"} for name, i in INCIDENTS.items()
        }
        print(json.dumps(rows, indent=1))
        return
    name_column = Column("incident", no_wrap=True)
    headings = ("what changes", "shows in", "alerts")
    table = Table(name_column, *headings, box=None, padding=(0, 2, 0, 0))
    for name, incident in INCIDENTS.items():
        within = f" within {incident.alert_within_s:.0f} s" if incident.alerts else "-"
        alerts = ", ".join(incident.alerts) + within
        restarts = " (parts restart)" if incident.restarts else ""
        table.add_row(name, f"{incident.changes}{restarts}", incident.phase, alerts)
    Console().print(table)


@app.command()
def start(
    name: Annotated[str, typer.Argument(help="As `lab incident list` names it; or `any`.")],
    seed: Annotated[
        int | None, typer.Option(help="Of all draws. Default: 0, or random with --hidden.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Default: drawn from the seed.")
    ] = None,
    hidden: Annotated[
        bool, typer.Option("--hidden", help="Keep secret which one it is, until `reveal`.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start an incident, and wait until it is in effect: up to 20 s, or 60 s if vLLM restarts."""
    settings = load_settings()
    record = incidents.start(name, settings, seed=seed, strength=strength, hidden=hidden)
    _print(record, as_json)


@app.command()
def stop(as_json: Json = False) -> None:
    """Undo the incident, and wait until the lab is as before."""
    _print(incidents.stop(load_settings()), as_json)


@app.command()
def reveal(as_json: Json = False) -> None:
    """Show what the incident is or was, also of a hidden one."""
    _print(incidents.reveal(load_settings()), as_json)


@app.command()
def status(as_json: Json = False) -> None:
    """Show whether an incident is on. Exit status 1 if none is."""
    record = incidents.current(load_settings(running_stack=False))
    if record is None:
        print("null" if as_json else "there was no incident")
    else:
        _print(record, as_json)
    raise typer.Exit(0 if record and record.ended_at is None else 1)


def _print(record: Record, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(record), indent=1))
        return
    state = "on" if record.ended_at is None else f"ended at {_clock(record.ended_at)}"
    if not record.name:
        print(f"a hidden incident, {state}; `lab incident reveal` shows which one it is")
        return
    details = ", ".join(f"{key} {value}" for key, value in record.parameters.items())
    print(f"{record.name}, {state}: {INCIDENTS[record.name].changes}")
    print(f"  strength {record.strength:g}, seed {record.seed}; {details or 'no parameters'}")
    print(f"  where: {where(record)}; shows in {INCIDENTS[record.name].phase}")
    if record.onset_at:
        print(f"  since {_clock(record.onset_at)}")


def where(record: Record) -> str:
    """Return the part, tool or tenant that an incident is about."""
    return INCIDENTS[record.name].place.format(**record.parameters)


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
