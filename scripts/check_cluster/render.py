"""Render an overlay with `kubectl kustomize`, which needs no cluster, and find pods in it."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml

from lab.stack.cluster import kubectl
from scripts.check_cluster.paths import K8S


class CannotRender(Exception):
    """Kustomize refused to render; the message is its own."""


def overlay(name: str) -> list[dict[str, Any]]:
    """Return the documents of lab/k8s/overlays/<name>, a fresh copy each time."""
    return list(yaml.load_all(_text(str(K8S / "overlays" / name)), Loader=_LOADER))


def folder(path: Path) -> list[dict[str, Any]]:
    """Return the documents of any kustomization."""
    return list(yaml.load_all(_run(str(path)), Loader=_LOADER))


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.lru_cache
def _text(path: str) -> str:
    return _run(path)


def _run(path: str) -> str:
    done = subprocess.run(
        [kubectl.program(), "kustomize", path], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        raise CannotRender(done.stderr.strip())
    return done.stdout


def name(document: dict[str, Any]) -> str:
    """Return `Kind namespace/name`, for messages."""
    meta = document["metadata"]
    return f"{document['kind']} {meta.get('namespace', '-')}/{meta['name']}"


def is_openshift(documents: list[dict[str, Any]]) -> bool:
    """Return whether an overlay is for OpenShift: only there are Routes."""
    return any(d["kind"] == "Route" for d in documents)


def pods(documents: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return (document, pod template) of everything that makes pods."""
    found = []
    for d in documents:
        template = d.get("spec", {}).get("template") if isinstance(d.get("spec"), dict) else None
        if d["kind"] == "CronJob":
            template = d["spec"]["jobTemplate"]["spec"]["template"]
        if isinstance(template, dict) and "spec" in template and "containers" in template["spec"]:
            found.append((d, template))
    return found


def containers(template: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the init containers and containers of a pod template."""
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]
