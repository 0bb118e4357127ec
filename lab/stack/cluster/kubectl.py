"""kubectl as a subprocess: what an attendee would type, with the context always named."""

import functools
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.errors import SettingsError, SetupError, StackError
from lab.settings import REPO

K8S = REPO / "lab" / "k8s"
FIELD_MANAGER = "llm-lab"
OLDEST_KUBECTL = (
    27  # 1.27 has kustomize 5; older ones do not know `components` or some of their fields
)
INSTALL = "https://kubernetes.io/docs/tasks/tools/"
# Ten times as fast as the pure ones, where PyYAML has libyaml; an overlay has ten thousand lines.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class Kubectl:
    """kubectl for one context."""

    program: str
    context: str

    def apply(self, documents: list[dict[str, Any]]) -> None:
        """Apply the documents on the server, which merges them. Raises StackError."""
        command = [
            *(self.program, "--context", self.context),
            *("apply", "--server-side", "--force-conflicts"),
            *(f"--field-manager={FIELD_MANAGER}", "-f", "-"),
        ]
        _run(command, yaml.dump_all(documents, Dumper=_DUMPER), timeout_s=120.0)

    def forward_command(self, namespace: str, service: str, local: int, remote: int) -> list[str]:
        """Return the command of a port forward on loopback."""
        return [
            *(self.program, "--context", self.context, "--namespace", namespace),
            *("port-forward", "--address", "127.0.0.1"),
            *(f"service/{service}", f"{local}:{remote}"),
        ]


def named(context: str) -> Kubectl:
    """Return kubectl for a context that the user has named.

    Raises SetupError without kubectl, SettingsError for a context that was not named or does not
    exist.
    """
    path = program()
    known = _run([path, "config", "get-contexts", "--output=name"], None, 30.0).split()
    have = f"contexts {', '.join(known)}" if known else "no context in the kubeconfig"
    if not context:
        raise SettingsError(
            "no Kubernetes context was named, and none is taken by itself",
            got=have,
            fix="name the one that you mean: "
            "`lab up --place cluster --context NAME --overlay NAME`",
        )
    if context not in known:
        raise SettingsError(
            f"there is no Kubernetes context {context!r}",
            got=have,
            fix="name one of these, or `minikube start` a new one",
        )
    return Kubectl(path, context)


def render(overlay: str, folder: Path = K8S / "overlays") -> list[dict[str, Any]]:
    """Render an overlay's documents.

    Raises SettingsError for one that is not there, StackError for one that is broken.
    """
    path = folder / overlay
    if not overlay or not (path / "kustomization.yaml").is_file():
        names = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir()))
        raise SettingsError(
            f"there is no overlay {overlay!r}", got=f"in {folder}", fix=f"use one of {names}"
        )
    return list(
        yaml.load_all(_run([program(), "kustomize", str(path)], None, 60.0), Loader=_LOADER)
    )


def versions() -> dict[str, str]:
    """Return the pinned versions."""
    lines = (K8S / "versions" / "versions.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def program() -> str:
    """Return kubectl's path.

    Raises SetupError where it is missing, or too old for the manifests.
    """
    found = shutil.which("kubectl")
    if found is None:
        raise SetupError("kubectl is not installed", fix=f"install it: {INSTALL}")
    minor, text = _client_version(found)
    if minor < OLDEST_KUBECTL:
        raise SetupError(
            f"kubectl is too old: the manifests need 1.{OLDEST_KUBECTL} or newer",
            got=f"{text} at {found} (Debian 12's package is 1.20)",
            fix=f"install a current one: {INSTALL}",
        )
    return found


@functools.lru_cache
def _client_version(found: str) -> tuple[int, str]:
    """Return (minor version, whole version) of a kubectl; a large number where it is not known."""
    text = _run([found, "version", "--client", "--output=json"], None, 30.0)
    try:
        version = json.loads(text)["clientVersion"]
        return int(re.sub(r"\D", "", version["minor"])), version["gitVersion"]
    except (ValueError, KeyError, TypeError):
        return sys.maxsize, "unknown"


def _run(command: list[str], stdin: str | None, timeout_s: float) -> str:
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as e:
        raise StackError(
            f"kubectl did not answer within {timeout_s:.0f} s",
            got=" ".join(command[:6]),
            fix="check that the cluster is up (`minikube status`) and reachable from here",
        ) from e
    if done.returncode:
        raise StackError(
            f"`{' '.join(command[:6])} ...` failed",
            got=done.stderr.strip()[-2000:],
            fix="correct what kubectl says, then run the same command again: it goes on from there",
        )
    return done.stdout
