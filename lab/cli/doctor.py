"""`lab doctor`: whether telemetry is true; with --here, what this machine lacks."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lab.command_line import Json, as_main, refuse

if TYPE_CHECKING:
    from lab.doctor import Check, Finding

UNREADABLE = "unreadable"


def doctor(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="A Prometheus, a Tempo, a /metrics page (URLs or files), OTLP JSON, a Grafana "
            "dashboard, rules, a KEDA trigger, manifests, or a folder of such files."
        ),
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option("--query", help="Check this PromQL expression, too.")
    ] = None,
    before: Annotated[
        str, typer.Option(help="An earlier /metrics page of the same target, to compare with.")
    ] = "",
    window: Annotated[
        str, typer.Option(help="Of a store: START/END in ISO 8601 with a time zone, or 'last 15m'.")
    ] = "last 15m",
    level: Annotated[
        Literal["note", "error"],
        typer.Option(help="note: report all; error: only what makes a number missing or wrong."),
    ] = "note",
    as_json: Json = False,
    show_checks: Annotated[
        bool, typer.Option("--checks", help="List everything that is looked for, and stop.")
    ] = False,
    here: Annotated[
        bool, typer.Option("--here", help="Check this machine: what the lab needs to run on it.")
    ] = False,
) -> int:
    """Check whether telemetry is true: that it says what its readers take it for.

    Each finding has its evidence, what follows from it, and how to correct it. Targets that are
    named together are checked against each other: queries against the series of a page or a
    Prometheus, monitors against Services and pods. Exit status: 0 without a finding, 1 with
    findings, 2 if a target cannot be read. Logins are given as for `lab attach`.
    """
    if here:
        return int(importlib.import_module("scripts.doctor").main())

    from lab.doctor import checks, examine

    if show_checks:
        return _print_checks(checks())
    targets = list(targets or ())
    queries = list(query or ())
    if not targets + queries:
        raise refuse("name what to check, or --here for this machine", "TARGETS")
    findings = examine(targets, queries=queries, before=before, window=window)
    findings = [each for each in findings if level in ("note", each.level)]
    if as_json:
        print(json.dumps({"findings": [each.as_dict() for each in findings]}, indent=1))
    else:
        _print(findings, len(targets + queries))
    return _exit_status(findings)


def _print_checks(checks: Mapping[str, Check]) -> int:
    for name, check in checks.items():
        print(f"{name} ({check.level}): {check.consequence}\n  fix: {check.fix}")
    return 0


def _exit_status(findings: Sequence[Finding]) -> int:
    if any(each.check == UNREADABLE for each in findings):
        return 2
    return 1 if findings else 0


def _print(findings: Sequence[Finding], targets: int) -> None:
    for each in findings:
        where = f" {each.where}" if each.where else ""
        print(f"{each.level}: {each.check}: {each.target}{where}")
        print(f"  {each.evidence}")
        print(f"  so: {each.consequence}")
        print(f"  fix: {each.fix}\n")
    print(f"{len(findings)} findings in {targets} targets")


main = as_main(doctor, "lab doctor")
