"""Parts that run only while they are asked for: off is not dead, and nothing else notices."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from lab import stack
from lab.errors import StackError
from lab.settings import Settings, load_settings
from lab.stack import plan, prometheus_config, state, supervisor
from tests.stack.test_plan import lab, make, write_model  # noqa: F401 - a fixture
from tests.stack.test_supervisor import part, small_lab, wait_for  # noqa: F401 - a fixture


def _scraped(settings: Settings) -> list[str]:
    found = json.loads((settings.state_dir / supervisor.TARGETS_FILE).read_text())
    return [target["labels"]["job"] for target in found]


def test_off_until_asked_for_and_off_again_after(small_lab):  # noqa: F811
    """`up` neither starts it nor waits for it.

    `start` returns when it answers, `stop` when its process has gone; Prometheus scrapes it only
    in between.
    """
    settings = small_lab(on_demand="other")
    stack.up(settings, wait_for="all")
    assert part(settings, "other").state == state.OFF
    with pytest.raises(StackError, match="other is off"):
        stack.require(settings, "other")
    stack.start(settings, "other")
    assert part(settings, "other").ready
    wait_for(lambda: _scraped(settings) == ["other"])
    pid = part(settings, "web").pid
    stack.stop(settings, "other")
    now = part(settings, "other")
    assert (now.state, now.pid) == (state.OFF, None)
    wait_for(lambda: _scraped(settings) == [])
    assert part(settings, "web").pid == pid, "the others were left alone"
    stack.up(settings, wait_for="all")
    assert part(settings, "other").state == state.OFF


def test_it_is_repaired_while_it_is_asked_for(small_lab):  # noqa: F811
    """Killed, it is dead, and a second `start` brings it back."""
    settings = small_lab(on_demand="other")
    stack.up(settings)
    stack.start(settings, "other")
    os.kill(part(settings, "other").pid, signal.SIGKILL)
    wait_for(lambda: part(settings, "other").state == state.DEAD)
    stack.start(settings, "other")
    assert part(settings, "other").ready


def test_a_new_lab_has_forgotten_what_was_asked_for(small_lab):  # noqa: F811
    """Asking is for the running lab only."""
    settings = small_lab(on_demand="other")
    stack.up(settings)
    stack.start(settings, "other")
    stack.down(settings)
    stack.up(settings)
    assert part(settings, "other").state == state.OFF


def test_only_parts_on_demand_can_be_switched(small_lab):  # noqa: F811
    """A lab without its tool server would be a broken lab, not a smaller one."""
    settings = small_lab(on_demand="other")
    stack.up(settings)
    with pytest.raises(StackError, match="web cannot be started or stopped alone"):
        stack.stop(settings, "web")
    with pytest.raises(StackError, match="no part 'nothing'"):
        stack.start(settings, "nothing")
    stack.start(
        load_settings(place="cluster", state_dir=settings.state_dir), "anything"
    )  # somebody else's business


def test_the_canary_is_planned_beside_the_model_and_known_to_llama_stack(lab):  # noqa: F811
    """Served just as the lab model, under its own name and service, and not started by itself."""
    settings, tools = lab
    assert "vllm-canary" not in {p.name for p in make(settings(), tools).parts}
    write_model(settings().data_dir / plan.CANARY, max_position_embeddings=2048)
    made = make(settings(), tools)
    parts = {p.name: p for p in made.parts}
    canary, chat = parts["vllm-canary"], parts["vllm"]
    assert canary.on_demand and not canary.essential and canary.base == chat.base
    differ = {(a, b) for a, b in zip(canary.argv, chat.argv, strict=True) if a != b}
    assert len(differ) == 3, "model folder, served name, port"
    assert canary.env["OTEL_SERVICE_NAME"] == "vllm-canary"
    config = yaml.safe_load(made.files[settings().state_dir / "run" / "llama-stack.yaml"])
    entry = next(
        m for m in config["registered_resources"]["models"] if m["model_id"] == plan.CANARY
    )
    url = next(
        p for p in config["providers"]["inference"] if p["provider_id"] == entry["provider_id"]
    )
    assert url["config"]["base_url"] == f"http://127.0.0.1:{canary.port}/v1"


def test_no_canary_beside_somebody_elses_model(lab):  # noqa: F811
    """There the other deployment is theirs, and its name is a parameter of the notebook."""
    settings, tools = lab
    write_model(settings().data_dir / plan.CANARY)
    assert "vllm-canary" not in {
        p.name for p in make(settings(vllm_url="http://gpu:8000"), tools).parts
    }


def test_prometheus_watches_the_file_of_targets():
    """With a job of its own for each, since `up == 0` of a part that is off would be a false
    alarm.
    """
    found = yaml.safe_load(
        prometheus_config.render({"vllm": "127.0.0.1:1"}, Path("/x/targets.json"))
    )
    assert found["scrape_configs"][-1]["file_sd_configs"] == [{"files": ["/x/targets.json"]}]
