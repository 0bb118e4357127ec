"""Parts on demand run only while they are requested, and are off instead of dead otherwise."""

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
    targets = json.loads((settings.state_dir / supervisor.TARGETS_FILE).read_text())
    return [target["labels"]["job"] for target in targets]


def test_off_until_requested_and_off_again_afterwards(small_lab):  # noqa: F811
    """`up` ignores it, `start` returns when it answers, and `stop` when its process has ended.

    Prometheus scrapes it only in between.
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
    stopped = part(settings, "other")
    assert (stopped.state, stopped.pid) == (state.OFF, None)
    wait_for(lambda: _scraped(settings) == [])
    assert part(settings, "web").pid == pid, "the other parts must be left alone"
    stack.up(settings, wait_for="all")
    assert part(settings, "other").state == state.OFF


def test_it_is_restarted_while_it_is_requested(small_lab):  # noqa: F811
    """After a kill it is dead, and a second `start` restarts it."""
    settings = small_lab(on_demand="other")
    stack.up(settings)
    stack.start(settings, "other")
    os.kill(part(settings, "other").pid, signal.SIGKILL)
    wait_for(lambda: part(settings, "other").state == state.DEAD)
    stack.start(settings, "other")
    assert part(settings, "other").ready


def test_a_new_lab_forgets_earlier_requests(small_lab):  # noqa: F811
    """A request is valid for the running lab only."""
    settings = small_lab(on_demand="other")
    stack.up(settings)
    stack.start(settings, "other")
    stack.down(settings)
    stack.up(settings)
    assert part(settings, "other").state == state.OFF


def test_only_parts_on_demand_can_be_switched(small_lab):  # noqa: F811
    """A lab without its tool server would be broken, so stopping it is refused."""
    settings = small_lab(on_demand="other")
    stack.up(settings)
    with pytest.raises(StackError, match="web cannot be started or stopped alone"):
        stack.stop(settings, "web")
    with pytest.raises(StackError, match="no part 'nothing'"):
        stack.start(settings, "nothing")
    # In a cluster the call does nothing.
    stack.start(load_settings(place="cluster", state_dir=settings.state_dir), "anything")


def test_the_canary_is_planned_and_known_to_llama_stack(lab):  # noqa: F811
    """It is served like the lab model, under its own name and service, and off at first."""
    settings, tools = lab
    assert "vllm-canary" not in {p.name for p in make(settings(), tools).parts}
    write_model(settings().data_dir / plan.CANARY, max_position_embeddings=2048)
    made = make(settings(), tools)
    parts = {p.name: p for p in made.parts}
    canary = parts["vllm-canary"]
    chat = parts["vllm"]
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


def test_there_is_no_canary_next_to_an_external_model(lab):  # noqa: F811
    """The name of the other deployment is a parameter of the notebook there."""
    settings, tools = lab
    write_model(settings().data_dir / plan.CANARY)
    assert "vllm-canary" not in {
        p.name for p in make(settings(vllm_url="http://gpu:8000"), tools).parts
    }


def test_prometheus_watches_the_file_of_targets():
    """Each part on demand has its own job, as `up == 0` of a part that is off is a false alarm."""
    config = yaml.safe_load(
        prometheus_config.render({"vllm": "127.0.0.1:1"}, Path("/x/targets.json"))
    )
    assert config["scrape_configs"][-1]["file_sd_configs"] == [{"files": ["/x/targets.json"]}]
