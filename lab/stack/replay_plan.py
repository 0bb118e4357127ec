"""Which parts the place `recorded` has: a Prometheus and a trace store that hold a recording, and who fills them."""

from __future__ import annotations

from pathlib import Path

from lab.settings import REPO, Settings
from lab.stack.parts import Part, Probe
from lab.stack.ports import HOST
from lab.stack.replay import check_recording
from lab.stack.toolbox import Toolbox

NEEDS = ("python_lab", "prometheus", "promtool")  # of the toolbox
_ENV = {"PYTHONPATH": str(REPO)}


def parts(
    settings: Settings, tools: Toolbox, ports: dict[str, int], config: Path
) -> tuple[Part, ...]:
    """The parts; `config` is Prometheus' configuration file. Raises StackError where there is no such recording."""
    folder = settings.recording_dir.resolve()
    about = check_recording(folder)
    state, what = (
        settings.state_dir.resolve(),
        f"the recording {folder.name} of {about['recorded_at']}",
    )
    url = {name: f"http://{HOST}:{ports[name]}" for name in ("tempo", "otlp", "prometheus")}
    replay = (tools.python_lab, "-m", "lab.stack.replay")
    metrics = Part(
        name="recorded-metrics",
        what=f"puts the samples of {what} into Prometheus' blocks",
        argv=(*replay, "metrics", "--recording", str(folder), "--target", str(state / "prometheus"),
              "--promtool", tools.promtool),
        env=_ENV,
        ready=Probe("exit"),
        task=True,
    )  # fmt: skip
    prometheus = Part(
        name="prometheus",
        what=f"Prometheus: answers from {what}",
        argv=(
            tools.prometheus,
            f"--config.file={config}",
            f"--storage.tsdb.path={state / 'prometheus'}",
            f"--web.listen-address={HOST}:{ports['prometheus']}",
            "--log.format=json",
            "--storage.tsdb.retention.time=100y",
        ),
        needs=(metrics.name,),
        port=ports["prometheus"],
        ready=Probe("http", {"url": f"{url['prometheus']}/-/ready"}),
        endpoints={"prometheus": url["prometheus"]},
    )
    own = (
        "--port",
        str(ports["tempo"]),
        "--otlp-port",
        str(ports["otlp"]),
        "--data",
        str(state / "traces"),
    )
    tracestore = Part(
        name="tracestore",
        what=f"trace store: answers from {what}",
        argv=(tools.python_lab, "-m", "lab.tracestore", *own),
        env=_ENV,
        port=ports["tempo"],
        ready=Probe("http", {"url": f"{url['tempo']}/ready"}),
        endpoints={"tempo": url["tempo"]},
        grace_s=10.0,
    )
    traces = Part(
        name="recorded-traces",
        what=f"puts the traces of {what} into the trace store",
        argv=(*replay, "traces", "--recording", str(folder), "--target", url["otlp"]),
        env=_ENV,
        needs=(tracestore.name,),
        ready=Probe("exit"),
        task=True,
    )
    return metrics, prometheus, tracestore, traces
