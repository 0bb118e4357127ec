"""Check the manifests with checkov and its nine hundred policies, except for what is accepted.

It has an environment of its own (.venvs/checkov), which `make check-cluster` builds.
"""

import copy
import functools
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.errors import SetupError
from tests.k8s.checks.render import REPO, pods

PROGRAM = REPO / ".venvs" / "checkov" / "bin" / "checkov"
# Without these options it would contact its vendor's server.
OFFLINE = (
    "--framework=kubernetes",
    "--skip-download",
    "--quiet",
    "--compact",
    "--output=json",
)


@dataclass(frozen=True)
class Accepted:
    """Why a policy does not hold here, and for which objects (kind.namespace.name; empty: all)."""

    reason: str
    objects: frozenset[str] = frozenset()


def _for(reason: str, *objects: str) -> Accepted:
    return Accepted(reason, frozenset(objects))


_EXPORTER = "DaemonSet.llm-lab-gpu.dcgm-exporter"
_EXPORTER_REASON = (
    "it reads the GPU's counters and the kubelet's socket as root with SYS_ADMIN, alone in a "
    "namespace of its own"
)
ACCEPTED: dict[str, Accepted] = {
    "CKV_K8S_11": _for(
        "no CPU limits: throttling would be measured as latency; memory is limited, CPU requested"
    ),
    "CKV_K8S_15": _for(
        "versions never move, and the lab's own image is in Minikube's store rather than a registry"
    ),
    "CKV_K8S_43": _for(
        "images are pinned by version: a digest holds for one architecture, and users have two"
    ),
    "CKV_K8S_22": _for(
        "the container runtime's CDI hook writes into the root file system of a pod with a GPU",
        "Deployment.llm-lab.vllm",
        _EXPORTER,
    ),
    "CKV_K8S_35": _for(
        "the program reads its password from its environment only; the Secret is made at deploy "
        "time",
        "Deployment.llm-lab-obs.grafana",
        "Job.llm-lab.fetch-model",
        "StatefulSet.llm-lab-obs.tempo",
    ),
    "CKV_K8S_38": _for(
        "it queries the API server: k8s_attributes, and the router's discovery of replicas",
        "Deployment.llm-lab-obs.otel-collector",
        "StatefulSet.llm-lab-obs.otel-collector",
        "DaemonSet.llm-lab-obs.otel-agent",
        "Deployment.llm-lab.vllm-router",
    ),
    "CKV_K8S_40": _for(
        "the image's own user: vLLM's must be 2000 (others have no home), Grafana's is 472",
        "Deployment.llm-lab.vllm",
        "Deployment.llm-lab.vllm-embed",
        "Deployment.llm-lab-obs.grafana",
        "Job.llm-lab.fetch-model",
        _EXPORTER,
    ),
}
ACCEPTED |= {
    f"CKV_K8S_{number}": _for(_EXPORTER_REASON, _EXPORTER) for number in (20, 23, 25, 28, 37, 39)
}


def check(documents: list[dict[str, Any]]) -> list[str]:
    """Return the policies that fail and are not accepted.

    Raises SetupError if checkov is not installed.
    """
    return [
        f"{document}: {policy} {title}"
        for policy, title, document in _failed(_as_admitted(documents))
        if not _accepted(policy, document)
    ]


def _as_admitted(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the documents with the user that OpenShift gives to pods that name none.

    Elsewhere no pod is without one, which `workloads` checks.
    """
    admitted = copy.deepcopy(documents)
    for pod in pods(admitted):
        pod.spec.setdefault("securityContext", {}).setdefault("runAsUser", 1000650000)
    return admitted


def unused(documents: list[dict[str, Any]]) -> list[str]:
    """Return the exceptions that nothing needs any more, over all overlays together."""
    failed = {(policy, document) for policy, _, document in _failed(_as_admitted(documents))}
    problems = []
    for policy, accepted in ACCEPTED.items():
        needed = {document for p, document in failed if p == policy}
        problems += [
            f"{policy} need not be accepted for {document}"
            for document in sorted(accepted.objects - needed)
        ]
        if not needed:
            problems.append(f"{policy} need not be accepted at all")
    return problems


def _accepted(policy: str, document: str) -> bool:
    accepted = ACCEPTED.get(policy)
    return accepted is not None and (not accepted.objects or document in accepted.objects)


def _failed(documents: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return (policy, title, kind.namespace.name) of every failure, each object once."""
    if not PROGRAM.exists():
        raise SetupError(
            "checkov is not installed", fix="run `make check-cluster`, which builds its environment"
        )
    distinct = {json.dumps(d, sort_keys=True): d for d in documents if d["kind"] != "ConfigMap"}
    return list(
        _run(yaml.dump_all(distinct.values(), Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    )


@functools.lru_cache(maxsize=2)
def _run(text: str) -> tuple[tuple[str, str, str], ...]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.yaml"
        path.write_text(text)
        done = subprocess.run(
            [str(PROGRAM), *OFFLINE, "--file", str(path)],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=folder,
            env={**os.environ, "LOG_LEVEL": "ERROR"},
        )
    try:
        results = json.loads(done.stdout)["results"]["failed_checks"]
    except (ValueError, KeyError, TypeError) as e:
        got = (done.stderr or done.stdout)[-500:]
        raise SetupError(
            "checkov gave no result", got=got, fix="run it by hand on a rendered overlay"
        ) from e
    return tuple(sorted({(r["check_id"], r["check_name"], r["resource"]) for r in results}))
