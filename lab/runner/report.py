"""One self-contained page about a run: what passed, on what machine, every figure, and why what failed failed."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape

from lab.errors import NotebookError
from lab.runner.execute import NotebookRun
from lab.runner.figures_of import figures_of
from lab.runner.roles import views_of
from lab.settings import REPO

RUN_FILE, REPORT_FILE = "run.json", "report.html"


def write_report(
    out_dir: Path, runs: list[NotebookRun], facts: dict[str, str], notes: list[str] | None = None
) -> Path:
    """Write run.json and report.html into `out_dir`; returns the page. `notes` are shown above the table."""
    out_dir.mkdir(parents=True, exist_ok=True)
    record = {"facts": facts, "notes": notes or [], "runs": [asdict(run) for run in runs]}
    _write_whole(out_dir / RUN_FILE, json.dumps(record, indent=1))
    return _render(out_dir)


def main(argv: list[str]) -> int:
    """`lab report [FOLDER]`: make the page of an earlier run again (default: the newest)."""
    parser = argparse.ArgumentParser(
        prog="lab report", description="Make the HTML report of an earlier run again."
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, help="a folder below out/; default: the newest"
    )
    folder = parser.parse_args(argv).folder or newest(REPO / "out")
    print(_render(folder))
    return 0


def newest(out_root: Path) -> Path:
    """The newest run's folder. Raises NotebookError if there is none."""
    found = sorted(out_root.glob(f"*/{RUN_FILE}"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise NotebookError(
            "there is no run to report on",
            got=f"no {RUN_FILE} below {out_root}",
            fix="run `make run`",
        )
    return found[-1].parent


def _render(out_dir: Path) -> Path:
    try:
        record = json.loads((out_dir / RUN_FILE).read_text())
        runs = [NotebookRun(**run) for run in record["runs"]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise NotebookError(
            f"{out_dir} holds no run", got=f"{RUN_FILE}: {e}", fix="name a folder below out/"
        ) from e
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    executed = {run.name: out_dir / "notebooks" / f"{run.name}.ipynb" for run in runs}
    page = templates.get_template("report.html").render(
        facts=record["facts"],
        notes=record["notes"],
        runs=runs,
        figures={name: figures_of(path) for name, path in executed.items()},
        views=views_of({executed[run.name]: run.title for run in runs}),
        passed=sum(run.status == "passed" for run in runs),
        folder=out_dir.name,
        logs=sorted(p.name for p in (out_dir / "logs").glob("*") if p.is_file()),
    )
    _write_whole(out_dir / REPORT_FILE, page)
    return out_dir / REPORT_FILE


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
