"""One self-contained page about a run: the answers, then each role's view, then the notebooks."""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from jinja2 import Environment, FileSystemLoader, select_autoescape

from lab.command_line import as_main
from lab.errors import NotebookError
from lab.files import write_atomically
from lab.headlines import HEADLINES
from lab.runner.cell_outputs import figures_of, headlines_of, views_of, warnings_of
from lab.runner.execute import PASSED, NotebookRun
from lab.settings import REPO

RUN_FILE = "run.json"
REPORT_FILE = "index.html"
BUSY_RATIO = 0.5  # of the cores


def report(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder below out/. Default: the newest run's.")
    ] = None,
) -> None:
    """Write the HTML report of an earlier run again."""
    print(_render(folder or newest(REPO / "out")))


def write_report(
    out_dir: Path, runs: list[NotebookRun], facts: dict[str, str], notes: list[str] | None = None
) -> Path:
    """Write run.json and index.html into `out_dir`, and return the page's path.

    `notes` are shown above the table.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    record = {"facts": facts, "notes": notes or [], "runs": [asdict(run) for run in runs]}
    write_atomically(out_dir / RUN_FILE, json.dumps(record, indent=1))
    return _render(out_dir)


def newest(out_root: Path) -> Path:
    """Return the newest run's folder. Raises NotebookError if there is none."""
    records = sorted(out_root.glob(f"*/{RUN_FILE}"), key=lambda p: p.stat().st_mtime)
    if not records:
        raise NotebookError(
            "there is no run to report on",
            got=f"no {RUN_FILE} below {out_root}",
            fix="run `make run`",
        )
    return records[-1].parent


def _render(out_dir: Path) -> Path:
    record, runs = _read_run(out_dir)
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    executed = {run.name: out_dir / "notebooks" / f"{run.name}.ipynb" for run in runs}
    views = views_of({executed[run.name]: run.title for run in runs})
    findings = [finding for view in views for finding in view.findings]

    page = templates.get_template("report.html").render(
        facts=record["facts"],
        notes=record["notes"],
        runs=runs,
        figures={name: figures_of(path) for name, path in executed.items()},
        views=views,
        in_views={figure.anchor for finding in findings for figure in finding.figures},
        answers=_answers(runs, executed),
        warnings={name: warnings_of(path) for name, path in executed.items()},
        saved={name for name, path in executed.items() if path.exists()},
        busy=_was_busy(record["facts"]),
        passed=sum(run.status == PASSED for run in runs),
        folder=out_dir.name,
        logs=_files_in(out_dir / "logs"),
    )
    write_atomically(out_dir / REPORT_FILE, page)
    return out_dir / REPORT_FILE


def _read_run(out_dir: Path) -> tuple[dict[str, Any], list[NotebookRun]]:
    try:
        record = json.loads((out_dir / RUN_FILE).read_text())
        return record, [NotebookRun(**run) for run in record["runs"]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise NotebookError(
            f"{out_dir} holds no run", got=f"{RUN_FILE}: {e}", fix="name a folder below out/"
        ) from e


def _files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.is_file())


def _answers(runs: list[NotebookRun], executed: dict[str, Path]) -> list[tuple]:
    """Return (name, the run that measured it, the headline) in order; None where none did."""
    measured = {h.key: (run, h) for run in runs for h in headlines_of(executed[run.name])}
    return [(name, *measured.get(key, (None, None))) for key, (name, _) in HEADLINES.items()]


def _was_busy(facts: dict[str, str]) -> str:
    """Return a warning if other work kept the machine busy before the run, '' otherwise."""
    with contextlib.suppress(KeyError, ValueError, IndexError):
        load = float(facts["load average before"])
        cores = int(facts["machine"].partition(" logical cores")[0].rpartition(" ")[2])
        if load > BUSY_RATIO * cores:
            return (
                f"The machine was busy before the run (load average {load:g} on {cores} cores): "
                "latencies are longer than on a quiet one, and the capacity is lower."
            )
    return ""


main = as_main(report, "lab report")
