"""What a pod's manifest means for a container: names, user, environment, volumes, probes.

What has no package to come from is replaced by a part of the lab, or left out (`for_podman`).
"""

import base64
import copy
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.errors import StackError
from lab.stack.cluster.kubectl import versions
from tests.smoke_podman.engine import NETWORK, SUBNET

Document = dict[str, Any]
ARBITRARY_UID = 1000650000  # what OpenShift gives to a pod that names no user
_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


@dataclass
class Pod:
    """One pod: `spec` is its template's, `ip` its address, which is its Services' too."""

    name: str
    namespace: str
    labels: dict[str, str]
    spec: dict[str, Any]
    ip: str
    kind: str
    environment: dict[str, str] = field(default_factory=dict)  # what Kubernetes adds

    @property
    def containers(self) -> list[tuple[str, dict[str, Any]]]:
        """(podman's name, container) of the init containers, then of the only container."""
        both = [*self.spec.get("initContainers", []), *self.spec["containers"]]
        return [(f"{self.name}.{c['name']}", c) for c in both]

    @property
    def ports(self) -> dict[str, int]:
        """{name: number} of the ports of all containers."""
        ports = [port for _, c in self.containers for port in c.get("ports", [])]
        return {port["name"]: port["containerPort"] for port in ports}


def pods_of(documents: list[Document]) -> list[Pod]:
    """Return one pod for each replica of each workload.

    Raises StackError for what podman cannot play here.
    """
    pods = []
    for d in documents:
        template = (d.get("spec") or {}).get("template")
        if d["kind"] not in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            continue
        if len(template["spec"]["containers"]) != 1:
            raise StackError(f"{d['metadata']['name']} has several containers, which is not played")
        spec = dict(template["spec"])
        spec["volumes"] = spec.get("volumes", []) + _claimed(d)
        indexed = d["spec"].get("completionMode") == "Indexed"
        replicas = d["spec"].get("completions" if d["kind"] == "Job" else "replicas", 1)
        for index in range(replicas):
            pod = Pod(
                name=f"{d['metadata']['name']}-{index}",
                namespace=d["metadata"]["namespace"],
                labels=template["metadata"].get("labels", {}),
                spec=spec,
                ip="",
                kind=d["kind"],
            )
            if indexed:
                pod.environment["JOB_COMPLETION_INDEX"] = str(index)
            pods.append(pod)
    return pods


def _claimed(document: Document) -> list[dict[str, Any]]:
    """Return the volumes of a StatefulSet's claim templates."""
    names = [t["metadata"]["name"] for t in document["spec"].get("volumeClaimTemplates", [])]
    return [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in names]


def give_addresses(pods: list[Pod], first: int = 10) -> None:
    """Give each pod an address of the network."""
    for number, pod in enumerate(pods, first):
        pod.ip = f"{SUBNET}.{number}"


def service_names(documents: list[Document], pods: list[Pod]) -> dict[str, str]:
    """Return {a Service's full name: the address of the pod that it selects}.

    Raises StackError for a Service with a port that its pod has under another number: addresses are
    pods' here.
    """
    names = {}
    for service in (d for d in documents if d["kind"] == "Service"):
        selector = service["spec"].get("selector", {}).items()
        namespace = service["metadata"]["namespace"]
        chosen = [p for p in pods if p.namespace == namespace and selector <= p.labels.items()]
        if chosen:
            _check_ports(service, chosen[0])
            name = f"{service['metadata']['name']}.{namespace}.svc"
            names |= {name: chosen[0].ip, f"{name}.cluster.local": chosen[0].ip}
    return names


def _check_ports(service: Document, pod: Pod) -> None:
    for port in service["spec"]["ports"]:
        target = port.get("targetPort", port["port"])
        number = pod.ports.get(target, target)
        if number != port["port"]:
            raise StackError(
                f"Service {service['metadata']['name']} maps {port['port']} to {number}",
                got="the smoke test resolves a Service to its pod, so both must be the same",
            )


def environment(pod: Pod, container: dict[str, Any], secrets: dict[str, str]) -> dict[str, str]:
    """Return the container's variables, with $(NAME) filled in from those before it.

    `secrets` are {"secret/key": value}. Raises StackError for a source that the smoke test does not
    know.
    """
    values = dict(pod.environment)
    for variable in container.get("env", []):
        name = variable["name"]
        source = variable.get("valueFrom", {})
        if "fieldRef" in source:
            path = source["fieldRef"]["fieldPath"]
            fields = {
                "metadata.name": pod.name,
                "metadata.namespace": pod.namespace,
                "status.podIP": pod.ip,
                "spec.nodeName": "podman",
                "status.hostIP": f"{SUBNET}.1",
            }
            values[name] = fields[path]
        elif "secretKeyRef" in source:
            reference = source["secretKeyRef"]
            key = f"{reference['name']}/{reference['key']}"
            if key in secrets:
                values[name] = secrets[key]
            elif not reference.get("optional"):
                raise StackError(f"{pod.name} needs the Secret {key}, which is not there")
        elif source:
            raise StackError(f"{pod.name}: {name} comes from {sorted(source)}, which is not played")
        else:
            text = variable.get("value", "")
            values[name] = _VARIABLE.sub(lambda m: values.get(m[1], m[0]), text)
    return values


def command(
    pod: Pod,
    podman_name: str,
    container: dict[str, Any],
    folder: Path,
    documents: list[Document],
    names: dict[str, str],
    secrets: dict[str, str] | None = None,
) -> list[str]:
    """Return the arguments of `podman run` for one container of a pod.

    `folder` keeps the volumes; `names` are the Services' addresses.
    """
    security = {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}
    user = f"{security.get('runAsUser', ARBITRARY_UID)}:{security.get('runAsGroup', 0)}"
    options = ["run", "--name", podman_name, "--hostname", pod.name, "--pull", "never"]
    options += ["--user", user, "--network", NETWORK, "--ip", pod.ip]
    if "fsGroup" in security:
        options += ["--group-add", str(security["fsGroup"])]
    if security.get("readOnlyRootFilesystem"):
        options += ["--read-only", "--read-only-tmpfs=false"]
    if not security.get("allowPrivilegeEscalation", True):
        options += ["--security-opt", "no-new-privileges"]
    for capability in security.get("capabilities", {}).get("drop", []):
        options += ["--cap-drop", capability.lower()]
    for name, ip in sorted(names.items()):
        options += ["--add-host", f"{name}:{ip}"]
    for name, value in environment(pod, container, secrets or {}).items():
        options += ["--env", f"{name}={value}"]
    for mount in container.get("volumeMounts", []):
        options += _mount(pod, mount, folder, documents, security)
    return [*options, *_entry(container)]


def _entry(container: dict[str, Any]) -> list[str]:
    """Return entry point, image and arguments.

    Kubernetes' `command` replaces the image's entry point.
    """
    first, *rest = container.get("command") or [""]
    entry = ["--entrypoint", first] if first else []
    return [*entry, container["image"], *rest, *container.get("args", [])]


def _mount(
    pod: Pod,
    mount: dict[str, Any],
    folder: Path,
    documents: list[Document],
    security: dict[str, Any],
) -> list[str]:
    volume = next(v for v in pod.spec["volumes"] if v["name"] == mount["name"])
    if volume.get("emptyDir", {}).get("medium") == "Memory":
        size = volume["emptyDir"]["sizeLimit"].replace("Mi", "m").replace("Gi", "g")
        return ["--tmpfs", f"{mount['mountPath']}:rw,mode=1777,size={size}"]
    path = folder / f"{pod.namespace}.{pod.name}" / volume["name"]
    if "persistentVolumeClaim" in volume:
        path = folder / pod.namespace / volume["persistentVolumeClaim"]["claimName"]
    if not path.exists():
        path.mkdir(parents=True)
        _fill(path, pod.namespace, volume, documents)
        _own(path, volume, security)
    read_only = ":ro" if mount.get("readOnly") else ""
    return ["--volume", f"{path}:{mount['mountPath']}{read_only}"]


def _fill(path: Path, namespace: str, volume: dict[str, Any], documents: list[Document]) -> None:
    for source in (volume, *volume.get("projected", {}).get("sources", [])):
        if "configMap" not in source:
            continue
        name = source["configMap"]["name"]
        for d in documents:
            meta = d["metadata"]
            if d["kind"] == "ConfigMap" and (meta["name"], meta["namespace"]) == (name, namespace):
                for key, text in d.get("data", {}).items():
                    (path / key).write_text(text)
                for key, text in d.get("binaryData", {}).items():
                    (path / key).write_bytes(base64.b64decode(text))


def _own(path: Path, volume: dict[str, Any], security: dict[str, Any]) -> None:
    """Give a volume the kubelet's owner and mode: a claim's folder is root's, but for fsGroup."""
    modes = {"emptyDir": 0o777, "persistentVolumeClaim": 0o755}
    for kind in modes.keys() & volume.keys():
        is_shared = "fsGroup" in security
        os.chown(path, 0, security["fsGroup"] if is_shared else -1)
        path.chmod(modes[kind] | (0o2070 if is_shared else 0))


# Kinds that only a cluster can act on.
CLUSTER_ONLY = {"NetworkPolicy", "Role", "RoleBinding", "ServiceAccount", "PodDisruptionBudget"}
LEFT_OUT = {("Deployment", "grafana"), ("Deployment", "otel-collector")}
REPLACED = (
    "left out: Grafana (in no package registry); its panels' queries are run instead",
    "replaced: vLLM's image by one of the CPU build that make setup installed",
    "replaced: Prometheus by Debian's, with a configuration derived from the monitors",
    "replaced: Tempo by the lab's trace store, in Tempo's pod and under its Service's name",
    "replaced: the collector (in no package registry) by the trace store, which takes OTLP too",
)
# The trace store answers only to names that it knows; without gRPC, which only the collector uses.
TRACE_STORE = (
    "--allowed-host=tempo",
    "--allowed-host=tempo.llm-lab-obs",
    "--allowed-host=tempo.llm-lab-obs.svc",
    "--allowed-host=otel-collector.llm-lab-obs.svc",
    "--port=3200",
    "--otlp-port=4318",
)


def for_podman(documents: list[Document]) -> tuple[list[Document], list[str]]:
    """Return the documents without what podman cannot get, and a note for each change."""
    kept = [d for d in copy.deepcopy(documents) if _kind_and_name(d) not in LEFT_OUT]
    objects = {_kind_and_name(d): d for d in kept}
    collector = objects["Service", "otel-collector"]
    collector["spec"]["selector"] = {"app.kubernetes.io/name": "tempo"}
    # The lab's trace store in Tempo's pod has the same user, volumes, ports and probes.
    tempo = objects["StatefulSet", "tempo"]
    tempo["spec"]["template"]["spec"]["containers"][0] |= {
        "image": versions()["LAB"],
        "command": ["python", "-m", "lab.tracestore"],
        "args": ["--data=/var/tempo", "--host=0.0.0.0", *TRACE_STORE],
    }
    kinds = sorted({d["kind"] for d in documents} & CLUSTER_ONLY)
    cluster_only = ", ".join([*kinds, "Pod Security", "scheduling", "limits"])
    return kept, [f"left out, a cluster's matter: {cluster_only}", *REPLACED]


def _kind_and_name(document: Document) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]
