"""The parts of live and recorded labs alike: trace store, Prometheus, and the live view of both."""

from __future__ import annotations

from pathlib import Path

from lab.settings import REPO, Settings
from lab.stack.parts import Part, Probe
from lab.stack.ports import HOST
from lab.stack.toolbox import Toolbox


def tracestore(what: str, tools: Toolbox, ports: dict[str, int], state: Path) -> Part:
    """Return the trace store, with its data below `state`."""
    tempo = f"http://{HOST}:{ports['tempo']}"
    return Part(
        name="tracestore",
        what=what,
        argv=(
            *(tools.python_lab, "-m", "lab.tracestore"),
            *("--port", str(ports["tempo"]), "--otlp-port", str(ports["otlp"])),
            *("--data", str(state / "traces")),
        ),
        env={"PYTHONPATH": str(REPO)},
        ports={"tempo": ports["tempo"], "otlp": ports["otlp"]},
        ready=Probe("http", {"url": f"{tempo}/ready"}),
        alive=f"{tempo}/ready",
        endpoints={"tempo": tempo, "otlp": f"http://{HOST}:{ports['otlp']}"},
        grace_s=10.0,
    )


def prometheus(
    what: str, tools: Toolbox, ports: dict[str, int], state: Path, config: Path, retention: str
) -> Part:
    """Return Prometheus, with its data below `state`."""
    url = f"http://{HOST}:{ports['prometheus']}"
    return Part(
        name="prometheus",
        what=what,
        argv=(
            tools.prometheus,
            f"--config.file={config}",
            f"--storage.tsdb.path={state / 'prometheus'}",
            f"--web.listen-address={HOST}:{ports['prometheus']}",
            # Matches no origin: no web page may read the metrics. The default allows all of them.
            "--web.cors.origin=.^",
            "--log.format=json",
            f"--storage.tsdb.retention.time={retention}",
            *web_pages(tools.prometheus),
        ),
        ports={"prometheus": ports["prometheus"]},
        ready=Probe("http", {"url": f"{url}/-/ready"}),
        alive=f"{url}/-/healthy",
        endpoints={"prometheus": url},
    )


def live_view(settings: Settings, tools: Toolbox, ports: dict[str, int]) -> Part:
    """Return the live view, which finds the stores by the state folder."""
    url = f"http://{HOST}:{ports['view']}"
    return Part(
        name="live-view",
        what="live view: components, dashboards, alerts, traces, queries in one page",
        argv=(tools.python_lab, "-m", "lab.liveview", "--port", str(ports["view"])),
        env={
            "PYTHONPATH": str(REPO),
            "LAB_STATE_DIR": str(settings.state_dir.resolve()),
            "LAB_DATA_DIR": str(settings.data_dir.resolve()),
            "LAB_PLACE": settings.place,
            "LAB_RECORDING": settings.recording,
        },
        ports={"view": ports["view"]},
        ready=Probe("http", {"url": f"{url}/healthz"}),
        alive=f"{url}/healthz",
        essential=False,
        endpoints={"view": url},
    )


def alertmanager(tools: Toolbox, ports: dict[str, int], state: Path, config: Path) -> Part:
    """Return Alertmanager, with its data below `state`. It sends nothing: its API is queried."""
    listen = f"{HOST}:{ports['alertmanager']}"
    return Part(
        name="alertmanager",
        what="Alertmanager: holds the alerts that Prometheus raises",
        argv=(
            tools.alertmanager,
            f"--config.file={config}",
            f"--storage.path={state / 'alertmanager'}",
            f"--web.listen-address={listen}",
            "--cluster.listen-address=",  # no peers, and no port for them
            "--log.format=json",
        ),
        ports={"alertmanager": ports["alertmanager"]},
        ready=Probe("http", {"url": f"http://{listen}/-/ready"}),
        alive=f"http://{listen}/-/healthy",
        essential=False,
    )


def web_pages(prometheus: str) -> list[str]:
    """Return the option with the folder of web pages, for a Debian package that set-up unpacked.

    Debian's build reads its pages from a folder; all other builds contain them.
    """
    folder = Path(prometheus).resolve().parent.parent / "share/prometheus/web"
    return [f"--web.local-assets={folder}/"] if folder.is_dir() else []
