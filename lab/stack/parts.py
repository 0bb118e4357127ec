"""Parts of the stack as values: what a part is, and those of live and recorded labs alike.

plan.py says which parts there are, the supervisor runs them.
"""

import ctypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.settings import REPO, Settings
from lab.stack.ports import HOST
from lab.stack.toolbox import Toolbox

# The parts that an agent request passes through, or that record it.
AGENT_PATH = ("tracestore", "prometheus", "vllm", "tools", "llama-stack")


@dataclass(frozen=True)
class Probe:
    """How to find out whether a part is ready: a function of ready.py by name, and its arguments.

    Three kinds have no such function: `exit` (a task is ready when it has ended well), `imported`
    (the zygote reports when it has imported vLLM) and `running` (it is ready once it runs).
    """

    kind: str
    target: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One part: a process, a process forked from another part, or a task that runs once.

    Attributes:
        what: description for `lab status` and error messages
        ports: the ports that it listens on, by their name in ports.PREFERRED; clients use the first
        alive: URL that a live process answers quickly and at no cost; empty where there is none
        base: name of the part that forks this one
        needs: names of the parts that must be ready before this one is started
        task: whether it runs once and ends, instead of serving
        on_demand: whether it is started and stopped by name only (lab.stack.start)
        temporary: whether its end, for any reason, undoes what it changed in the others; it is
            not started again
        reloads: whether it reads its files again on SIGHUP, without a restart
        essential: whether agent requests need it; if it fails at the start, the lab is stopped
        startup_s: how long it may take to become ready
        grace_s: how long it may take to end after SIGTERM
        endpoints: base URLs that it serves, by their name in lab.settings.ENDPOINTS
    """

    name: str
    what: str
    argv: tuple[str, ...]
    ready: Probe
    env: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    alive: str = ""
    base: str = ""
    needs: tuple[str, ...] = ()
    task: bool = False
    on_demand: bool = False
    temporary: bool = False
    reloads: bool = False
    essential: bool = True
    startup_s: float = 300.0
    grace_s: float = 5.0
    endpoints: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int | None:
        """Return the port that clients use."""
        return next(iter(self.ports.values()), None)

    def uses(self, path: str) -> bool:
        """Return whether its command line or environment names this file."""
        return any(path in value for value in (*self.argv, *self.env.values()))


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


def gpu_exporter(tools: Toolbox, ports: dict[str, int]) -> Part:
    """Return the exporter of the machine's NVIDIA GPUs, which reads NVML and needs no DCGM."""
    url = f"http://{HOST}:{ports['gpu']}/metrics"
    return Part(
        name="gpu",
        what="nvitop-exporter: use, memory and power of the NVIDIA GPUs",
        argv=(
            tools.gpu_exporter,
            *("--bind-address", HOST, "--port", str(ports["gpu"])),
            *("--hostname", "localhost", "--interval", "1"),
        ),
        ports={"gpu": ports["gpu"]},
        ready=Probe("http", {"url": url}),
        alive=url,
        essential=False,
    )


def has_nvidia_driver() -> bool:
    """Return whether NVML answers, without which the GPU's exporter ends at once."""
    try:
        return ctypes.CDLL("libnvidia-ml.so.1").nvmlInit_v2() == 0
    except (OSError, AttributeError):
        return False


def web_pages(prometheus: str) -> list[str]:
    """Return the option with the folder of web pages, for a Debian package that set-up unpacked.

    Debian's build reads its pages from a folder; all other builds contain them.
    """
    folder = Path(prometheus).resolve().parent.parent / "share/prometheus/web"
    return [f"--web.local-assets={folder}/"] if folder.is_dir() else []
