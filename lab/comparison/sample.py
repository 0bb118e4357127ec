"""One side of a comparison: the numbers of its requests, without prompts, answers or names.

`load_sample` reads one by its name: a run, a window, a recording or a baseline.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lab import files
from lab.errors import FrameError, StoreError
from lab.frames import request_frame, spans_frame
from lab.observation import Observation, drive, judge_requests, observe, parse_tool_calls
from lab.observation.judging import VERDICTS
from lab.runs import RUNS
from lab.schema import PHASES as REQUEST_PHASES
from lab.settings import Settings
from lab.stores.otlp import read_otlp_json
from lab.workload import Run

FORMAT = "lab-comparison-sample"
VERSION = 1

# The phases of a comparison; they add up to E2E. `other` is all that the rest does not cover.
PHASES = {
    "queue_s": ("queue_s",),
    "prefill_s": ("prefill_s",),
    "decode_s": ("decode_s",),
    "tool_s": ("tool_s",),
    "stack_s": ("stack_s", "tool_list_s", "model_http_s"),
}
OTHER = "other_s"
UNKNOWN = -1
COLUMNS = {
    "run": "int64",  # number of the run within this side
    "at": "float64",  # when it was due, seconds since the epoch
    "session": "int64",  # number of the conversation within the run
    "question": "int64",  # hash of the scenario and turn; -1 where it is not known
    "kind": "str",  # API and intent; where that is not known, the tools called, or the tenant
    "whole": "bool",  # answered, with a complete trace: its phases are known
    "e2e_s": "float64",
    "ttft_s": "float64",
    "tpot_s": "float64",
    **dict.fromkeys((*PHASES, OTHER), "float64"),
    "prompt_tokens": "float64",
    "completion_tokens": "float64",
    "cached_tokens": "float64",
    "turns": "float64",
    "tool_runs": "float64",
    "failed": "float64",  # 1 for a request that failed, otherwise 0
    "right": "float64",  # 1 for a right answer, 0 for a wrong one, NaN where it is not known
}


@dataclass(frozen=True, repr=False)
class Sample:
    """The requests of one or several runs: `requests` has COLUMNS, `about` says what it is."""

    label: str
    requests: pd.DataFrame
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.requests)

    def __repr__(self) -> str:
        return f"<Sample {self.label}: {len(self)} requests in {self.runs} runs>"

    @property
    def runs(self) -> int:
        """Return the number of runs."""
        return int(self.requests["run"].nunique())

    def save(self, path: str | Path) -> Path:
        """Write a Parquet file with numbers only, small enough for a repository."""
        table = pa.Table.from_pandas(self.requests, preserve_index=False)
        about = {"format": FORMAT, "version": VERSION, "label": self.label, "about": self.about}
        table = table.replace_schema_metadata({FORMAT: json.dumps(about)})
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        return files.save(path, buffer.getvalue().to_pybytes(), FrameError)

    @classmethod
    def load(cls, path: str | Path) -> Sample:
        """Read what `save` wrote. Raises FrameError for another file."""
        try:
            table = pq.read_table(path)
            about = json.loads((table.schema.metadata or {})[FORMAT.encode()])
            if about["version"] != VERSION:
                raise ValueError(f"version {about['version']}, not {VERSION}")
            return cls(about["label"], table.to_pandas().astype(COLUMNS), about["about"])
        except (OSError, ValueError, KeyError, pa.ArrowException) as e:
            raise FrameError(
                f"{path} is not a baseline",
                got=f"{type(e).__name__}: {e}",
                fix="write one with `lab compare RUN --save FILE`",
            ) from e


Source: TypeAlias = Observation | Sample | pd.DataFrame


def sample_of(source: Source | Sequence[Source]) -> Sample:
    """Return the sample of an observation, a request frame, or a list of runs of one system.

    Raises FrameError for anything else, and for a frame that lacks columns or has no row.
    """
    if isinstance(source, Sample):
        return source
    if isinstance(source, Sequence):
        return _joined([sample_of(each) for each in source])
    if isinstance(source, Observation):
        return _of_run(source.run, source.requests)
    if isinstance(source, pd.DataFrame):
        return Sample("requests", _numbers(source))
    raise FrameError(
        "this cannot be compared",
        got=type(source).__name__,
        fix="give an Observation (lab.observe), a request frame, a Sample, or a list of them",
    )


def _of_run(run: Run, requests: pd.DataFrame) -> Sample:
    """Return the sample of one run, by its request frame."""
    about = {"runs": [run.run_id], "window": list(run.window)}
    return Sample(run.run_id, _numbers(requests), about)


def _joined(parts: Sequence[Sample], label: str = "") -> Sample:
    if not parts:
        raise FrameError("there is no run to compare", fix="give at least one for each side")
    numbered = pd.concat([part.requests for part in parts], keys=range(len(parts)), names=["part"])
    numbered["run"] = numbered.groupby(["part", "run"]).ngroup()
    about = dict(parts[0].about)
    about["runs"] = [run for part in parts for run in part.about.get("runs", [part.label])]
    label = label or " + ".join(dict.fromkeys(part.label for part in parts))
    return Sample(label, numbered.reset_index(drop=True), about)


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Return COLUMNS of a request frame, in order of time."""
    needed = {"scheduled_at", "status", "api", "intent", "e2e_s", "ttft_s", *REQUEST_PHASES}
    if missing := sorted(needed - set(frame)):
        raise FrameError(
            "this is not a request frame",
            got=f"no column {', '.join(missing)}",
            fix="take it from lab.observe(...).requests",
        )
    if frame.empty:
        raise FrameError("there is no request to compare", fix="choose another run or window")

    frame = frame.sort_values("scheduled_at", ignore_index=True)
    ok = (frame["status"] == "ok").to_numpy(bool)
    whole = ok & frame["trace_complete"].fillna(False).to_numpy(bool)
    numbers = pd.DataFrame({"run": 0, "at": frame["scheduled_at"]})
    numbers["session"] = pd.factorize(frame["session_id"].fillna(frame["request_id"]))[0]
    asked = frame["scenario_id"].astype(str) + " " + frame["turn_index"].astype(str)
    hashes = pd.util.hash_array(asked.to_numpy(object)).astype("int64")
    numbers["question"] = np.where(frame["scenario_id"].notna(), hashes, UNKNOWN)
    numbers["kind"] = frame["api"].astype(str) + " " + _kinds(frame)
    numbers["whole"] = whole
    for name in ("e2e_s", "ttft_s"):
        numbers[name] = frame[name].astype(float).where(ok)

    for name, parts in PHASES.items():
        seconds = frame[list(parts)].astype(float)
        numbers[name] = seconds.fillna(0.0).sum(axis=1).where(whole)
    numbers[OTHER] = (numbers["e2e_s"] - numbers[list(PHASES)].sum(axis=1)).where(whole)

    for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
        # Llama Stack reports the tokens of a request's last call only, so spans come first.
        spans = frame[f"span_{name}"].astype(float)
        client = frame[name].astype(float)
        client = client.where(client >= 0)
        numbers[name] = np.fmax(spans.where(spans > 0), client).fillna(0.0).where(ok)
    numbers["tpot_s"] = _per_token_s(frame, numbers).where(ok)
    numbers[["turns", "tool_runs"]] = frame[["turns", "tool_runs"]].astype(float)
    numbers["failed"] = (~ok).astype(float)
    numbers["right"] = np.nan
    for name in ("answer_states", "answer_right"):
        if name in frame:
            numbers["right"] = frame[name].astype("Float64").to_numpy(float, na_value=np.nan)
    return numbers.astype(COLUMNS)


def _kinds(frame: pd.DataFrame) -> pd.Series:
    """Return what kind of request each is; it explains most of the time that tools take."""
    kind = frame["intent"].astype(object)
    if "tool_calls" in frame and kind.isna().any():
        tools = frame["tool_calls"].map(parse_tool_calls)
        called = tools.map(lambda calls: "+".join(str(call["tool"]) for call in calls))
        kind = kind.fillna(called.where(called != ""))
    return kind.fillna(frame["tenant"]).fillna("unknown").astype(str)


def _per_token_s(frame: pd.DataFrame, numbers: pd.DataFrame) -> pd.Series:
    """Return the seconds per output token: the engine's, or the client's where it has none."""
    after_first = numbers["completion_tokens"] - frame["turns"].clip(lower=1)
    after_first = after_first.where(after_first > 0)
    stream_s = (frame["last_token_at"] - frame["first_token_at"]).astype(float)
    seconds = numbers["decode_s"].fillna(stream_s)
    return seconds.where(seconds > 0) / after_first


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
    return _joined(samples, text), notes


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
            loaded = [_from_run(Run.load(run.parent), run.parent, settings) for run in runs]
            samples = [sample for part, _ in loaded for sample in part]
            return samples, [note for _, notes in loaded for note in notes]
    if "/" in name or name.startswith("last"):
        seen = observe(drive(settings, n_requests=0, window=name), settings)
        return [sample_of(seen)], []
    raise FrameError(
        "there is nothing of this name to compare",
        got=f"{name!r}: no such run in {settings.state_dir / RUNS}, nor a recording in {recorded}",
        fix=FORMS,
    )


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
    return [_of_run(run, frame)], notes
