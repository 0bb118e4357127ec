"""What pip on this machine has been told (find-links, index, certificate), passed on to uv, which does not read it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse


def pip_settings() -> dict[str, str]:
    """pip's settings from its environment variables and configuration files: find-links, index-url, cert."""
    found = _from_configuration()
    for name in ("find-links", "index-url", "cert"):
        value = os.environ.get("PIP_" + name.upper().replace("-", "_"))
        if value:
            found[name] = value
    return found


def _from_configuration() -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    found = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else []:
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in ("global", "install") and name in ("find-links", "index-url", "cert"):
            found[name] = " ".join(value.strip("'\"").replace("\\n", " ").split())
    return found


def uv_variables(pip: dict[str, str], environment: dict[str, str]) -> dict[str, str]:
    """The variables that tell uv the same; what uv was told itself stays."""
    told = {}
    if pip.get("find-links") and "UV_FIND_LINKS" not in environment:
        told["UV_FIND_LINKS"] = ",".join(pip["find-links"].split())
    if pip.get("index-url") and not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & set(environment):
        told["UV_DEFAULT_INDEX"] = pip["index-url"]
    if pip.get("cert") and "SSL_CERT_FILE" not in environment:
        told["SSL_CERT_FILE"] = pip["cert"]
    return told


def local_folders(find_links: str) -> list[Path]:
    """The find-links entries that are folders on this machine, comma or space separated, paths or file: addresses."""
    folders = []
    for entry in find_links.replace(",", " ").split():
        path = Path(unquote(urlparse(entry).path) if entry.startswith("file:") else entry).expanduser()
        if path.is_dir():
            folders.append(path)
    return folders
