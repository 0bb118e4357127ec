"""Make a recording: a window of Prometheus and of Tempo, with the runs driven in it.

    data/recorded/NAME/
        series.parquet    series (number), labels (JSON): every series with a sample in the window
        samples.parquet   series, time_ms, value: the samples as they were scraped
        traces.parquet    trace_id, document: OTLP JSON as Tempo returns it, one trace per row
        runs/RUN_ID/      what Run.save wrote, the arguments of `lab.drive`, CPU time if watched
        recording.json    window, counts, versions, machine, and the command that records it again;
                          `refused`: {trace id: the store's error} of the traces that are missing;
                          `partial`: the ids of traces that the store returned only in part
        README.md         the same for people

Any Prometheus and any Tempo can be recorded, since only their public APIs are used. `lab up --place
recorded` replays a recording.
"""

import json
import os
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lab import files
from lab import runs as saved_runs
from lab.errors import NoData, SettingsError, StoreError
from lab.runner import facts
from lab.runs import RUNS, load_conditions
from lab.settings import REPO, Settings
from lab.stores import Prometheus, Tempo
from lab.utilisation import machine
from lab.workload import Run

FORMAT, VERSION = "lab-recording", 1
# Every sample that was scraped. What the lab's rules derive from them is computed again.
EVERYTHING = '{__name__=~".+",__name__!~"lab:.+|ALERTS|ALERTS_FOR_STATE"}'
BEFORE_S = 10.0  # before the runs, for a scrape before them
AFTER_S = 12.0  # after the runs, for a scrape after them: a part exports every 5 s
SLICE_S = 600.0  # of samples per query
MAX_TRACES = 50_000
MAX_NAMED = 3  # traces per reason, in texts; recording.json names all
HERE = f"{REPO}/"
BESIDE = (saved_runs.FILE, machine.CPU_FILE)  # files next to a run that belong to it


@dataclass(frozen=True)
class Recorded:
    """What was recorded: the folder, and the content of its recording.json."""

    folder: Path
    about: dict[str, Any]

    def __str__(self) -> str:
        about = self.about
        size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        counts = (
            f"{self.folder}: {about['samples']:,} samples of {about['series']:,} series, "
            f"{about['traces']:,} traces, {len(about['runs'])} runs, {size / 1e6:.2f} MB"
        )
        return "\n  ".join([counts, *_gaps(about)])


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
    """Save the window (epoch seconds) to `data/recorded/<name>`, completely or not at all.

    `selector` and `traceql` choose series and traces. Traces that Tempo refuses are left out and
    named in the recording. An end in the future is waited for. Raises SettingsError for a name that
    cannot be a folder's, or that exists already (unless `replace`); NoData for a window without
    samples or without traces; StoreError where Tempo has more than MAX_TRACES traces or refuses
    all.
    """
    target = _target(settings, name, replace)
    time.sleep(max(0.0, end - time.time()))
    with files.draft_folder(target) as draft:
        prometheus = Prometheus(settings)
        state = settings.state_dir
        counts = _save_samples(draft, prometheus, selector, start, end, state)
        of_traces = _save_traces(draft, Tempo(settings), traceql, start, end, state)
        for run in runs:
            _save_run(draft / RUNS, run)

        about = _about(settings, prometheus, name, (start, end), runs)
        about |= {"command": command or f"lab record {shlex.quote(name)}"} | counts | of_traces
        content = msgspec.json.format(msgspec.json.encode(about), indent=1) + b"\n"
        (draft / "recording.json").write_bytes(content)
        (draft / "README.md").write_text(_readme(about), encoding="utf-8")
        draft.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        os.rename(draft, target)
    return Recorded(target, about)


def public_text(text: str, state_dir: Path) -> str:
    """Return a text with file paths that do not show where the checkout and its state are."""
    return text.replace(f"{state_dir.resolve()}/", ".lab/").replace(HERE, "")


def window_of(runs: Sequence[Run]) -> tuple[float, float]:
    """Return the window that holds these runs and the scrapes around them."""
    starts = [run.window[0] for run in runs]
    ends = [run.window[1] for run in runs]
    return min(starts) - BEFORE_S, max(ends) + AFTER_S


def _target(settings: Settings, name: str, replace: bool) -> Path:
    if not name or not all(c.isalnum() or c in "-_" for c in name):
        raise SettingsError(f"{name!r} cannot name a recording", fix="use letters, digits, - and _")
    target = (settings.data_dir / "recorded" / name).resolve()
    if target.exists() and not replace:
        raise SettingsError(
            f"there is a recording {name} already",
            got=str(target),
            fix="choose another name, or --replace",
        )
    return target


def _save_samples(
    folder: Path, prometheus: Prometheus, selector: str, start: float, end: float, state: Path
) -> dict[str, int]:
    """Write series.parquet and samples.parquet; return their numbers of rows."""
    edges = [start + k * SLICE_S for k in range(int((end - start) // SLICE_S) + 1)] + [end]
    parts = []
    for first, last in pairwise(edges):
        after = first if first == start else first + 0.001
        answer = prometheus.samples(selector, after, last, lookback_s=0.0)
        for series in answer.metrics:
            labels = public_text(json.dumps(dict(sorted(series["metric"].items()))), state)
            table = pd.DataFrame(series["values"], columns=["time_s", "value"])
            parts.append(table.assign(labels=labels))
    if not parts:
        raise NoData(
            "Prometheus has no sample in this window",
            query=selector,
            fix="check the window and the selector",
        )

    # In order of the labels, so that the samples of a metric are next to each other.
    samples = pd.concat(parts, ignore_index=True)
    numbers, series_labels = pd.factorize(samples["labels"], sort=True)
    samples = pd.DataFrame(
        {
            "series": numbers.astype("int32"),
            "time_ms": (samples["time_s"] * 1000).round().astype("int64"),
            "value": samples["value"].astype(float),
        }
    )
    samples = samples.drop_duplicates(["series", "time_ms"])
    samples = samples.sort_values(["series", "time_ms"], ignore_index=True)
    series = pd.DataFrame({"series": range(len(series_labels)), "labels": series_labels})
    _write(folder / "series.parquet", series.astype({"series": "int32"}))
    _write(folder / "samples.parquet", samples)
    return {"series": len(series), "samples": len(samples)}


def _save_traces(
    folder: Path, tempo: Tempo, traceql: str, start: float, end: float, state: Path
) -> dict[str, Any]:
    """Write traces.parquet; return the number of traces, and which are missing or not whole."""
    search = tempo.search(traceql, start, end, limit=MAX_TRACES).require()
    if search.limited:
        raise StoreError(
            f"there are more than {MAX_TRACES:,} traces in this window",
            query=traceql,
            fix="record a shorter window",
        )
    answer = tempo.traces(search.trace_ids, are_found=True)
    trace_ids = [i for i in dict.fromkeys(search.trace_ids) if i not in answer.refused]
    documents = [public_text(document.decode(), state) for document in answer.documents]
    table = pd.DataFrame({"trace_id": trace_ids, "document": documents})
    _write(folder / "traces.parquet", table.sort_values("trace_id", ignore_index=True))
    return {
        "traces": len(table),
        "refused": {i: public_text(words, state) for i, words in answer.refused.items()},
        "partial": list(answer.partial),
    }


def _write(path: Path, frame: pd.DataFrame) -> None:
    """Write Parquet in which NaN stays NaN; pandas would write it as missing."""
    columns = {name: pa.array(frame[name].to_numpy(), from_pandas=False) for name in frame}
    pq.write_table(pa.table(columns), path, compression="zstd")


def _save_run(folder: Path, run: Run) -> None:
    replace(run, folder=None).save(folder)
    for name in BESIDE:
        if run.folder and (run.folder / name).exists():
            shutil.copy(run.folder / name, folder / run.run_id / name)


def _about(
    settings: Settings,
    prometheus: Prometheus,
    name: str,
    window: tuple[float, float],
    runs: Sequence[Run],
) -> dict[str, Any]:
    """Return the content of recording.json without command and counts."""
    made_on = {key: value for key, value in facts.collect(settings).items() if key != "place"}
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "recorded_at": _utc(time.time()),
        "window": list(window),
        "window_utc": [_utc(at) for at in window],
        "place": settings.place,
        "targets": _targets(prometheus),
        "runs": [
            {"run_id": run.run_id, "asked": _conditions(run), "requests": len(run.records)}
            for run in runs
        ],
        "made_on": made_on,
    }


def _targets(prometheus: Prometheus) -> dict[str, bool]:
    """Return {scrape job: up}; empty where the server does not scrape (Thanos, Mimir)."""
    try:
        return {target.job: target.up for target in prometheus.targets()}
    except StoreError:
        return {}


def _conditions(run: Run) -> str:
    if run.folder is None:
        return f"{len(run.plan)} planned requests"
    return str(load_conditions(run.folder, run.plan))


def _gaps(about: Mapping[str, Any]) -> list[str]:
    """Return a line for each reason why traces are missing or not whole, with the first of them."""
    ids_by_reason: dict[str, list[str]] = {}
    for trace_id, words in about["refused"].items():
        reason = f"Traces left out: {words.replace(trace_id, '').strip()}"
        ids_by_reason.setdefault(reason, []).append(trace_id)
    if about["partial"]:
        ids_by_reason["Traces of which the store returned only a part"] = about["partial"]

    return [
        f"{reason}: {len(ids)} ({', '.join(ids[:MAX_NAMED])}{', ...' * (len(ids) > MAX_NAMED)})"
        for reason, ids in ids_by_reason.items()
    ]


def _readme(about: dict[str, Any]) -> str:
    runs = [f"- `{r['run_id']}`: {r['requests']} requests ({r['asked']})" for r in about["runs"]]
    made_on = [f"| {name} | {value} |" for name, value in about["made_on"].items()]
    gaps = "".join(f"{line}.\n" for line in _gaps(about))
    return f"""# {about["name"]}

A real run of the lab, recorded {about["recorded_at"]}: {about["samples"]:,} Prometheus samples of
{about["series"]:,} series and {about["traces"]:,} traces, from {about["window_utc"][0]} to
{about["window_utc"][1]}.
Nothing in it was made up or edited, except that file paths begin at the repository's folder.
{gaps}
Replay it: `lab up --place recorded` (with `LAB_RECORDING={about["name"]}`), or
`LAB_PLACE=recorded` for the notebooks.
Record it again: `{about["command"]} --replace`.

Runs:

{chr(10).join(runs) or "- none"}

| made on | |
|---|---|
{chr(10).join(made_on)}
"""


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
