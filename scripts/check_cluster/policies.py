"""What checkov, an outside reviewer of some nine hundred policies, has to say: everything but what we accept, with why.

It has an environment of its own (.venvs/checkov); `make check-cluster` builds it.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.errors import SetupError
from scripts.check_cluster.paths import REPO
from scripts.check_cluster.render import pods

PROGRAM = REPO / ".venvs" / "checkov" / "bin" / "checkov"
_DCGM = "it reads the GPU's counters and the kubelet's socket as root with SYS_ADMIN, alone in a namespace of its own"


@dataclass(frozen=True)
class Accepted:
    """Why a policy does not hold here; `who` are the objects (kind.namespace.name), none: all."""

    why: str
    who: frozenset[str] = frozenset()


def _of(why: str, *who: str) -> Accepted:
    return Accepted(why, frozenset(who))


_EXPORTER = "DaemonSet.llm-lab-gpu.dcgm-exporter"
ACCEPTED: Mapping[str, Accepted] = {
    "CKV_K8S_11": _of("no CPU limits: throttling would be measured as latency; memory is limited, CPU requested"),
    "CKV_K8S_15": _of("versions never move, and the lab's own image is in Minikube's store, in no registry"),
    "CKV_K8S_43": _of("images are pinned by version: a digest holds for one architecture, attendees have two"),
    "CKV_K8S_22": _of(
        "the container runtime's CDI hook writes into the root file system of a pod with a GPU",
        "Deployment.llm-lab.vllm", _EXPORTER,
    ),
    "CKV_K8S_35": _of(
        "the program takes its password from its environment only; the Secret is made at deploy time",
        "Deployment.llm-lab-obs.grafana", "Job.llm-lab.fetch-model", "StatefulSet.llm-lab-obs.tempo",
    ),
    "CKV_K8S_38": _of(
        "it asks the API server: k8s_attributes, and the router's discovery of replicas",
        "Deployment.llm-lab-obs.otel-collector", "StatefulSet.llm-lab-obs.otel-collector",
        "DaemonSet.llm-lab-obs.otel-agent", "Deployment.llm-lab.vllm-router",
    ),
    "CKV_K8S_40": _of(
        "the image's own user: vLLM's must be 2000 (another has no home), Grafana's is 472",
        "Deployment.llm-lab.vllm", "Deployment.llm-lab.vllm-embed", "Deployment.llm-lab-obs.grafana",
        "Job.llm-lab.fetch-model", _EXPORTER,
    ),
} | {
    check: _of(_DCGM, _EXPORTER)
    for check in ("CKV_K8S_20", "CKV_K8S_23", "CKV_K8S_25", "CKV_K8S_28", "CKV_K8S_37", "CKV_K8S_39")
}  # fmt: skip


def check(documents: list[dict[str, Any]]) -> list[str]:
    """Policies that fail and are not accepted. Raises SetupError where checkov is not installed."""
    return [
        f"{who}: {policy} {title}"
        for policy, title, who in _failed(_as_admitted(documents))
        if not _accepted(policy, who)
    ]


def _as_admitted(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the documents with the user that OpenShift gives to pods that name none.

    Elsewhere no pod is without one: pod_security sees to that.
    """
    admitted = copy.deepcopy(documents)
    for _, template in pods(admitted):
        template["spec"].setdefault("securityContext", {}).setdefault("runAsUser", 1000650000)
    return admitted


def unused(documents: list[dict[str, Any]]) -> list[str]:
    """Exceptions that nothing needs any more, over all overlays together."""
    failed = {(policy, who) for policy, _, who in _failed(_as_admitted(documents))}
    problems = []
    for policy, accepted in ACCEPTED.items():
        need = {who for p, who in failed if p == policy}
        problems += [
            f"{policy} need not be accepted for {who}" for who in sorted(accepted.who - need)
        ]
        if not need:
            problems.append(f"{policy} need not be accepted at all")
    return problems


def _accepted(policy: str, who: str) -> bool:
    accepted = ACCEPTED.get(policy)
    return accepted is not None and (not accepted.who or who in accepted.who)


def _failed(documents: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(policy, its title, kind.namespace.name) of every failure; each object once."""
    if not PROGRAM.exists():
        raise SetupError(
            "checkov is not installed", fix="run `make check-cluster`, which builds its environment"
        )
    distinct = {json.dumps(d, sort_keys=True): d for d in documents if d["kind"] != "ConfigMap"}
    return list(
        _ask(yaml.dump_all(distinct.values(), Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    )


@functools.lru_cache(maxsize=2)
def _ask(text: str) -> tuple[tuple[str, str, str], ...]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.yaml"
        path.write_text(text)
        # It would ask its vendor's server for guidelines.
        offline = [
            "--framework",
            "kubernetes",
            "--skip-download",
            "--quiet",
            "--compact",
            "--output",
            "json",
        ]
        done = subprocess.run(
            [str(PROGRAM), *offline, "--file", str(path)],
            capture_output=True, text=True, timeout=300, cwd=folder, env={**os.environ, "LOG_LEVEL": "ERROR"},
        )  # fmt: skip
    try:
        results = json.loads(done.stdout)["results"]["failed_checks"]
    except (ValueError, KeyError, TypeError) as e:
        got = (done.stderr or done.stdout)[-500:]
        raise SetupError(
            "checkov gave no result", got=got, fix="run it by hand on a rendered overlay"
        ) from e
    return tuple(sorted({(r["check_id"], r["check_name"], r["resource"]) for r in results}))
