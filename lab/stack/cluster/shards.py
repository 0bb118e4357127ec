"""Load from many pods: an Indexed Job drives the shards of one plan.

Each pod's record comes back through its log.
"""

import base64
import gzip
import hashlib
import io
import re
import secrets
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.errors import PartFailed, StackError, WorkloadError
from lab.settings import Settings
from lab.stack.cluster import kubectl as kube
from lab.stack.cluster import rollout
from lab.stack.cluster.api import OUR_LABEL, Api, remove_job

CONFIG_MAP_BYTES = 1_000_000  # the API server's limit is 1 MiB for the whole object
JOB = "apis/batch/v1/namespaces/llm-lab/jobs/load"
INDEX = "batch.kubernetes.io/job-completion-index"
# What the pod prints around its packed record: lab/k8s/load/job.yaml.
_RECORD = re.compile(
    r"^lab-run-begin (?P<sha256>[0-9a-f]{64})$(?P<body>.*?)^lab-run-end$", re.M | re.S
)


def load(settings: Settings, context: str, plan: Path, shards: int, lead_s: float = 60.0) -> str:
    """Start a Job of `shards` pods that drive a saved plan from `lead_s` s on.

    Returns the run's id. Raises WorkloadError for a plan that is not a file or too large for a
    ConfigMap, StackError if the Job is refused.
    """
    kubectl = kube.named(context)
    packed = _packed(plan, shards)
    api = Api(context)
    run_id = f"load-{datetime.now(UTC):%Y%m%dt%H%M%S}-{secrets.token_hex(2)}"
    remove_job(api, "llm-lab", "load", rollout.POLL_S)
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "load-plan", "namespace": "llm-lab", "labels": OUR_LABEL},
        "binaryData": {"plan.jsonl.gz": base64.b64encode(packed).decode()},
    }
    api.replace_config_map("llm-lab", "load-plan", body)
    documents = kube.render("load", kube.K8S)
    fill_in(documents, shards, run_id, time.time() + lead_s)
    kubectl.apply(documents)
    return run_id


def fill_in(documents: list[dict[str, Any]], shards: int, run_id: str, start_at: float) -> None:
    """Set a load's number of pods, run id and start (epoch seconds) in the rendered Job."""
    job = next(d for d in documents if d["kind"] == "Job")
    job["spec"] |= {"completions": shards, "parallelism": shards}
    values = {"SHARDS": str(shards), "RUN_ID": run_id, "START_AT": f"{start_at:.3f}"}
    for variable in job["spec"]["template"]["spec"]["containers"][0]["env"]:
        if variable["name"] in values:
            variable["value"] = values[variable["name"]]


def collect(
    settings: Settings,
    context: str,
    run_id: str,
    out_dir: Path,
    wait_s: float = 3600.0,
) -> list[Path]:
    """Wait until all shards of a load have ended; return a folder of records for each.

    A folder has records.parquet and run.json. Raises PartFailed with the pods' last words for a
    shard that could not be driven, WorkloadError for a record that is not whole.
    """
    kube.named(context)
    api = Api(context)
    shards = _wait(api, run_id, wait_s)
    pods = {int(p["metadata"]["annotations"][INDEX]): p for p in _pods(api)}
    if missing := set(range(shards)) - pods.keys():
        raise WorkloadError(
            f"the pods of shards {sorted(missing)} are gone, and their records with them",
            fix="drive the plan again; pods of a finished Job are kept for a day",
        )
    names = {i: pods[i]["metadata"]["name"] for i in range(shards)}
    return [
        unpack_record(_log(api, name), name, out_dir / f"shard-{i}") for i, name in names.items()
    ]


def _packed(plan: Path, shards: int) -> bytes:
    try:
        packed = gzip.compress(plan.read_bytes(), mtime=0)
    except OSError as e:
        raise WorkloadError(
            f"the plan {plan} cannot be read",
            got=str(e),
            fix="make one with `lab load --save-plan FILE`",
        ) from e
    if shards < 1:
        raise WorkloadError(
            "a load needs at least one pod", got=f"shards = {shards}", fix="give 1 or more"
        )
    if len(packed) > CONFIG_MAP_BYTES:
        raise WorkloadError(
            "the plan is too large for a ConfigMap",
            got=f"{len(packed):,} bytes compressed, {CONFIG_MAP_BYTES:,} fit",
            fix="make several shorter plans and drive them one after another",
        )
    return packed


def _wait(api: Api, run_id: str, wait_s: float) -> int:
    """Wait until all shards have ended well, and return their number."""
    limit = time.monotonic() + wait_s
    while True:
        job = api.get(JOB)
        if job is None or _run_of(job) != run_id:
            raise WorkloadError(
                f"the Job of run {run_id} is not there", fix="a later load has taken its place"
            )
        now = job.get("status", {})
        shards = job["spec"]["completions"]
        if rollout.has_condition(now, "Failed"):
            raise _failure(api, f"a shard of {run_id} could not be driven")
        if now.get("succeeded", 0) >= shards:
            return shards
        if time.monotonic() > limit:
            raise _failure(api, f"the load {run_id} has not ended after {wait_s:.0f} s")
        time.sleep(rollout.POLL_S)


def _failure(api: Api, happened: str) -> PartFailed:
    """Return the error with the last words of the pods that did not end well."""
    words = []
    for pod in _pods(api):
        if pod.get("status", {}).get("phase") != "Succeeded":
            name = pod["metadata"]["name"]
            last = _log(api, name, tailLines="5").strip()
            why = "; ".join(f"{r.reason} {r.message}" for r in rollout.pod_reasons(pod))
            words.append(f"{name}: {last or why or pod.get('status', {}).get('phase')}")
    return PartFailed(
        happened,
        part="load",
        got="\n    ".join(words),
        fix=f"kubectl --context {api.context} --namespace llm-lab logs job/load --all-containers",
    )


def _pods(api: Api) -> list[dict[str, Any]]:
    """Return the Job's pods that Kubernetes has given an index."""
    found = api.items("api/v1", "pods", "app.kubernetes.io/name=load", "llm-lab")
    return [p for p in found if INDEX in (p["metadata"].get("annotations") or {})]


def _run_of(job: dict[str, Any]) -> str:
    env = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return next((v.get("value", "") for v in env if v["name"] == "RUN_ID"), "")


def _log(api: Api, pod: str, **query: str) -> str:
    try:
        return api.text(f"api/v1/namespaces/llm-lab/pods/{pod}/log", container="load", **query)
    except StackError as e:  # a container that never started has none
        return str(e.got or e)


def unpack_record(log: str, pod: str, folder: Path) -> Path:
    """Unpack the record in a pod's log to files in `folder`.

    Raises WorkloadError unless it is whole.
    """
    found = _RECORD.search(log)
    packed = base64.b64decode(found["body"]) if found else b""
    if not found or hashlib.sha256(packed).hexdigest() != found["sha256"]:
        raise WorkloadError(
            f"the record of pod {pod} is not whole",
            got="its log is cut off"
            if found
            else "its log has no record: it may have been rotated (10 MiB by default)",
            fix="use more shards, so that each is less",
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
        archive.extractall(folder, filter="data")
    return folder
