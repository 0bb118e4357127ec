"""Load pages in a real Chromium."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def dom(url: str, profile: Path) -> str:
    """Return the HTML of the page once its scripts have run; `profile` is a new folder."""
    command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=10000", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout
