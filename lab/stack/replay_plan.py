"""The parts of the place `recorded`: Prometheus, the trace store, the tasks that fill them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lab.errors import SettingsError
from lab.settings import REPO, Settings
from lab.stack import store_parts
from lab.stack.parts import Part, Probe
from lab.stack.replay import MARK, check_recording
from lab.stack.toolbox import Toolbox

NEEDS = ("python_lab", "prometheus", "promtool")  # of the toolbox
_DATA_FOLDERS = ("prometheus", "traces")
_OWN_FOLDER = "set LAB_STATE_DIR to a folder of its own, or leave it out"


def parts(
    settings: Settings, tools: Toolbox, ports: dict[str, int], config: Path
) -> tuple[Part, ...]:
    """Return the parts; `config` is Prometheus' configuration file.

    Raises StackError where there is no such recording.
    """
    folder = settings.recording_dir.resolve()
    state = settings.state_dir.resolve()
    about = check_recording(folder)
    what = f"the recording {folder.name} of {about['recorded_at']}"

    prometheus = store_parts.prometheus(
        f"Prometheus: answers from {what}", tools, ports, state, config, retention="100y"
    )
    tracestore = store_parts.tracestore(f"trace store: answers from {what}", tools, ports, state)
    otlp = tracestore.endpoints["otlp"]
    metrics = _fill(
        f"puts the samples of {what} into Prometheus' blocks",
        tools,
        ("metrics", "--recording", str(folder), "--target", str(state / "prometheus")),
    )
    traces = _fill(
        f"puts the traces of {what} into the trace store",
        tools,
        ("traces", "--recording", str(folder), "--target", otlp),
    )
    return (
        metrics,
        replace(prometheus, needs=(metrics.name,)),
        # Nothing sends spans to a recording, so its receiver is not an endpoint.
        replace(tracestore, endpoints={"tempo": tracestore.endpoints["tempo"]}),
        replace(traces, needs=(tracestore.name,)),
        store_parts.live_view(settings, tools, ports),
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
