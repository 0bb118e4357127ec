"""Port forwards to the cluster's parts; inside the cluster, the Services' names.

`cluster.json` in the state folder says which context it was, and where each part can be reached
from here. A process of its own keeps the forwards up (`main`).
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lab.errors import StackError
from lab.settings import ENDPOINTS, REPO, Settings
from lab.stack import processes, state
from lab.stack.cluster import kubectl as kube
from lab.stack.ports import HOST, choose

CLUSTER_FILE = "cluster.json"
FORWARDS_UP_S = 60.0
PROGRAM = "from lab.stack.cluster.port_forwards import main; main()"
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
STEADY_S = 30.0  # a forward that held so long starts its pauses from the beginning
# Endpoint -> (namespace, Service, port).
SERVICES = {
    "prometheus": ("llm-lab-obs", "prometheus", 9090),
    "tempo": ("llm-lab-obs", "tempo", 3200),
    "otlp": ("llm-lab-obs", "otel-collector", 4318),
    "grafana": ("llm-lab-obs", "grafana", 3000),
    "llama_stack": ("llm-lab", "llama-stack", 8321),
    "vllm": ("llm-lab", "model-server", 8000),
    "vllm_embed": ("llm-lab", "embed-server", 8000),
    "mcp": ("llm-lab", "lab-tools", 8200),
}
# Who calls the tools is Llama Stack, so the address that a request names is the one inside.
TOOLS_INSIDE = "http://lab-tools.llm-lab.svc:8200"


@dataclass(frozen=True)
class Connection:
    """A cluster whose ports `up` has forwarded; `reachable` are the addresses from here."""

    context: str
    overlay: str
    reachable: dict[str, str]
    pid: int = 0
    create_time: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether the process that forwards still runs; inside the cluster none is needed."""
        return not self.pid or processes.is_same(self.pid, self.create_time)


def connection(settings: Settings) -> Connection | None:
    """Return what `up` wrote last; None where it did not, or has been taken down."""
    try:
        return Connection(**json.loads((settings.state_dir.resolve() / CLUSTER_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def open_forwards(
    kubectl: kube.Kubectl, settings: Settings, overlay: str, documents: list[dict[str, Any]]
) -> dict[str, str]:
    """Make every part reachable and save its address.

    Returns {endpoint: URL} as requests should use them.
    """
    state_dir = settings.state_dir.resolve()
    state.prepare(state_dir)
    close_forwards(state_dir)
    services = _services(documents)
    pid, created = 0, 0.0
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        reachable = {
            name: f"http://{service}.{ns}.svc:{port}"
            for name, (ns, service, port) in services.items()
        }
    else:
        chosen = choose({k: v for k, v in settings.ports.items() if k in services})
        local = {name: chosen[name] for name in services}
        commands = {
            n: kubectl.forward_command(ns, s, local[n], port)
            for n, (ns, s, port) in services.items()
        }
        pid, created = _forward(state_dir, local, commands)
        reachable = {name: f"http://{HOST}:{port}" for name, port in local.items()}
    opened = Connection(kubectl.context, overlay, reachable, pid, created)
    state.write_json(state_dir / CLUSTER_FILE, asdict(opened))
    urls = reachable | {"mcp": TOOLS_INSIDE}
    state.write_endpoints(state_dir, urls)
    return urls


def close_forwards(state_dir: Path) -> None:
    """End the process that forwards, if it is still the one that we started."""
    path = state_dir / CLUSTER_FILE
    with contextlib.suppress(OSError, ValueError, KeyError):
        found = json.loads(path.read_text())
        if found["pid"] and processes.is_same(found["pid"], found["create_time"]):
            processes.end(processes.tree(found["pid"]))
        state.remove_endpoints(state_dir)
    path.unlink(missing_ok=True)


def _services(documents: list[dict[str, Any]]) -> dict[str, tuple[str, str, int]]:
    """Return those of SERVICES that the documents have.

    A name that only points elsewhere is followed. OpenShift has no Prometheus to forward.
    """
    services = {
        (d["metadata"]["namespace"], d["metadata"]["name"]): d["spec"]
        for d in documents
        if d["kind"] == "Service"
    }
    found = {}
    for endpoint, (namespace, name, port) in SERVICES.items():
        spec = services.get((namespace, name), {})
        if spec.get("type") == "ExternalName":
            name, namespace = spec["externalName"].split(".")[:2]
        if spec:
            found[endpoint] = (namespace, name, port)
    return found


def _forward(
    state_dir: Path, local: dict[str, int], commands: dict[str, list[str]]
) -> tuple[int, float]:
    """Return (pid, start time) of the process that forwards, once all ports answer.

    Raises StackError.
    """
    process = _start(state_dir, commands)
    limit = time.monotonic() + FORWARDS_UP_S
    while closed := [name for name, port in local.items() if not answers(port)]:
        if time.monotonic() > limit or process.poll() is not None:
            close_forwards(state_dir)
            raise StackError(
                f"there is no way to {ENDPOINTS[closed[0]]} in the cluster",
                got=f"{state_dir / 'logs' / 'forwards.log'} says why",
                fix=f"try it: {' '.join(commands[closed[0]])}",
            )
        time.sleep(0.2)
    return processes.identity(process.pid) or (process.pid, time.time())


def _start(state_dir: Path, commands: dict[str, list[str]]) -> subprocess.Popen[bytes]:
    with (state_dir / "logs" / "forwards.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=REPO,
            env=processes.part_env(state_dir, "forwards", {"PYTHONPATH": str(REPO)}),
            start_new_session=True,
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"commands": commands}).encode())
    process.stdin.close()
    pid, created = processes.identity(process.pid) or (process.pid, time.time())
    state.write_json(state_dir / CLUSTER_FILE, {"pid": pid, "create_time": created})
    return process


def answers(port: int) -> bool:
    """Return whether something accepts connections on that port of this machine."""
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def keep_up(command: list[str]) -> None:
    """Run `kubectl port-forward`, and again whenever it ends, with growing pauses.

    It ends with the pod that it was tied to. It is killed with this process (on Linux by the
    kernel, elsewhere by `close_forwards`).
    """
    start = partial(processes.die_with_parent, os.getpid())
    pause_s = FIRST_PAUSE_S
    while True:
        begun = time.monotonic()
        subprocess.run(command, stdin=subprocess.DEVNULL, preexec_fn=start, check=False)
        held = time.monotonic() - begun > STEADY_S
        pause_s = FIRST_PAUSE_S if held else min(2 * pause_s, LONGEST_PAUSE_S)
        time.sleep(pause_s)


def main() -> None:
    """Keep up the forwards that come as {"commands": {name: argv}} on stdin, until a signal."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # ends all threads at once, as SIGTERM does
    commands = json.load(sys.stdin)["commands"]
    with ThreadPoolExecutor(len(commands)) as pool:
        list(pool.map(keep_up, commands.values()))
