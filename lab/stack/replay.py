"""Put a recording back into real stores: `python -m lab.stack.replay metrics|traces ...`.

Prometheus gets blocks that its own promtool makes of the samples; the trace store gets the traces
as OTLP. So the analysis queries real stores, and need not know that the run is over.
`recorded_parts` are the parts of the place `recorded`: both stores, and the tasks that fill them.
"""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lab.errors import SettingsError, StackError
from lab.settings import REPO, Settings
from lab.stack import parts
from lab.stack.parts import Part, Probe
from lab.stack.toolbox import Toolbox

SAMPLES = "samples.parquet"
SERIES = "series.parquet"
TRACES = "traces.parquet"
ABOUT = "recording.json"
MARK = "holds-recording"  # file in a state folder: the name of the recording in it
NEEDS = ("python_lab", "prometheus", "promtool")  # of the toolbox
_DATA_FOLDERS = ("prometheus", "traces")
_OWN_FOLDER = "set LAB_STATE_DIR to a folder of its own, or leave it out"
_NOT_FINITE = {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}
BATCH_TRACES = 100
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def check_recording(folder: Path) -> dict[str, Any]:
    """Return a recording's description. Raises StackError if it is missing or not complete."""
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text())
    except (OSError, ValueError) as e:
        raise StackError(
            f"there is no recording in {folder}",
            got=str(e),
            fix="choose one with LAB_RECORDING (folders of data/recorded), "
            "or make it with `lab record NAME`",
        ) from e
    missing = [name for name in (SAMPLES, SERIES, TRACES) if not (folder / name).is_file()]
    if missing:
        raise StackError(
            f"the recording {folder} is not complete",
            got=f"no {', '.join(missing)}",
            fix="restore it with git",
        )
    return about


def fill_prometheus(folder: Path, target: Path, promtool: str) -> int:
    """Convert the recording's samples to blocks of a Prometheus' data folder; returns their number.

    The folder is replaced. Raises StackError with promtool's message, and for a folder with data
    that is not in the state folder of a recording.
    """
    if any(target.glob("*")) and not (target.parent / MARK).is_file():
        raise StackError(
            f"{target} holds data that no recording wrote",
            got=f"there is no {MARK} in {target.parent}",
            fix=_OWN_FOLDER,
        )
    draft = target.with_name(f"{target.name}.unfinished")
    for old in (draft, target):
        shutil.rmtree(old, ignore_errors=True)
    draft.mkdir(parents=True)
    text = draft / "samples.om"
    with text.open("w") as out:
        count = sum(out.write(line) > 0 for line in _openmetrics(folder))
        out.write("# EOF\n")
    command = [
        *(promtool, "tsdb", "create-blocks-from", "openmetrics"),
        *("--max-block-duration=24h", str(text), str(draft)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise StackError(
            "promtool does not take the recorded samples",
            got=(done.stderr or done.stdout).strip()[-600:],
            fix="record the run again",
        )
    text.unlink()
    draft.rename(target)
    return count


def _openmetrics(folder: Path) -> Iterator[str]:
    """Yield the samples as OpenMetrics text, all of a metric together, series by series."""
    import pyarrow.parquet as pq  # not at the top: the supervisor imports this module

    series = pq.read_table(folder / SERIES).to_pydict()
    text_of = {
        n: _selector(json.loads(labels))
        for n, labels in zip(series["series"], series["labels"], strict=True)
    }
    table = pq.read_table(folder / SAMPLES)
    columns = (table.column(name).to_pylist() for name in ("series", "time_ms", "value"))
    for number, time_ms, value in zip(*columns, strict=True):
        shown = repr(value) if math.isfinite(value) else _NOT_FINITE[str(value)]
        yield f"{text_of[number]} {shown} {time_ms / 1000:.3f}\n"


def _selector(labels: dict[str, str]) -> str:
    inside = ",".join(
        f'{k}="{v.translate(_ESCAPES)}"' for k, v in labels.items() if k != "__name__"
    )
    return f"{labels['__name__']}{{{inside}}}"


def fill_tracestore(folder: Path, otlp_url: str) -> int:
    """Send the recording's traces to an OTLP receiver; returns their number.

    Sending them twice does no harm. Raises StackError if the receiver does not accept them.
    """
    import httpx
    import pyarrow.parquet as pq
    from google.protobuf import json_format
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

    documents = pq.read_table(folder / TRACES).column("document").to_pylist()
    headers = {"Content-Type": "application/x-protobuf"}
    for first in range(0, len(documents), BATCH_TRACES):
        batch = TracesData()
        for document in documents[first : first + BATCH_TRACES]:
            # Tempo's JSON is protobuf's own: ids are base64.
            text = document.replace('"batches"', '"resourceSpans"', 1)
            batch.MergeFrom(json_format.Parse(text, TracesData()))
        try:
            httpx.post(
                f"{otlp_url}/v1/traces", content=batch.SerializeToString(), headers=headers
            ).raise_for_status()
        except httpx.HTTPError as e:
            raise StackError(
                "the trace store did not take the recorded traces", got=str(e), fix="see its log"
            ) from e
    return len(documents)


def recorded_parts(
    settings: Settings, tools: Toolbox, ports: dict[str, int], config: Path
) -> tuple[Part, ...]:
    """Return the parts; `config` is Prometheus' configuration file.

    Raises StackError where there is no such recording.
    """
    folder = settings.recording_dir.resolve()
    state = settings.state_dir.resolve()
    about = check_recording(folder)
    what = f"the recording {folder.name} of {about['recorded_at']}"
    refused = len(about.get("refused", ()))
    left_out = f", without {refused} that its store did not return" if refused else ""

    prometheus = parts.prometheus(
        f"Prometheus: answers from {what}", tools, ports, state, config, retention="100y"
    )
    tracestore = parts.tracestore(f"trace store: answers from {what}", tools, ports, state)
    otlp = tracestore.endpoints["otlp"]
    metrics = _fill(
        f"puts the samples of {what} into Prometheus' blocks",
        tools,
        ("metrics", str(folder), str(state / "prometheus")),
    )
    traces = _fill(
        f"puts the traces of {what} into the trace store{left_out}",
        tools,
        ("traces", str(folder), otlp),
    )
    return (
        metrics,
        replace(prometheus, needs=(metrics.name,)),
        # Nothing sends spans to a recording, so its receiver is not an endpoint.
        replace(tracestore, endpoints={"tempo": tracestore.endpoints["tempo"]}),
        replace(traces, needs=(tracestore.name,)),
        parts.live_view(settings, tools, ports),
    )


def _fill(what: str, tools: Toolbox, arguments: tuple[str, ...]) -> Part:
    """Return a task that fills a store."""
    promtool = ("--promtool", tools.promtool) if arguments[0] == "metrics" else ()
    return Part(
        name=f"recorded-{arguments[0]}",
        what=what,
        argv=(tools.python_lab, "-m", "lab.stack.replay", *arguments, *promtool),
        env={"PYTHONPATH": str(REPO)},
        ready=Probe("exit"),
        task=True,
    )


def claim_state(state: Path, recording: str) -> dict[Path, str]:
    """Return the file, {path: text}, that marks a state folder as one of this recording.

    Raises SettingsError for a folder with other data in it: a recording replaces what is there.
    """
    mark = state / MARK
    holds = mark.read_text().strip() if mark.is_file() else ""
    made_by_default = state == REPO / ".lab" / "recorded" / recording
    data = [name for name in _DATA_FOLDERS if any((state / name).glob("*"))]
    if data and holds != recording and not made_by_default:
        raise SettingsError(
            f"{state} holds other data, which the recording {recording} would replace",
            got=f"{' and '.join(data)} of {holds or 'a live lab'}",
            fix=_OWN_FOLDER,
        )
    return {mark: f"{recording}\n"}


def refuse_recorded_state(state: Path) -> None:
    """Raise SettingsError for the state folder of a recording, in which no live lab may write."""
    if (state / MARK).is_file():
        raise SettingsError(
            f"{state} holds the recording {(state / MARK).read_text().strip()}", fix=_OWN_FOLDER
        )


def fill(
    what: Literal["metrics", "traces"], recording: Path, target: str, promtool: str = "promtool"
) -> None:
    """Put a recording's samples or traces into a store.

    `target` is Prometheus' data folder, or the OTLP receiver's URL.
    """
    check_recording(recording)
    if what == "metrics":
        print(f"{fill_prometheus(recording, Path(target), promtool)} samples")
    else:
        print(f"{fill_tracestore(recording, target)} traces")


if __name__ == "__main__":
    from lab.command_line import as_main  # not at the top: the supervisor imports this module

    sys.exit(as_main(fill, "python -m lab.stack.replay", prints_errors=True)())
