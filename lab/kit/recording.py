"""Make a recording: a window of Prometheus and of Tempo, asked over HTTP, with the runs that were driven in it.

    data/recorded/NAME/
        series.parquet    series (number), labels (JSON): every series with a sample in the window
        samples.parquet   series, time_ms, value: the samples as they were scraped
        traces.parquet    trace_id, document: OTLP JSON as Tempo answers it, a trace a row
        runs/RUN_ID/      what Run.save wrote, what `lab.drive` was asked for, the processes' CPU time if it was watched
        recording.json    window, counts, versions, machine, and the command that records it again
        README.md         the same for people

Any Prometheus and any Tempo will do, for only their public API is asked. `lab up --place recorded` replays it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lab.errors import NoData, SettingsError, StoreError
from lab.kit import asked, processes, recording_about
from lab.kit.recorded import RUNS
from lab.settings import REPO, Settings
from lab.stores import Prometheus, Tempo
from lab.workload import Run

EVERYTHING = '{__name__=~".+"}'
BEFORE_S, AFTER_S = (
    10.0,
    12.0,
)  # around the runs: a scrape before them, and one after (a part exports every 5 s)
SLICE_S = 600.0  # of samples asked for at once
MAX_TRACES = 50_000
PARALLEL = 8
HERE = f"{REPO}/"  # left out of file paths: where somebody's checkout lies is nobody's business
BESIDE = (asked.FILE, processes.FILE)  # files beside a run that belong to it
NAME_RULE = "letters, digits, - and _"


@dataclass(frozen=True)
class Recorded:
    """What was recorded: the folder, and what its recording.json says."""

    folder: Path
    about: dict[str, Any]

    def __str__(self) -> str:
        a, size = self.about, sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())
        return (
            f"{self.folder}: {a['samples']:,} samples of {a['series']:,} series, {a['traces']:,} traces, "
            f"{len(a['runs'])} runs, {size / 1e6:.2f} MB"
        )


def record(
    settings: Settings,
    name: str,
    start: float,
    end: float,
    *,
    runs: Sequence[Run] = (),
    selector: str = EVERYTHING,
    traceql: str = "{}",
    command: str = "",
    replace: bool = False,
) -> Recorded:
    """Save the window (epoch seconds) to `data/recorded/<name>`, whole or not at all.

    `selector` and `traceql` choose among series and traces. An end that lies ahead is waited for. Raises SettingsError
    for a name that is no folder's, or one that is there already (unless `replace`); NoData for a window without
    samples or without traces; StoreError where Tempo has more traces than can be asked for.
    """
    target = _target(settings, name, replace)
    time.sleep(max(0.0, end - time.time()))
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}."))
    try:
        prometheus, tempo = Prometheus(settings), Tempo(settings)
        counts = _save_samples(draft, prometheus, selector, start, end)
        counts["traces"] = _save_traces(draft, tempo, traceql, start, end)
        for run in runs:
            _save_run(draft / RUNS, run)
        about = (
            recording_about.collect(settings, prometheus, name, start, end, runs, command) | counts
        )
        (draft / "recording.json").write_bytes(
            msgspec.json.format(msgspec.json.encode(about), indent=1) + b"\n"
        )
        (draft / "README.md").write_text(recording_about.readme(about))
        draft.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        os.rename(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Recorded(target, about)


def window_of(runs: Sequence[Run]) -> tuple[float, float]:
    """The window that holds these runs and the scrapes around them."""
    return min(r.window[0] for r in runs) - BEFORE_S, max(r.window[1] for r in runs) + AFTER_S


def _target(settings: Settings, name: str, replace: bool) -> Path:
    if not name or not all(c.isalnum() or c in "-_" for c in name):
        raise SettingsError(f"{name!r} cannot name a recording", fix=f"use {NAME_RULE}")
    target = (settings.data_dir / "recorded" / name).resolve()
    if target.exists() and not replace:
        raise SettingsError(
            f"there is a recording {name} already",
            got=str(target),
            fix="choose another name, or --replace",
        )
    return target


def _save_samples(
    folder: Path, prometheus: Prometheus, selector: str, start: float, end: float
) -> dict[str, int]:
    number: dict[str, int] = {}
    parts = []
    edges = [start + k * SLICE_S for k in range(int((end - start) // SLICE_S) + 1)] + [end]
    for first, last in zip(edges, edges[1:], strict=False):
        answer = prometheus.samples(
            selector, first + 0.001 * (first != start), last, lookback_s=0.0
        )
        for one in answer:
            key = json.dumps(dict(sorted(one.labels.items()))).replace(HERE, "")
            samples = [
                s
                for piece in one.pieces
                for s in msgspec.json.decode(piece, type=list[tuple[float, str]])
            ]
            parts.append(pd.DataFrame({
                "series": number.setdefault(key, len(number)),
                "time_ms": [round(t * 1000) for t, _ in samples],
                "value": [float(v) for _, v in samples],
            }))  # fmt: skip
    if not parts:
        raise NoData(
            "Prometheus has no sample in this window",
            query=selector,
            fix="check the window and the selector",
        )
    series = pd.DataFrame({"series": list(number.values()), "labels": list(number)}).sort_values(
        "labels"
    )
    order = {
        old: new for new, old in enumerate(series["series"])
    }  # by name: the samples of a metric lie together
    samples = pd.concat(parts, ignore_index=True)
    samples["series"] = samples["series"].map(order).astype("int32")
    samples = samples.drop_duplicates(["series", "time_ms"]).sort_values(
        ["series", "time_ms"], ignore_index=True
    )
    series["series"] = range(len(series))
    _write(folder / "series.parquet", series.astype({"series": "int32"}))
    _write(folder / "samples.parquet", samples)
    return {"series": len(series), "samples": len(samples)}


def _save_traces(folder: Path, tempo: Tempo, traceql: str, start: float, end: float) -> int:
    found = tempo.search(traceql, start, end, limit=MAX_TRACES).require()
    if found.limited:
        raise StoreError(
            f"there are more than {MAX_TRACES:,} traces in this window",
            query=traceql,
            fix="record a shorter window",
        )
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="record") as pool:
        answers = list(pool.map(lambda trace_id: tempo.traces([trace_id]), found.trace_ids))
    told = [
        (i, bytes(d).decode())
        for i, a in zip(found.trace_ids, answers, strict=True)
        for d in a.documents
    ]
    rows = [(i, document.replace(HERE, "")) for i, document in told]
    table = pd.DataFrame(rows, columns=["trace_id", "document"]).sort_values(
        "trace_id", ignore_index=True
    )
    _write(folder / "traces.parquet", table)
    return len(table)


def _write(path: Path, frame: pd.DataFrame) -> None:
    """As Parquet; NaN stays NaN, where pandas would write a missing value: a quantile of nothing is NaN, not absent."""
    columns = {name: pa.array(frame[name].to_numpy(), from_pandas=False) for name in frame}
    pq.write_table(pa.table(columns), path, compression="zstd")


def _save_run(folder: Path, run: Run) -> None:
    Run(**{**vars(run), "folder": None}).save(folder)
    for name in BESIDE:
        if run.folder and (run.folder / name).exists():
            shutil.copy(run.folder / name, folder / run.run_id / name)
