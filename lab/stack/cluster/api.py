"""Read, create and delete objects through the official client, as plain dictionaries."""

import json
import os
import time
from collections.abc import Iterator
from typing import Any

from lab.errors import SetupError, StackError

OUR_LABEL = {"app.kubernetes.io/part-of": "llm-lab"}
PART_OF = "app.kubernetes.io/part-of=llm-lab"  # the same, as a selector
TIMEOUT_S = 30.0
# Group paths of what the driver lists and deletes.
WORKLOADS = {
    "Deployment": ("apis/apps/v1", "deployments"),
    "StatefulSet": ("apis/apps/v1", "statefulsets"),
    "DaemonSet": ("apis/apps/v1", "daemonsets"),
    "Job": ("apis/batch/v1", "jobs"),
}
OUTSIDE_OUR_NAMESPACES = (
    ("apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    ("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    ("apis/rbac.authorization.k8s.io/v1", "roles"),
    ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
)


class Api:
    """Requests to one context's API server.

    Every method raises StackError with the server's message.
    """

    def __init__(self, context: str) -> None:
        try:
            from kubernetes import client, config
        except ModuleNotFoundError as e:
            raise SetupError(
                "the Python package kubernetes is not installed",
                fix="run `make setup`, which installs it (requirements/lab.txt)",
            ) from e
        try:
            # KUBECONFIG as it is now: the package looks at it once, when it is imported.
            where = os.environ.get("KUBECONFIG") or None
            self._client: client.ApiClient = config.new_client_from_config(
                config_file=where, context=context
            )
        except config.ConfigException as e:
            raise StackError(
                f"the context {context} cannot be used",
                got=str(e),
                fix="check the kubeconfig with `kubectl config view`",
            ) from e
        self.context = context

    def get(self, path: str, **query: str) -> dict[str, Any] | None:
        """Return the object or list at a path; None if there is none (404)."""
        answer = self._read("GET", path, query=query)
        return None if answer is None else json.loads(answer)

    def items(
        self, group: str, plural: str, selector: str = "", namespace: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Yield every object of a kind, page by page; none of an unknown kind."""
        path = f"{group}/namespaces/{namespace}/{plural}" if namespace else f"{group}/{plural}"
        query = {"limit": "200"} | ({"labelSelector": selector} if selector else {})
        while True:
            answer = self.get(path, **query) or {"items": []}
            yield from answer["items"]
            token = answer.get("metadata", {}).get("continue")
            if not token:
                return
            query = query | {"continue": token}

    def create(self, path: str, body: dict[str, Any]) -> None:
        """Create an object; one that is there already stays as it is (409)."""
        self._read("POST", path, body=body, fine=(409,))

    def replace_config_map(self, namespace: str, name: str, body: dict[str, Any]) -> None:
        """Create a ConfigMap anew."""
        self.delete(f"api/v1/namespaces/{namespace}/configmaps/{name}")
        self._read("POST", f"api/v1/namespaces/{namespace}/configmaps", body=body)

    def delete(self, path: str) -> bool:
        """Delete an object and what belongs to it; False if there was none."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        return self._read("DELETE", path, body=options) is not None

    def text(self, path: str, **query: str) -> str:
        """Return what is not JSON, such as a pod's log; empty where there is none (404)."""
        return (self._read("GET", path, query=query) or b"").decode(errors="replace")

    def _read(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        fine: tuple[int, ...] = (),
    ) -> bytes | None:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            request = self._client.param_serialize(
                method,
                f"/{path}",
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = self._client.call_api(*request, _request_timeout=TIMEOUT_S)
            text = answer.read()
        # The connection failed (ApiException too): what the server refuses is an answer.
        except (ApiException, HTTPError, OSError) as e:
            raise StackError(
                f"the API server of {self.context} does not answer",
                got=str(e)[:500],
                fix="check that the cluster is up (`minikube status`) and reachable from here",
            ) from e
        if answer.status == 404 or answer.status in fine:
            return None
        if not 200 <= answer.status <= 299:
            raise StackError(
                f"the API server refused {method} {path}",
                got=_words(answer.status, text),
                fix=_advice(answer.status),
            )
        return text


def remove_job(api: Api, namespace: str, name: str, poll_s: float, wait_s: float = 60.0) -> None:
    """Delete a Job with its pods and wait until it is gone. Raises StackError if it does not go."""
    path = f"apis/batch/v1/namespaces/{namespace}/jobs/{name}"
    api.delete(path)
    limit = time.monotonic() + wait_s
    while api.get(path) is not None:
        if time.monotonic() > limit:
            raise StackError(
                f"the Job {name} of an earlier run does not go",
                fix="remove it with kubectl delete job",
            )
        time.sleep(poll_s)


def _words(status: int, text: bytes) -> str:
    try:
        return f"{status} {json.loads(text)['message']}"
    except (TypeError, ValueError, KeyError):
        return f"{status} {text[:300]!r}"


def _advice(code: int) -> str:
    if code in (401, 403):
        return (
            "request the right to do this in that cluster, or name another context "
            "(`kubectl auth can-i --list`)"
        )
    if code in (429, 500, 502, 503, 504):
        return (
            "the server is overloaded or starting: wait a minute, then run the same command again"
        )
    return "correct what the server says, then run the same command again"
