"""The development container and Binder's files agree with set-up and with the lab."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from lab.settings import REPO
from lab.stack.ports import PREFERRED
from scripts.setup import environments, prometheus

BINDER = REPO / ".binder"


def test_the_container_sets_up_and_forwards_the_pages() -> None:
    """With a target that exists, a Python that the lab can have, and the preferred ports."""
    container = json.loads((REPO / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    target = container["postCreateCommand"].removeprefix("make ")
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert re.search(r"python:([\d.]+)-", container["image"])[1] in environments.LAB_PYTHONS
    ports = {PREFERRED[name] for name in ("view", "prometheus", "tempo")}
    assert ports < set(container["forwardPorts"])


def test_binder_installs_what_set_up_would_fetch() -> None:
    """The same Debian packages, and a Python that the lab can have."""
    packages = (BINDER / "apt.txt").read_text(encoding="utf-8").split()
    assert set(packages) == {package for _, package in prometheus.TOOLS.values()}
    runtime = (BINDER / "runtime.txt").read_text(encoding="utf-8").strip()
    assert runtime.removeprefix("python-") in environments.LAB_PYTHONS


@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_binders_scripts_can_be_run(name: str) -> None:
    """They are executable, and bash can parse them."""
    assert os.access(BINDER / name, os.X_OK)
    subprocess.run(["bash", "-n", BINDER / name], check=True)


def test_binder_starts_on_a_recording(tmp_path: Path) -> None:
    """The settings of a notebook are those of a recording that exists."""
    code = "from lab.settings import load_settings as s; print(s().place, s().recording_dir)"
    python = REPO / ".venvs/lab/bin/python"
    environ = {k: v for k, v in os.environ.items() if not k.startswith("LAB_")}
    done = subprocess.run(
        [BINDER / "start", python, "-c", code],
        env=environ | {"PYTHONPATH": str(REPO)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    place, recording = done.stdout.split()
    assert place == "recorded" and (Path(recording) / "recording.json").is_file()
