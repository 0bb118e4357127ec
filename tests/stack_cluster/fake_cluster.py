"""A small API server in memory, and a kubectl that logs its calls: for the driver's errors.

It stores objects by path and answers as told. It checks nothing: that is what the manifests' own
tests are for.
"""

from __future__ import annotations

import json
import stat
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

LISTS = {
    "nodes",
    "namespaces",
    "events",
    "storageclasses",
    "deployments",
    "statefulsets",
    "daemonsets",
    "jobs",
    "pods",
    "clusterroles",
    "clusterrolebindings",
    "roles",
    "rolebindings",
}


class FakeCluster:
    """`objects`: {path: object}.

    `refuse`: {(method, path): status}. `asked`: every (method, path).
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.refuse: dict[tuple[str, str], int] = {}
        self.asked: list[tuple[str, str]] = []
        self.logs: dict[str, str] = {}  # {pod: what it printed}
        self.sticky: set[str] = set()  # paths that a DELETE does not remove: finalizers
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                fake.answer(self, "GET")

            def do_POST(self) -> None:
                fake.answer(self, "POST")

            def do_DELETE(self) -> None:
                fake.answer(self, "DELETE")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def put(self, path: str, **body: Any) -> None:
        """Store an object; its name is the path's end."""
        body.setdefault("metadata", {})
        body["metadata"].setdefault("name", path.rpartition("/")[2])
        self.objects[path] = body

    def answer(self, request: BaseHTTPRequestHandler, method: str) -> None:
        split = urlsplit(request.path)
        path = split.path.strip("/")
        length = int(request.headers.get("Content-Length") or 0)
        body = json.loads(request.rfile.read(length)) if length else {}
        self.asked.append((method, path))
        if status := self.refuse.get((method, path)):
            return _send(
                request,
                status,
                {"kind": "Status", "message": f"no {method} for you", "code": status},
            )
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                return _send(request, 409, {"message": "already exists"})
            self.objects[path] = body
            return _send(request, 201, body)
        if method == "DELETE":
            if path not in self.objects:
                return _send(request, 404, {"message": "not found"})
            if path not in self.sticky:
                self.objects = {
                    k: v
                    for k, v in self.objects.items()
                    if k != path and not k.startswith(f"{path}/")
                }
            return _send(request, 200, {"kind": "Status"})
        if path.endswith("/log") and (pod := path.split("/")[-2]) in self.logs:
            return _send(request, 200, self.logs[pod])
        if path in self.objects:
            return _send(request, 200, self.objects[path])
        if path.rpartition("/")[2] in LISTS:
            return _send(request, 200, {"items": self._list(path, parse_qs(split.query))})
        return _send(request, 404, {"message": "not found"})

    def _list(self, path: str, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        group, _, plural = path.rpartition("/")
        wanted = dict(
            pair.split("=") for pair in query.get("labelSelector", [""])[0].split(",") if pair
        )
        found = []
        for where, item in self.objects.items():
            parts = where.split("/")
            if (
                len(parts) >= 2
                and parts[-2] == plural
                and where.startswith(group.split("/namespaces/")[0])
            ):
                namespaced = "/namespaces/" not in group or where.startswith(f"{group}/")
                if namespaced and wanted.items() <= (item["metadata"].get("labels") or {}).items():
                    found.append(item)
        return found

    def healthy(self, gpus: int = 0) -> None:
        """A cluster that has what minikube-cpu asks for."""
        self.objects["version"] = {"major": "1", "minor": "37+", "metadata": {"name": "version"}}
        allocatable = {"cpu": "16", "memory": "64Gi"} | (
            {"nvidia.com/gpu": str(gpus)} if gpus else {}
        )
        images = [{"names": ["docker.io/llm-lab/lab:0.1.0"]}]
        labels = {"nvidia.com/gpu.present": "true"} if gpus else {}
        self.put("api/v1/nodes/one", metadata={"name": "one", "labels": labels},
                 status={"allocatable": allocatable, "images": images})  # fmt: skip
        default = {"storageclass.kubernetes.io/is-default-class": "true"}
        self.put("apis/storage.k8s.io/v1/storageclasses/standard",
                 metadata={"name": "standard", "annotations": default})  # fmt: skip
        kinds = ("Prometheus", "ServiceMonitor", "PodMonitor", "PrometheusRule")
        self.objects["apis/monitoring.coreos.com/v1"] = {
            "resources": [{"kind": k} for k in kinds],
            "metadata": {},
        }
        self.put(
            "apis/apps/v1/namespaces/kube-system/daemonsets/calico-node", spec={"template": {}}
        )

    def roll_out(self, documents: list[dict[str, Any]]) -> None:
        """All workloads of the documents, ready; and the operator's StatefulSet."""
        plurals = {
            "Deployment": "apps/v1",
            "StatefulSet": "apps/v1",
            "DaemonSet": "apps/v1",
            "Job": "batch/v1",
        }
        for d in documents:
            if d["kind"] in plurals:
                n = d["spec"].get("replicas", 1)
                status = {
                    "readyReplicas": n,
                    "numberReady": 1,
                    "desiredNumberScheduled": 1,
                    "succeeded": n,
                }
                meta = d["metadata"]
                group = f"apis/{plurals[d['kind']]}/namespaces/{meta['namespace']}"
                path = f"{group}/{d['kind'].lower()}s/{meta['name']}"
                self.put(path, **(d | {"status": status}))
        made = "apis/apps/v1/namespaces/llm-lab-obs/statefulsets/prometheus-lab"  # by the operator
        self.put(made, spec={}, status={"readyReplicas": 1})


def _send(request: BaseHTTPRequestHandler, status: int, body: dict[str, Any] | str) -> None:
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def kubeconfig(path: Path, url: str) -> None:
    """A kubeconfig with one context, `fake`."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": url}}],
        "users": [{"name": "fake", "user": {"token": "t"}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
    }
    path.write_text(yaml.safe_dump(document))


def fake_kubectl(folder: Path, real: str, rendered: Path) -> Path:
    """Write a kubectl that renders and reads contexts for real, and stands in for the rest.

    Each overlay is rendered once and kept in `rendered`. What is applied is written down; a port
    forward listens.
    """
    program = folder / "kubectl"
    program.write_text(
        f"""#!{sys.executable}
import os, socket, subprocess, sys
args = sys.argv[1:]
with open({str(folder / "calls.log")!r}, "a") as f:
    f.write(" ".join(args) + "\\n")
if "kustomize" in args:
    kept = os.path.join({str(rendered)!r}, args[-1].replace("/", "_"))
    if not os.path.exists(kept):
        text = subprocess.run([{real!r}, *args], check=True, capture_output=True).stdout
        open(kept, "wb").write(text)
    sys.stdout.write(open(kept).read())
    sys.exit()
if "version" in args:
    minor = {str(folder / "minor")!r}
    minor = open(minor).read() if os.path.exists(minor) else "34"
    print('{{"clientVersion": {{"minor": "' + minor + '", "gitVersion": "v1.' + minor + '.0"}}}}')
    sys.exit()
if "config" in args:
    sys.exit(subprocess.run([{real!r}, *args]).returncode)
if "apply" in args:
    open({str(folder / "applied.yaml")!r}, "a").write("---\\n" + sys.stdin.read())
    refused = {str(folder / "refuse")!r}
    if os.path.exists(refused):
        sys.exit(open(refused).read())
if "port-forward" in args:
    with open({str(folder / "forwards.log")!r}, "a") as f:
        f.write(f"{{os.getpid()}} {{args[-2]}}\\n")
    s = socket.create_server(("127.0.0.1", int(args[-1].split(":")[0])))
    while True:
        s.accept()[0].close()
"""
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def applied(folder: Path) -> list[dict[str, Any]]:
    """What the fake kubectl was given to apply."""
    return [d for d in yaml.safe_load_all((folder / "applied.yaml").read_text()) if d]
