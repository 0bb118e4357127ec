"""Run benchmarks one after the other, each in its own process; print one table, write results.json."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lab.command_line import refuse, run_verb
from lab.errors import LabError
from lab.runner import facts
from lab.settings import REPO, load_settings

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results.json"
REQUIRED = {"subject": str, "metric": str, "value": (int, float), "better": str}


class BenchmarkError(LabError):
    """A benchmark failed, or returned something that is not a row."""


def main(argv: list[str]) -> int:
    """Return 0 if every benchmark ran and kept the project's promises."""
    return run_verb(bench, argv, "bench")


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of benchmarks. Default: all.")
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="Short runs.")] = False,
) -> int:
    """Run benchmarks: ours beside what others offer."""
    known = available()
    if unknown := set(names or []) - set(known):
        message = f"{', '.join(sorted(unknown))} is not among {', '.join(known)}"
        raise refuse(message, "NAMES")
    about = facts.collect(load_settings())
    rows = []
    failed = []
    for name in names or known:
        print(f"== {name}", flush=True)
        try:
            rows += run_one(name, ["--small"] if small else [])
        except BenchmarkError as e:
            failed.append(name)
            print(e, file=sys.stderr)
    _save(rows, about, partial=bool(names))
    Console(width=None if sys.stdout.isatty() else 150).print(_table(rows))
    broken = [row for row in rows if breaks_promise(row)]
    for row in broken:
        print(
            f"{row['benchmark']}: {row['metric']} is {row['value']:.4g}, promised {row['bound']:g}",
            file=sys.stderr,
        )
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed or broken else 0


def available(folder: Path = FOLDER) -> list[str]:
    """Names of the benchmarks there are: modules with a `main(argv)`. Others here are their helpers."""
    modules = (p for p in folder.glob("*.py") if not p.stem.startswith("_"))
    return sorted(
        p.stem for p in modules if re.search(r"(?m)^def main\(argv", p.read_text(encoding="utf-8"))
    )


def run_one(name: str, argv: list[str]) -> list[dict[str, Any]]:
    """Rows of one benchmark, each with `benchmark` and `took_s`. Raises BenchmarkError."""
    code = (
        "import importlib, json, pathlib, sys; "
        "rows = importlib.import_module('benchmarks.' + sys.argv[1]).main(sys.argv[3:]); "
        "pathlib.Path(sys.argv[2]).write_text(json.dumps(rows))"
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
        }
        done = subprocess.run(
            [sys.executable, "-c", code, name, str(out), *argv], env=env, cwd=REPO
        )
        if done.returncode != 0:
            raise BenchmarkError(
                f"benchmark {name} failed",
                got=f"exit status {done.returncode}",
                fix="its own words are above",
            )
        rows = json.loads(out.read_text())
    took_s = round(time.monotonic() - began, 1)
    return [{"benchmark": name, **checked(name, row), "took_s": took_s} for row in rows]


def checked(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row, if it is one. Raises BenchmarkError."""
    for key, kind in REQUIRED.items():
        if not isinstance(row.get(key), kind):
            raise BenchmarkError(
                f"benchmark {name} returned a row without a usable {key}", got=json.dumps(row)
            )
    if row["better"] not in ("lower", "higher") or not math.isfinite(row["value"]):
        raise BenchmarkError(
            f"benchmark {name} returned a row that cannot be judged",
            got=json.dumps(row),
            fix="`better` is lower or higher, `value` a finite number",
        )
    return row


def breaks_promise(row: dict[str, Any]) -> bool:
    """Whether the lab's own value is worse than the bound that the project promises."""
    if row["subject"] != "lab" or "bound" not in row:
        return False
    return row["value"] > row["bound"] if row["better"] == "lower" else row["value"] < row["bound"]


def _save(rows: list[dict[str, Any]], about: dict[str, str], *, partial: bool) -> None:
    """Replace the results; of a partial run only those of the benchmarks that ran."""
    if partial and RESULTS.exists():
        ran = {row["benchmark"] for row in rows}
        rows = [
            row for row in json.loads(RESULTS.read_text())["rows"] if row["benchmark"] not in ran
        ] + rows
    text = json.dumps(
        {"measured_on": time.strftime("%Y-%m-%d"), "facts": about, "rows": rows}, indent=1
    )
    part = RESULTS.with_suffix(".part")
    part.write_text(text + "\n")
    os.replace(part, RESULTS)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("benchmark", "metric", "subject", "value", "better", "bound", "note"):
        table.add_column(heading, justify="right" if heading in ("value", "bound") else "left")
    for row in rows:
        bound = f"{row['bound']:g}" if "bound" in row else ""
        value = (
            f"[bold red]{row['value']:,.4g}[/]" if breaks_promise(row) else f"{row['value']:,.4g}"
        )
        table.add_row(
            row["benchmark"],
            row["metric"],
            row["subject"],
            value,
            row["better"],
            bound,
            row.get("note", ""),
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
