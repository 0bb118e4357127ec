"""What an overlay needs of a cluster, looked up before anything is changed, with fixes."""

import base64
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lab.stack.cluster.api import OUR_LABEL, PART_OF, Api
from lab.stack.cluster.kubectl import versions

GPU = "nvidia.com/gpu"
OLDEST_MINOR = 30  # the oldest 1.x whose fields the manifests use
CNI_WITH_POLICIES = (
    "calico-node",
    "cilium",
    "antrea-agent",
    "kube-router",
    "weave-net",
    "canal",
    "aws-node",
    "anetd",
    "ovnkube-node",  # OpenShift
    "kindnet",  # kind, since 0.24
    "azure-npm",
)
OVERLAY = (
    "llm-lab/overlay"  # the annotation of our namespaces that says which overlay stands in them
)
ONE_NODE_AT_A_TIME = (  # provisioners of block storage: a claim for many nodes would stay pending
    *("ebs.csi.aws.com", "kubernetes.io/aws-ebs", "pd.csi.storage.gke.io", "kubernetes.io/gce-pd"),
    *(
        "disk.csi.azure.com",
        "rancher.io/local-path",
        "cinder.csi.openstack.org",
        "kubernetes.io/no-provisioner",
    ),
)
LOAD_PODS = 2
LOAD_REQUESTS = {
    "cpu": 0.5,
    "memory": 256 * 2**20,
}  # of one pod; a test holds it equal to lab/k8s/load
OURS = {"grafana-admin"}  # Secrets that `up` makes


@dataclass(frozen=True)
class Finding:
    """One check.

    Where `ok` is False: what was found, and the fix; `required` says whether `up` stops for it.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""
    required: bool = True


def check(api: Api, documents: list[dict[str, Any]], overlay: str) -> list[Finding]:
    """Return all findings. Raises StackError if the API server does not answer at all."""
    nodes = list(api.items("api/v1", "nodes"))
    return [
        _version(api.get("version") or {}),
        *(f for d in documents if d["kind"] == "Namespace" for f in _namespace(api, d, overlay)),
        *_storage(api, documents),
        *_custom_resources(api, documents),
        *_secrets(api, documents),
        *_platform(api, documents),
        *_gpus(nodes, documents),
        *_processors(nodes, documents),
        _room(api, nodes, documents),
        _policies(api),
        _image(nodes, documents),
    ]


def _version(version: dict[str, Any]) -> Finding:
    minor = re.sub(r"\D", "", str(version.get("minor", "")))
    return Finding(
        "Kubernetes",
        int(minor or 0) >= OLDEST_MINOR,
        f"{version.get('major', '?')}.{version.get('minor', '?')}",
        fix="minikube start --kubernetes-version=stable "
        f"(Minikube {versions()['MINIKUBE_VERSION']})",
        required=False,
    )


def _namespace(api: Api, document: dict[str, Any], overlay: str) -> Iterator[Finding]:
    name = document["metadata"]["name"]
    fix = (
        f"it is not this lab's: rename it, or remove it yourself (kubectl delete namespace {name})"
    )
    there = api.get(f"api/v1/namespaces/{name}")
    if there is None:
        yield Finding(f"namespace {name}", True, "not there yet", fix=fix)
        return

    meta = there.get("metadata", {})
    ours = _is_ours(meta)
    got = "ours" if ours else "there, without our label"
    yield Finding(f"namespace {name}", ours, got, fix=fix)

    if there.get("status", {}).get("phase") == "Terminating":
        yield Finding(
            f"namespace {name} is going",
            False,
            "Terminating",
            fix="wait until it is gone, then try again",
        )

    # What only the other overlay has would stay, and scrape, and sample.
    present = (meta.get("annotations") or {}).get(OVERLAY, overlay)
    if present != overlay:
        yield Finding(
            f"overlay in {name}",
            False,
            f"{present} stands there",
            fix=f"lab down --place cluster --context {api.context}",
        )


def _storage(api: Api, documents: list[dict[str, Any]]) -> Iterator[Finding]:
    default = "storageclass.kubernetes.io/is-default-class"
    classes = [
        c
        for c in api.items("apis/storage.k8s.io/v1", "storageclasses")
        if (c["metadata"].get("annotations") or {}).get(default) == "true"
    ]
    yield Finding(
        "default storage class",
        bool(classes),
        classes[0]["metadata"]["name"] if classes else "none",
        fix="minikube addons enable default-storageclass storage-provisioner, "
        "or mark a class as the default",
    )
    provisioner = classes[0].get("provisioner", "") if classes else ""
    for claim in documents if classes else ():
        is_claim = claim["kind"] == "PersistentVolumeClaim"
        if not is_claim or "ReadWriteMany" not in claim["spec"].get("accessModes", []):
            continue
        name = claim["metadata"]["name"]
        yield Finding(
            "shared volume",
            not provisioner.startswith(ONE_NODE_AT_A_TIME),
            f"{name} is ReadWriteMany, class of {provisioner}",
            fix="make a class for shared volumes (NFS, CephFS, EFS, Filestore) the default, "
            f"or name it in the claim {name}",
        )


def _custom_resources(api: Api, documents: list[dict[str, Any]]) -> Iterator[Finding]:
    pinned = versions()
    fixes = {
        "monitoring.coreos.com/v1": "kubectl apply --server-side -f "
        "https://github.com/prometheus-operator/prometheus-operator/releases/download/"
        f"{pinned['PROMETHEUS_OPERATOR_VERSION']}/bundle.yaml",
        "keda.sh/v1alpha1": "helm install keda keda --repo https://kedacore.github.io/charts "
        f"--version {pinned['KEDA_CHART']} --namespace keda --create-namespace",
    }
    for group, fix in fixes.items():
        kinds = sorted({d["kind"] for d in documents if d["apiVersion"] == group})
        if kinds:
            served = {r["kind"] for r in (api.get(f"apis/{group}") or {}).get("resources", [])}
            missing = [k for k in kinds if k not in served]
            yield Finding(
                group,
                not missing,
                f"missing {', '.join(missing)}" if missing else "served",
                fix=fix,
            )


def _secrets(api: Api, documents: list[dict[str, Any]]) -> Iterator[Finding]:
    ours = OURS | {d["metadata"]["name"] for d in documents if d["kind"] == "Secret"}
    wanted: dict[tuple[str, str], set[str]] = {}
    for d in documents:
        for ref in _secret_refs(d):
            if not ref.get("optional") and ref["name"] not in ours:
                wanted.setdefault((d["metadata"]["namespace"], ref["name"]), set()).add(ref["key"])
    for (namespace, name), keys in sorted(wanted.items()):
        there = api.get(f"api/v1/namespaces/{namespace}/secrets/{name}")
        missing = keys - (there or {}).get("data", {}).keys()
        files = " ".join(f"--from-file={k}=FILE" for k in sorted(keys))
        yield Finding(
            f"Secret {name}",
            not missing,
            f"lacks {', '.join(sorted(missing))}" if missing else "there",
            fix=f"kubectl create namespace {namespace}; "
            f"kubectl label namespace {namespace} {PART_OF}; "
            f"kubectl --namespace {namespace} create secret generic {name} {files} "
            "(each FILE written with printf %s, so that no line end becomes part of the value)",
        )
        yield from _line_ends(name, there)


def _line_ends(name: str, secret: dict[str, Any] | None) -> Iterator[Finding]:
    """Yield a finding for each value with a line end at its end, which becomes part of it."""
    for key, value in ((secret or {}).get("data") or {}).items():
        if base64.b64decode(value).endswith((b"\n", b"\r")):
            yield Finding(
                f"Secret {name}, {key}",
                False,
                "the value ends with a line end",
                fix=f"write the value with printf %s, then make the Secret {name} again",
            )


def _secret_refs(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        for key in ("secretKeyRef", "urlSecret"):
            if key in node:
                yield node[key]
        if isinstance(node.get("basicAuth"), dict):
            yield from node["basicAuth"].values()
        for value in node.values():
            yield from _secret_refs(value)
    elif isinstance(node, list):
        for value in node:
            yield from _secret_refs(value)


def _platform(api: Api, documents: list[dict[str, Any]]) -> Iterator[Finding]:
    """Yield whether the overlay is one for this platform.

    OpenShift admits no fixed user, others know no Routes.
    """
    is_openshift = api.get("apis/route.openshift.io/v1") is not None
    for_openshift = any(d["kind"] == "Route" for d in documents)
    found = "OpenShift" if is_openshift else "Kubernetes"
    fix = "use the overlay openshift" if is_openshift else "use another overlay than openshift"
    yield Finding("platform", is_openshift == for_openshift, found, fix=fix)
    if is_openshift and for_openshift:
        path = "api/v1/namespaces/openshift-monitoring/configmaps/cluster-monitoring-config"
        text = ((api.get(path) or {}).get("data") or {}).get("config.yaml", "")
        on = re.search(r"^enableUserWorkload:\s*true\s*$", text, re.MULTILINE) is not None
        yield Finding(
            "user workload monitoring",
            on,
            "on" if on else "off",
            fix="a cluster administrator sets enableUserWorkload: true in "
            "openshift-monitoring/cluster-monitoring-config",
        )


def _processors(nodes: list[dict[str, Any]], documents: list[dict[str, Any]]) -> Iterator[Finding]:
    """Yield whether vLLM's CPU image is the one for the nodes' processors."""
    kinds = {n["status"].get("nodeInfo", {}).get("architecture", "amd64") for n in nodes}
    image_of = {"amd64": versions()["VLLM_CPU"], "arm64": versions()["VLLM_CPU_ARM64"]}
    used = _images(documents) & set(image_of.values())
    if used:
        fits = any(image_of.get(kind) in used for kind in kinds)
        yield Finding(
            "processors",
            fits,
            f"{', '.join(sorted(kinds))} nodes",
            fix="use the overlay minikube-cpu-arm64 on ARM nodes, minikube-cpu on others "
            "(or the component arm64)",
        )


def _gpus(nodes: list[dict[str, Any]], documents: list[dict[str, Any]]) -> Iterator[Finding]:
    wanted = sum(requested(d, GPU) for d in documents)
    if not wanted:
        return
    have = sum(quantity(n["status"].get("allocatable", {}).get(GPU, "0")) for n in nodes)
    yield Finding(
        "GPUs",
        have >= wanted,
        f"{have:.0f} allocatable, {wanted:.0f} wanted",
        fix="minikube start --driver=docker --container-runtime=docker --gpus=all --cni=calico "
        "(or install NVIDIA's GPU operator); without a GPU take the overlay minikube-cpu",
    )
    labelled = any(
        (n["metadata"].get("labels") or {}).get(f"{GPU}.present") == "true" for n in nodes
    )
    with_gpu = [n for n in nodes if n["status"].get("allocatable", {}).get(GPU, "0") != "0"]
    node = with_gpu[0]["metadata"]["name"] if with_gpu else "NODE"
    yield Finding(
        "GPU nodes are labelled",
        labelled,
        "yes" if labelled else f"no node has {GPU}.present=true",
        fix=f"kubectl label node {node} {GPU}.present=true",
    )


def _room(api: Api, nodes: list[dict[str, Any]], documents: list[dict[str, Any]]) -> Finding:
    """Compare what the overlay and a load of two pods request with what other pods leave free."""
    wanted = {}
    free = {}
    for resource in ("cpu", "memory"):
        lab = sum(requested(d, resource) for d in documents)
        wanted[resource] = lab + LOAD_PODS * LOAD_REQUESTS[resource]
        allocatable = sum(
            quantity(n["status"].get("allocatable", {}).get(resource, "0")) for n in nodes
        )
        free[resource] = allocatable - _others(api, resource)
    ok = all(free[r] >= wanted[r] for r in wanted)
    return Finding(
        "room",
        ok,
        f"{free['cpu']:.1f} CPUs and {free['memory'] / 2**30:.0f} GiB are free, "
        f"{wanted['cpu']:.1f} CPUs and {wanted['memory'] / 2**30:.0f} GiB are requested "
        "(with two pods of load)",
        fix=f"minikube start --cpus={math.ceil(wanted['cpu']) + 2} "
        f"--memory={int(wanted['memory'] / 2**30) + 3}g, or more nodes",
    )


def _others(api: Api, resource: str) -> float:
    """Return what pods that are not the lab's request of a resource."""
    return sum(
        _requests(pod.get("spec", {}), resource)
        for pod in api.items("api/v1", "pods")
        if not _is_ours(pod["metadata"])
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    )


def _is_ours(metadata: dict[str, Any]) -> bool:
    return OUR_LABEL.items() <= (metadata.get("labels") or {}).items()


def _requests(pod: dict[str, Any], resource: str) -> float:
    """Return what the containers of a pod's specification request of a resource."""
    requests = (c.get("resources", {}).get("requests", {}) for c in pod.get("containers", []))
    return sum(quantity(each.get(resource, "0")) for each in requests)


def _policies(api: Api) -> Finding:
    names = [d["metadata"]["name"] for d in api.items("apis/apps/v1", "daemonsets")]
    enforcing = [n for n in names if n.startswith(CNI_WITH_POLICIES)]
    unknown = "no network plug-in that we know to enforce network policies"
    return Finding(
        "network policies",
        bool(enforcing),
        enforcing[0] if enforcing else unknown,
        fix="minikube start --cni=calico",
        required=False,
    )


def _image(nodes: list[dict[str, Any]], documents: list[dict[str, Any]]) -> Finding:
    tag = versions()["LAB"].rpartition("/")[2]
    used = [i for i in _images(documents) if i.rpartition("/")[2] == tag]
    image = min(used, default=versions()["LAB"])
    known = [
        name for n in nodes for i in n["status"].get("images", []) for name in i.get("names", [])
    ]
    there = any(name == image or name.endswith(f"/{image}") for name in known)
    unlisted = f"no node lists {image}; nodes name only their largest, so it may be there"
    return Finding(
        "the lab's image",
        there,
        "on a node" if there else unlisted,
        fix="make cluster-image MINIKUBE=PROFILE (minikube image build), KIND=CLUSTER "
        "or REGISTRY=HOST/FOLDER; "
        "OpenShift: oc start-build lab --namespace llm-lab --from-repo=. --follow",
        required=False,
    )


def _images(documents: list[dict[str, Any]]) -> set[str]:
    """Return the images of all pod templates."""
    specs = [((d.get("spec") or {}).get("template") or {}).get("spec") or {} for d in documents]
    return {
        c["image"]
        for spec in specs
        for c in [*spec.get("initContainers", []), *spec.get("containers", [])]
    }


def requested(document: dict[str, Any], resource: str) -> float:
    """Return what the pods of a document request of a resource; 0 if it makes none."""
    spec = document.get("spec") or {}
    pod = (spec.get("template") or {}).get("spec") or {}
    if document["kind"] in ("Prometheus", "Alertmanager"):
        pod = {"containers": [{"resources": spec.get("resources", {})}]}
    return _requests(pod, resource) * spec.get("replicas", 1)


def quantity(text: str) -> float:
    """Convert a Kubernetes quantity to a number: '500m' -> 0.5, '2Gi' -> 2**31."""
    from kubernetes.utils.quantity import parse_quantity  # a second to import

    return float(parse_quantity(text))
