"""Start a real API server on loopback for the tests in test_real_api.py.

The controller manager and the scheduler are started too if they are installed. The programs are
looked up in KUBEBUILDER_ASSETS, where `setup-envtest use -p path` puts etcd and kube-apiserver.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import yaml

UP_S = 120.0


def program(name: str) -> str | None:
    """Return the path of a program of the control plane, or None if it is not installed."""
    folder = os.environ.get("KUBEBUILDER_ASSETS", "")
    return shutil.which(name, path=folder) if folder else None


@contextlib.contextmanager
def control_plane(folder: Path) -> Iterator[Path]:
    """Start a cluster without nodes, yield its kubeconfig (context `real`), and stop it."""
    token = secrets.token_hex(16)
    peer, store, api = _ports(3)
    (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
    key = folder / "sa.key"
    public = folder / "sa.pub"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    subprocess.run(
        ["openssl", "rsa", "-in", str(key), "-pubout", "-out", str(public)],
        check=True,
        capture_output=True,
    )
    kubeconfig = folder / "kubeconfig"
    cluster = {
        "server": f"https://127.0.0.1:{api}",
        "insecure-skip-tls-verify": True,  # the certificate was generated just now
    }
    user = {"name": "admin", "user": {"token": token}}
    context = {"name": "real", "context": {"cluster": "real", "user": "admin"}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "real",
        "clusters": [{"name": "real", "cluster": cluster}],
        "users": [user],
        "contexts": [context],
    }
    kubeconfig.write_text(yaml.safe_dump(config))
    urls = {k: f"http://127.0.0.1:{p}" for k, p in (("peer", peer), ("store", store))}
    etcd = [f"--data-dir={folder / 'etcd'}", f"--initial-cluster=default={urls['peer']}"]
    etcd += [f"--{kind}-client-urls={urls['store']}" for kind in ("listen", "advertise")]
    etcd += [f"--{flag}-peer-urls={urls['peer']}" for flag in ("listen", "initial-advertise")]
    server = [
        f"--etcd-servers={urls['store']}",
        f"--secure-port={api}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--cert-dir={folder / 'certs'}",
        f"--service-account-key-file={public}",
        f"--service-account-signing-key-file={key}",
        "--service-account-issuer=https://lab.test",
        "--service-cluster-ip-range=10.0.0.0/24",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--allow-privileged=true",
        "--endpoint-reconciler-type=none",
    ]
    with contextlib.ExitStack() as running:
        running.enter_context(_process("etcd", etcd, folder))
        apiserver = running.enter_context(_process("kube-apiserver", server, folder))
        _until_ready(apiserver, cluster["server"], token, folder)
        client = [
            f"--kubeconfig={kubeconfig}",
            "--leader-elect=false",
            f"--cert-dir={folder / 'certs'}",
        ]
        manager = [f"--service-account-private-key-file={key}", "--controllers=*,-nodelifecycle"]
        for name, more in (("kube-controller-manager", manager), ("kube-scheduler", [])):
            if program(name):
                running.enter_context(
                    _process(
                        name, [*client, "--secure-port=0", *_no_open_port(name), *more], folder
                    )
                )
        yield kubeconfig


def _no_open_port(name: str) -> list[str]:
    """Disable the second port that releases before 1.24 open on all addresses."""
    text = subprocess.run([program(name), "--help"], capture_output=True, text=True).stdout
    return ["--port=0"] if "--port int" in text else []


@contextlib.contextmanager
def _process(name: str, arguments: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([program(name), *arguments], cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _until_ready(process: subprocess.Popen[bytes], url: str, token: str, folder: Path) -> None:
    limit = time.monotonic() + UP_S
    while True:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(
                f"{url}/readyz",
                headers={"Authorization": f"Bearer {token}"},
                verify=False,
                timeout=60,
            )  # noqa: S501
            if answer.text == "ok":
                return
        if process.poll() is not None or time.monotonic() > limit:
            raise RuntimeError((folder / "kube-apiserver.log").read_text()[-2000:])
        time.sleep(0.2)


def _ports(n: int) -> list[int]:
    with contextlib.ExitStack() as open_sockets:
        sockets = [
            open_sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)
        ]
        return [s.getsockname()[1] for s in sockets]
