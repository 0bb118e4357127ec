"""pip's settings (find-links, index, certificate) for uv, which does not read them."""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

NAMES = ("find-links", "index-url", "cert")


def pip_settings() -> dict[str, str]:
    """Return find-links, index-url and cert from pip's files and environment variables."""
    settings = {}
    for path in _configuration_files():
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip itself reports it
        for section in ("global", "install"):
            for name in NAMES:
                value = parser.get(section, name, fallback="")
                if value:
                    settings[name] = " ".join(value.split())

    for name in NAMES:
        value = os.environ.get("PIP_" + name.upper().replace("-", "_"))
        if value:
            settings[name] = value
    return settings


def _configuration_files() -> list[Path]:
    """Return the files that pip reads, the weakest first. pip itself may not be installed."""
    explicit = os.environ.get("PIP_CONFIG_FILE", "")
    if explicit == os.devnull:
        return []

    home = Path.home()
    system = os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")
    return [
        *(Path(folder) / "pip/pip.conf" for folder in system),
        Path("/etc/pip.conf"),
        Path("/Library/Application Support/pip/pip.conf"),
        home / ".pip/pip.conf",
        Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf",
        home / "Library/Application Support/pip/pip.conf",
        Path(sys.prefix) / "pip.conf",
        *([Path(explicit)] if explicit else []),
    ]


def uv_variables(pip: dict[str, str], environment: dict[str, str]) -> dict[str, str]:
    """Return these settings as uv's variables, without those that the environment sets already."""
    values = {
        "UV_FIND_LINKS": ",".join(pip.get("find-links", "").split()),
        "UV_DEFAULT_INDEX": "" if "UV_INDEX_URL" in environment else pip.get("index-url", ""),
        "SSL_CERT_FILE": pip.get("cert", ""),
    }
    return {name: value for name, value in values.items() if value and name not in environment}


def local_folders(find_links: str) -> list[Path]:
    """Return the find-links entries (paths or file: URLs) that are folders on this machine."""
    entries = find_links.replace(",", " ").split()
    paths = [Path(unquote(urlparse(e).path) if e.startswith("file:") else e) for e in entries]
    return [path.expanduser() for path in paths if path.expanduser().is_dir()]
