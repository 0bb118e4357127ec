"""Check this machine for the lab: `python3 -m scripts.doctor`, or `lab doctor --here` once set up.

One list of all that the lab needs from a machine. Before set-up it runs on any Python from 3.9 on,
with the standard library only.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.errors import SetupError
from lab.stack.ports import PREFERRED, is_free
from scripts.setup import environments, interpreters, pip_config, prometheus, tools
from scripts.setup.places import GIB, NEEDED_BYTES, REPO, VENVS
from scripts.setup.requirements import STACK_MEMORY_BYTES

OK, WARNING, PROBLEM = "ok", "warning", "problem"
MIN_CORES = 2
RUNNING_BYTES = GIB  # for the state of a lab that is set up
TIMEOUT_S = 10.0
PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY")


@dataclass(frozen=True)
class Finding:
    """The result of one check; `state` is OK, WARNING or PROBLEM, `fix` what to do about it."""

    name: str
    state: str
    found: str
    fix: str = ""


def examine() -> list[Finding]:
    """Run all checks, each of which takes at most some seconds."""
    is_set_up = (VENVS / "lab/bin/lab").exists() and bool(tools.read_tools())
    checks: list[Callable[[], Finding]] = [
        lambda: check_set_up(is_set_up),
        check_python,
        check_prometheus,
        lambda: check_disk(RUNNING_BYTES if is_set_up else NEEDED_BYTES),
        check_memory,
        check_cores,
        check_ports,
        lambda: check_proxy(dict(os.environ)),
        lambda: check_registry(index_url(), needed=not is_set_up),
    ]
    return [check() for check in checks]


def check_set_up(is_set_up: bool) -> Finding:
    """Report whether the environments are there."""
    if is_set_up:
        return Finding("set-up", OK, f"done in {VENVS}")
    return Finding("set-up", WARNING, "not done yet", "run `make setup`")


def check_python(versions: list[str] = environments.LAB_PYTHONS) -> Finding:
    """Look for an interpreter of these versions, where set-up looks too."""
    uv = str(tools.read_tools().get("uv") or shutil.which("uv") or "")
    if python := interpreters.first_working(uv, versions, dict(os.environ)):
        return Finding("Python", OK, str(python))
    fix = (
        f"set-up will try to download one; or install Python {versions[0]}, for example with "
        f"`pyenv install {versions[0]}`"
    )
    return Finding("Python", WARNING, f"no Python {' or '.join(versions)} on this machine", fix)


def check_prometheus() -> Finding:
    """Report whether Prometheus is there, or can be fetched."""
    try:
        prometheus.check_available()
    except SetupError as e:
        return Finding("Prometheus", PROBLEM, f"{e.happened}: {e.got}", e.fix)
    known = tools.read_tools().get("prometheus") or shutil.which("prometheus")
    return Finding("Prometheus", OK, str(known or "set-up fetches Debian's package"))


def check_disk(needed_bytes: int, folder: Path = REPO) -> Finding:
    """Compare the free disk space with what is needed."""
    free_bytes = shutil.disk_usage(folder).free
    found = f"{free_bytes / GIB:.1f} GiB free, {needed_bytes / GIB:.0f} needed"
    fix = "free some space, or clone to a larger disk"
    return _judge("disk", found, free_bytes >= needed_bytes, PROBLEM, fix)


def check_memory(total_bytes: int = 0, needed_bytes: int = STACK_MEMORY_BYTES) -> Finding:
    """Compare the memory of the machine with what the running stack takes."""
    total_bytes = total_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{total_bytes / GIB:.1f} GiB, the running stack takes {needed_bytes / GIB:.0f}"
    fix = "close other programs, or work with a recording (`lab up --place recorded`, below 1 GiB)"
    return _judge("memory", found, total_bytes >= needed_bytes, WARNING, fix)


def check_cores(cores: int = 0) -> Finding:
    """Compare the number of processor cores that this process may use with what is needed."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = cores or (len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1)
    fix = "everything works, but slowly: two are better"
    return _judge("cores", str(cores), cores >= MIN_CORES, WARNING, fix)


def _judge(name: str, found: str, is_enough: bool, otherwise: str, fix: str) -> Finding:
    return Finding(name, OK, found) if is_enough else Finding(name, otherwise, found, fix)


def check_ports(preferred: dict[str, int] | None = None) -> Finding:
    """Report which of the preferred ports are taken; the lab chooses others instead."""
    preferred = PREFERRED if preferred is None else preferred
    taken = [f"{port} ({name})" for name, port in preferred.items() if not is_free(port)]
    text = f"taken: {', '.join(taken)}; by a lab, or the lab takes others"
    return Finding("ports", OK, text if taken else "all preferred ports are free")


def check_proxy(environ: dict[str, str]) -> Finding:
    """Report the proxies that are configured, without their passwords."""
    proxies = [f"{n}={without_login(environ[n])}" for n in PROXY_VARIABLES if environ.get(n)]
    text = f"{', '.join(proxies)}; the lab's own traffic bypasses it"
    return Finding("proxy", OK, text if proxies else "none is configured")


def index_url() -> str:
    """Return the package index that set-up uses: uv's variables, then pip's settings or default.

    '' if there is no setting, and no pip that could name its default.
    """
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if os.environ.get(name):
            return os.environ[name]
    configured = pip_config.pip_settings().get("index-url")
    if configured:
        return configured
    with contextlib.suppress(ImportError):
        from pip._internal.models.index import PyPI

        return PyPI.simple_url
    return ""


def check_registry(url: str, needed: bool) -> Finding:
    """Request the index page of one package; only a problem where set-up still has to download."""
    if not url:
        return Finding("registry", OK, "not known: no index is configured, and pip is missing")
    shown = without_login(url)
    try:
        with urllib.request.urlopen(_request(url), timeout=TIMEOUT_S, context=_tls()):
            return Finding("registry", OK, f"{shown} answers")
    except urllib.error.HTTPError as e:
        found = f"{shown} answers with status {e.code}"
    except (OSError, ValueError) as e:
        found = f"{shown} cannot be reached: {getattr(e, 'reason', e)}"
    if not needed:
        return Finding("registry", OK, f"{found}; nothing has to be downloaded any more")
    fix = "check the network, HTTPS_PROXY, PIP_INDEX_URL and PIP_CERT (requirements/README.md)"
    return Finding("registry", PROBLEM, found, fix)


def _request(url: str) -> urllib.request.Request:
    """Return the request for a small page of the index, with the login that the URL may hold."""
    parts = urllib.parse.urlsplit(url)
    request = urllib.request.Request(f"{without_login(url).rstrip('/')}/uv/")
    if parts.username:
        login = f"{parts.username}:{parts.password or ''}"
        encoded = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        request.add_header("Authorization", f"Basic {encoded}")
    return request


def _tls() -> ssl.SSLContext:
    certificates = os.environ.get("SSL_CERT_FILE") or pip_config.pip_settings().get("cert")
    return ssl.create_default_context(cafile=certificates or None)


def without_login(url: str) -> str:
    """Return the URL without user name and password."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def report(findings: list[Finding]) -> str:
    """Return the list as text, with what to do below each entry that is not in order."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<9}{finding.name:<12}{finding.found}")
        if finding.fix:
            lines.append(f"{'':<21}Fix: {finding.fix}")
    return "\n".join(lines)


def main() -> int:
    """Print the list. Returns 1 if there is a problem."""
    findings = examine()
    print(report(findings))
    return 1 if any(finding.state == PROBLEM for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
