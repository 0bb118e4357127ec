"""The architecture picture shows the actual lab."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from lab.errors import LabError
from scripts import architecture

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the plan has no vllm-base"
)


@pytest.fixture(autouse=True)
def _no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PLACE", "MODEL", "MODEL_NAME", "DATA_DIR", "STATE_DIR", "VLLM_ARGS"):
        monkeypatch.delenv(f"LAB_{name}", raising=False)


def test_the_picture_is_current() -> None:
    """The script draws the same picture, which names every part and no local path."""
    plan = architecture.default_plan()
    drawn = architecture.PICTURE.read_text(encoding="utf-8")
    assert drawn == architecture.draw(plan), "run `python -m scripts.architecture`"
    assert all(f">{part.name}" in drawn for part in plan.parts)
    assert str(architecture.REPO) not in drawn


def test_arrows_come_from_the_configuration() -> None:
    """Calls, spans and scrapes are arrows."""
    plan = architecture.default_plan()
    links = architecture.find_links(plan)
    assert ("llama-stack", "vllm") in links.requests and (
        "llama-stack",
        "vllm-embed",
    ) in links.requests
    assert ("vllm-base", "vllm") in links.forks
    assert {"llama-stack", "vllm", "tools"} <= links.spans
    assert {"llama-stack", "vllm", "tools", "tracestore", "node"} <= links.metrics

    files = {p: t.replace("127.0.0.1:18001", "gpu:1") for p, t in plan.files.items()}
    changed = architecture.find_links(replace(plan, files=files))
    assert ("llama-stack", "vllm-embed") not in changed.requests


def test_a_new_part_needs_a_position() -> None:
    """A part without a position is an error, so that the picture is complete."""
    plan = architecture.default_plan()
    new = replace(plan.parts[0], name="cache-server")
    with pytest.raises(LabError, match="no place for cache-server"):
        architecture.draw(replace(plan, parts=(*plan.parts, new)))
