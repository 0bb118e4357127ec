"""Run benchmarks in sequence, each in its own process; print a table and write results.json."""

from __future__ import annotations

import json
import math
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

from benchmarks._process import child_environment
from lab.command_line import as_main, refuse
from lab.errors import LabError
from lab.files import write_atomically
from lab.runner import facts
from lab.settings import REPO, load_settings

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results.json"
REQUIRED = {"subject": str, "metric": str, "value": (int, float), "better": str}


class BenchmarkError(LabError):
    """A benchmark failed, or returned something that is not a row."""


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of benchmarks. Default: all.")
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="Short runs.")] = False,
) -> int:
    """Compare the lab with alternatives, and check the bounds that the project promises."""
    known = available()
    if unknown := set(names or []) - set(known):
        message = f"{', '.join(sorted(unknown))} is not among {', '.join(known)}"
        raise refuse(message, "NAMES")

    about = facts.collect(load_settings())
    rows, failed = _run_all(names or known, ["--small"] if small else [])
    _save(rows, about, partial=bool(names))
    Console(width=None if sys.stdout.isatty() else 150).print(_table(rows))
    broken = [row for row in rows if breaks_promise(row)]
    for row in broken:
        result = f"{row['metric']} is {row['value']:.4g}, promised {row['bound']:g}"
        print(f"{row['benchmark']}: {result}", file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed or broken else 0


def _run_all(names: list[str], argv: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Run these benchmarks; return their rows, and the names of those that failed."""
    rows = []
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        try:
            rows += run_one(name, argv)
        except BenchmarkError as e:
            failed.append(name)
            print(e, file=sys.stderr)
    return rows, failed


def available(folder: Path = FOLDER) -> list[str]:
    """Return the names of the benchmarks: modules or packages with a `main(argv)`."""
    modules = {path.stem: path for path in folder.glob("*.py") if not path.stem.startswith("_")}
    modules |= {path.parent.name: path for path in folder.glob("*/__init__.py")}
    has_main = re.compile(r"(?m)^def main\(argv")
    return sorted(
        name for name, path in modules.items() if has_main.search(path.read_text(encoding="utf-8"))
    )


def run_one(name: str, argv: list[str]) -> list[dict[str, Any]]:
    """Run one benchmark and return its rows, with `benchmark` and `took_s` (wall-clock seconds).

    Raises BenchmarkError if it fails or returns something else.
    """
    code = (
        "import importlib, json, pathlib, sys; "
        "rows = importlib.import_module('benchmarks.' + sys.argv[1]).main(sys.argv[3:]); "
        "pathlib.Path(sys.argv[2]).write_text(json.dumps(rows))"
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-c", code, name, str(out), *argv]
        done = subprocess.run(command, env=child_environment(), cwd=REPO)
        if done.returncode != 0:
            raise BenchmarkError(
                f"benchmark {name} failed",
                got=f"exit status {done.returncode}",
                fix="see its output above",
            )
        rows = json.loads(out.read_text())

    took_s = round(time.monotonic() - began, 1)
    return [{"benchmark": name, **checked(name, row), "took_s": took_s} for row in rows]


def checked(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return the row if it has the required keys. Raises BenchmarkError otherwise."""
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
    """Return whether a value of the lab is worse than the bound that the project promises."""
    if row["subject"] != "lab" or "bound" not in row:
        return False
    return row["value"] > row["bound"] if row["better"] == "lower" else row["value"] < row["bound"]


def _save(rows: list[dict[str, Any]], about: dict[str, str], *, partial: bool) -> None:
    """Write the results; a partial run replaces only those of the benchmarks that ran."""
    if partial and RESULTS.exists():
        ran = {row["benchmark"] for row in rows}
        earlier = json.loads(RESULTS.read_text())["rows"]
        rows = [row for row in earlier if row["benchmark"] not in ran] + rows
    results = {"measured_on": time.strftime("%Y-%m-%d"), "facts": about, "rows": rows}
    write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("benchmark", "metric", "subject", "value", "better", "bound", "note"):
        table.add_column(heading, justify="right" if heading in ("value", "bound") else "left")
    for row in rows:
        bound = f"{row['bound']:g}" if "bound" in row else ""
        value = f"{row['value']:,.4g}"
        if breaks_promise(row):
            value = f"[bold red]{value}[/]"
        cells = [row["benchmark"], row["metric"], row["subject"], value, row["better"], bound]
        table.add_row(*cells, row.get("note", ""))
    return table


main = as_main(bench, "lab bench")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
