"""Start the pods of an overlay, wait for their probes, run its Jobs: a kubelet's work."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx

from lab.errors import PartFailed
from tests.smoke_podman.engine import Engine
from tests.smoke_podman.pods import Document, Pod, command, service_names

RETRY_S = 5.0
JOB_LIMIT_S = 600.0


class Player:
    """The pods of one overlay. `folder` keeps volumes and logs; `say` reports each step."""

    def __init__(
        self,
        engine: Engine,
        documents: list[Document],
        pods: list[Pod],
        secrets: dict[str, str],
        say: Callable[[str], None],
    ) -> None:
        self.engine = engine
        self.documents = documents
        self.pods = pods
        self.secrets = secrets
        self.say = say
        self.folder = engine.folder / "volumes"
        self.logs = engine.folder / "logs"
        self.names = service_names(documents, pods)
        self._speak = threading.Lock()
        self._ended = threading.Event()

    def start(self) -> None:
        """Start all pods at once, as a cluster does, and wait until each answers every probe.

        Raises PartFailed for the first that exits or does not get ready, with its last words.
        """
        servers = [p for p in self.pods if p.kind != "Job"]
        with ThreadPoolExecutor(len(servers)) as pool:
            for done in as_completed([pool.submit(self._serve, pod) for pod in servers]):
                if done.exception():
                    self._ended.set()  # the others need not wait
                done.result()

    def run_job(self, pod: Pod) -> str:
        """Run a Job's pod to its end, again where its restart policy says so; return its log.

        Raises PartFailed with its last words.
        """
        self._prepare(pod)
        name, container = pod.containers[-1]
        again = pod.spec.get("restartPolicy") == "OnFailure"
        limit = time.monotonic() + JOB_LIMIT_S
        while True:
            log = self.logs / f"{name}.log"
            if self._runs(name, pod, container, log):
                return log.read_text()
            if not again or time.monotonic() > limit:
                raise self._failure(pod, "ended with an error", log.read_text())
            self.engine.run("rm", "--force", name, check=False)
            time.sleep(RETRY_S)

    def save_logs(self) -> None:
        """Write what each container printed to a file of its own."""
        for name in self.engine.run("ps", "--all", "--format", "{{.Names}}").split():
            self.engine.run("logs", name, log=self.logs / f"{name}.log", check=False)

    def _serve(self, pod: Pod) -> None:
        begun = time.monotonic()
        self._prepare(pod)
        name, container = pod.containers[-1]
        first, *rest = self._command(pod, name, container)
        self.engine.run(first, "--detach", *rest)
        self._wait_for_probes(pod, name, container)
        with self._speak:
            self.say(f"{pod.name} is ready after {time.monotonic() - begun:.0f} s")

    def _prepare(self, pod: Pod) -> None:
        """Run the init containers, one after another."""
        for name, container in pod.containers[:-1]:
            log = self.logs / f"{name}.log"
            if not self._runs(name, pod, container, log):
                raise self._failure(pod, f"failed in {container['name']}", log.read_text())

    def _runs(self, name: str, pod: Pod, container: dict[str, Any], log: Path) -> bool:
        arguments = self._command(pod, name, container)
        self.engine.run(*arguments, log=log, check=False, timeout_s=JOB_LIMIT_S)
        code = self.engine.run("inspect", "--format", "{{.State.ExitCode}}", name, check=False)
        return code.strip() == "0"

    def _command(self, pod: Pod, name: str, container: dict[str, Any]) -> list[str]:
        return command(pod, name, container, self.folder, self.documents, self.names, self.secrets)

    def _wait_for_probes(self, pod: Pod, name: str, container: dict[str, Any]) -> None:
        startup = container["startupProbe"]
        limit = time.monotonic() + startup["periodSeconds"] * startup["failureThreshold"]
        while problem := _problem(pod, startup):
            state = self.engine.run("inspect", "--format", "{{.State.Status}}", name).strip()
            if state != "running" or time.monotonic() > limit:
                log = self.logs / f"{name}.log"
                self.engine.run("logs", "--tail", "30", name, check=False, log=log)
                raise self._failure(pod, f"is {state}: {problem}", log.read_text())
            if self._ended.wait(0.5):
                return
        for kind in ("readinessProbe", "livenessProbe"):
            if kind in container and (problem := _problem(pod, container[kind])):
                raise self._failure(pod, f"does not answer its {kind}: {problem}", "")

    def _failure(self, pod: Pod, what: str, log: str) -> PartFailed:
        last = "\n    ".join(log.strip().splitlines()[-12:])
        return PartFailed(
            f"{pod.name} {what}", part=pod.name, got=last or "no log", log=str(self.logs)
        )


def _problem(pod: Pod, probe: dict[str, Any]) -> str:
    """Return why a probe does not pass, or nothing."""
    get = probe["httpGet"]
    url = f"http://{pod.ip}:{pod.ports.get(get['port'], get['port'])}{get['path']}"
    try:
        status = httpx.get(url, timeout=probe.get("timeoutSeconds", 1)).status_code
    except httpx.HTTPError as e:
        return f"GET {url}: {type(e).__name__}"
    return "" if 200 <= status < 400 else f"GET {url}: {status}"
