"""What the command line can compare: runs, windows, recordings and baselines, by their names."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lab.comparison.sample import Sample, sample_of
from lab.errors import FrameError, StoreError
from lab.frames import request_frame, spans_frame
from lab.observation import drive, judge_requests, observe
from lab.observation.judging import VERDICTS
from lab.runs import RUNS
from lab.settings import Settings
from lab.stores.otlp import read_otlp_json
from lab.workload import Run

TRACES = "traces.parquet"
RUN_FILE = "run.json"
FORMS = (
    "name a run (its folder or id), a recording or RECORDING/RUN, a window ('last 15m' or "
    "START/END), or a baseline file (.parquet); several of one system with commas between them"
)


def load_sample(text: str, settings: Settings) -> tuple[Sample, list[str]]:
    """Return the sample that a text names, and what could not be read of it.

    Raises FrameError for a name of nothing, and what reading it raises.
    """
    samples: list[Sample] = []
    notes: list[str] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        parts, limits = _load(name, settings)
        samples += parts
        notes += limits
    if not samples:
        raise FrameError("there is no baseline to compare with", got=repr(text), fix=FORMS)
    if len(samples) == 1:
        return samples[0], notes
    return sample_of(samples, text), notes


def _load(name: str, settings: Settings) -> tuple[list[Sample], list[str]]:
    path = Path(name)
    if path.suffix == ".parquet":
        return [Sample.load(path)], []
    recorded = settings.data_dir / "recorded"
    folders = (path, settings.state_dir / RUNS / name, recorded / name)
    inside, _, run_id = name.partition("/")
    for folder in (*folders, recorded / inside / RUNS / run_id):
        if (folder / RUN_FILE).is_file():
            return _from_run(Run.load(folder), folder, settings)
        if (folder / TRACES).is_file():
            runs = sorted((folder / RUNS).glob(f"*/{RUN_FILE}"))
            samples = [_from_run(Run.load(run.parent), run.parent, settings)[0][0] for run in runs]
            return samples, []
    if "/" in name or name.startswith("last"):
        seen = observe(drive(settings, n_requests=0, window=name), settings)
        return [sample_of(seen)], []
    got = f"{name!r}: no such run in {settings.state_dir / RUNS}, nor a recording in {recorded}"
    raise FrameError("there is nothing of this name to compare", got=got, fix=FORMS)


def _from_run(run: Run, folder: Path, settings: Settings) -> tuple[list[Sample], list[str]]:
    """Return a run's sample: with the traces of its recording, or of the settings' Tempo."""
    notes = []
    traces = folder.parent.parent / TRACES
    try:
        if not traces.is_file():
            return [sample_of(observe(run, settings))], []
        table = pd.read_parquet(traces)
        wanted = table["trace_id"].isin(run.records["trace_id"].astype(str))
        spans = spans_frame(read_otlp_json(*table.loc[wanted, "document"]))
    except StoreError as e:
        notes.append(f"{run.run_id}: no traces, so no phases ({e.happened})")
        spans = spans_frame(read_otlp_json())
    judgements = judge_requests(run.records, spans)[["request_id", *VERDICTS]]
    frame = request_frame(run.records, spans, judgements)
    about = {"runs": [run.run_id], "window": list(run.window)}
    return [Sample(run.run_id, sample_of(frame).requests, about)], notes
