"""What pip on this machine has been told (find-links, index, certificate), passed on to uv, which does not read it."""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

NAMES = ("find-links", "index-url", "cert")


def pip_settings() -> dict[str, str]:
    """pip's settings from its environment variables and configuration files: find-links, index-url, cert."""
    found = _from_configuration()
    for name in NAMES:
        value = os.environ.get("PIP_" + name.upper().replace("-", "_"))
        if value:
            found[name] = value
    return found


def _from_configuration() -> dict[str, str]:
    found = {}
    for path in _configuration_files():
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip itself will say so; ours is to pass on what can be read
        for section in ("global", "install"):
            for name in NAMES:
                if parser.has_option(section, name):
                    found[name] = " ".join(parser.get(section, name).split())
    return found


def _configuration_files() -> list[Path]:
    """Where pip looks, the weakest first. Not by asking pip: many a Python here has none."""
    own = os.environ.get("PIP_CONFIG_FILE", "")
    if own == os.devnull:
        return []
    home = Path.home()
    return [
        *(
            Path(folder) / "pip" / "pip.conf"
            for folder in os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")
        ),
        Path("/etc/pip.conf"),
        Path("/Library/Application Support/pip/pip.conf"),
        home / ".pip/pip.conf",
        Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf",
        home / "Library/Application Support/pip/pip.conf",
        Path(sys.prefix) / "pip.conf",
        *([Path(own)] if own else []),
    ]


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
        path = Path(
            unquote(urlparse(entry).path) if entry.startswith("file:") else entry
        ).expanduser()
        if path.is_dir():
            folders.append(path)
    return folders
