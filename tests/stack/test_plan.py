"""The settings decide which parts the stack has."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from opentelemetry.util.re import parse_env_headers

from lab.errors import ModelError, SetupError
from lab.settings import load_settings
from lab.stack import control, parts, plan
from lab.stack.changes import Changes
from lab.stack.parts import AGENT_PATH
from lab.stack.ports import PREFERRED
from lab.stack.toolbox import Toolbox


def write_model(folder: Path, **config) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], **config})
    )
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    return folder


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Return (settings, toolbox) of a lab with complete models, without the shell's `LAB_...`."""
    for name in (
        "MODEL",
        "TEMPO_URL",
        "OTLP_URL",
        "VLLM_URL",
        "MCP_URL",
        "LLAMA_STACK_URL",
        "PROMETHEUS_URL",
    ):
        monkeypatch.delenv(f"LAB_{name}", raising=False)
    write_model(tmp_path / "data" / "lab-model", max_position_embeddings=2048)
    embedder = write_model(tmp_path / "embedder")
    tools = Toolbox("py", "vpy", "prometheus", "node", str(embedder), str(tmp_path))

    def settings(**given):
        return load_settings(state_dir=tmp_path / "state", data_dir=tmp_path / "data", **given)

    return settings, tools


def make(settings, tools) -> plan.StackPlan:
    return plan.make_plan(settings, tools, dict(PREFERRED), control.external_endpoints(settings))


def test_all_parts_of_the_agent_path_exist_and_come_first(lab):
    """Embeddings and documents start later, so they do not delay the first answer."""
    settings, tools = lab
    made = make(settings(), tools)
    parts = {p.name: p for p in made.parts}
    assert set(AGENT_PATH) < set(parts)
    assert all(parts[name].essential for name in AGENT_PATH)
    assert {"vllm", "llama-stack"} <= set(parts["vllm-embed"].needs)
    assert set(parts["documents"].needs) == {"llama-stack", "vllm-embed"}
    assert set(made.endpoints) == set(control.ENDPOINT_PARTS)


def test_external_servers_are_not_started(lab):
    """Their addresses go to the parts that need them, but not into endpoints.json."""
    settings, tools = lab
    made = make(
        settings(
            tempo_url="http://tempo:3200", otlp_url="http://tempo:4318/", vllm_url="http://gpu:8000"
        ),
        tools,
    )
    parts = {p.name: p for p in made.parts}
    assert "tracestore" not in parts and "vllm" not in parts
    assert parts["tools"].argv[-1] == "http://tempo:4318"
    assert not any("OTEL_EXPORTER_OTLP_TRACES_HEADERS" in p.env for p in made.parts)
    assert "http://gpu:8000/v1" in made.files[settings().state_dir / "run" / "llama-stack.yaml"]
    assert made.endpoints["tempo"] == "http://tempo:3200"
    assert "tempo" not in made.own_endpoints
    assert all(set(p.needs) <= set(parts) for p in made.parts)


def test_the_login_of_a_receiver_is_in_no_command_line(lab):
    """The password of LAB_OTLP_URL reaches the parts that send spans, by their environment only."""
    settings, tools = lab
    url = "https://me:s%40cret@collector:4318/otlp"
    made = make(settings(tempo_url="http://tempo:3200", otlp_url=url), tools)
    texts = [*(" ".join(p.argv) for p in made.parts), *made.files.values()]
    assert not any("cret" in text for text in texts)
    assert any("https://collector:4318/otlp/v1/traces" in text for text in texts)
    headers = {p.name: p.env.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") for p in made.parts}
    senders = {name for name, header in headers.items() if header}
    assert senders >= {"vllm", "vllm-embed", "tools", "llama-stack"}
    assert "prometheus" not in senders
    parsed = parse_env_headers(headers["tools"], liberal=True)
    assert parsed == {"authorization": "Basic " + base64.b64encode(b"me:s@cret").decode()}
    assert made.endpoints["otlp"] == url


def test_addresses_written_by_a_lab_are_not_external(lab):
    """Otherwise a second `lab up` would start nothing."""
    settings, tools = lab
    (settings().state_dir).mkdir()
    (settings().state_dir / "endpoints.json").write_text(
        json.dumps({"tempo": "http://127.0.0.1:13200"})
    )
    assert settings().tempo_url == "http://127.0.0.1:13200"
    assert control.external_endpoints(settings()) == {}
    assert control.external_endpoints(settings(tempo_url="http://tempo:3200")) == {
        "tempo": "http://tempo:3200"
    }


def test_on_a_gpu_the_same_parts_run(lab):
    """Only the package and a few flags differ, and nothing is forked when CUDA is used."""
    settings, tools = lab
    from dataclasses import replace

    cpu = make(settings(), tools)
    gpu = make(settings(model="Qwen/Qwen3-0.6B"), replace(tools, vllm_build="cuda"))
    assert {p.name for p in cpu.parts} - {p.name for p in gpu.parts} == {"vllm-base"}
    chat = next(p for p in gpu.parts if p.name == "vllm")
    assert chat.argv[:3] == ("vpy", "-m", "vllm.entrypoints.openai.api_server")
    assert "Qwen/Qwen3-0.6B" in chat.argv and "--enforce-eager" not in chat.argv


def test_vllm_is_started_directly_where_forking_is_unsafe(lab, monkeypatch):
    """macOS uses two vLLM commands and no vllm-base."""
    monkeypatch.setattr(plan, "CAN_FORK", False)
    settings, tools = lab
    parts = {p.name: p for p in make(settings(), tools).parts}
    assert "vllm-base" not in parts
    assert parts["vllm"].argv[:3] == ("vpy", "-m", "vllm.entrypoints.openai.api_server")
    assert parts["vllm"].env["OTEL_SERVICE_NAME"] == "vllm"


def test_a_missing_model_is_an_error_that_names_its_setting(lab, tmp_path):
    """The fix is about LAB_MODEL if the user set it, and about the repository otherwise."""
    settings, tools = lab
    with pytest.raises(ModelError, match="correct LAB_MODEL"):
        make(settings(model=str(tmp_path / "nowhere")), tools)
    (tmp_path / "data" / "lab-model" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="data/lab-model"):
        make(settings(), tools)


def test_the_agent_server_is_ogx_where_it_is_chosen_and_installed(lab):
    """OGX has its own environment, and the same part, ports and configuration as Llama Stack."""
    settings, tools = lab
    with pytest.raises(SetupError, match=r"(?s)OGX is not installed.*scripts\.setup ogx"):
        make(settings(agent_server="ogx"), tools)

    made = make(settings(agent_server="ogx"), replace(tools, python_ogx="ogxpy"))
    ours = {p.name: p for p in make(settings(), tools).parts}["llama-stack"]
    ogx = {p.name: p for p in made.parts}["llama-stack"]
    assert ours.argv[0] == "py"
    assert ogx == replace(ours, argv=("ogxpy", *ours.argv[1:]), what=ogx.what)
    assert "OGX" in ogx.what


def test_alertmanager_runs_where_set_up_found_it(lab):
    """It listens on loopback only, has no port for peers, and receives Prometheus' alerts."""
    settings, tools = lab
    without = make(settings(), tools)
    assert "alertmanager" not in {p.name for p in without.parts}
    config = settings().state_dir / "run" / "prometheus.yml"
    assert "alerting" not in yaml.safe_load(without.files[config])

    made = make(settings(), replace(tools, alertmanager="alertmanager"))
    part = next(p for p in made.parts if p.name == "alertmanager")
    assert not part.essential and f"--web.listen-address=127.0.0.1:{part.port}" in part.argv
    assert "--cluster.listen-address=" in part.argv
    managers = yaml.safe_load(made.files[config])["alerting"]["alertmanagers"]
    assert managers == [{"static_configs": [{"targets": [f"127.0.0.1:{part.port}"]}]}]


def test_a_gpu_is_exported_where_a_driver_answers(lab, monkeypatch):
    """Prometheus scrapes the exporter of NVML, on loopback; without a driver neither exists."""
    settings, tools = lab
    tools = replace(tools, vllm_build="cuda", gpu_exporter="nvitop-exporter")
    monkeypatch.setattr(parts, "has_nvidia_driver", lambda: False)
    without = make(settings(), tools)
    assert "gpu" not in {part.name for part in without.parts}
    assert "19101" not in "".join(without.files.values())

    monkeypatch.setattr(parts, "has_nvidia_driver", lambda: True)
    made = make(settings(), tools)
    exporter = next(part for part in made.parts if part.name == "gpu")
    assert exporter.argv[:5] == (
        "nvitop-exporter",
        "--bind-address",
        "127.0.0.1",
        "--port",
        "19101",
    )
    assert not exporter.essential
    config = next(text for path, text in made.files.items() if path.name == "prometheus.yml")
    jobs = {job["job_name"]: job for job in yaml.safe_load(config)["scrape_configs"]}
    assert jobs["gpu"]["static_configs"] == [{"targets": ["127.0.0.1:19101"]}]

    monkeypatch.setenv("LAB_PROMETHEUS_URL", "http://elsewhere:9090")
    assert "gpu" not in {part.name for part in make(settings(), tools).parts}


def test_the_driver_is_asked_itself():
    """NVML answers exactly where the machine has the driver's own interface."""
    devices = list(Path("/dev").glob("nvidia[0-9]*")) + list(Path("/dev").glob("dxg"))
    assert parts.has_nvidia_driver() == bool(devices)


def test_an_incident_changes_the_plan(lab):
    """More arguments of vLLM come last, a job is not scraped, and Llama Stack has a new address."""
    settings, tools = lab
    changes = Changes(vllm_args="--max-num-seqs 2", unscraped="vllm", chat_url="http://127.0.0.1:9")
    before = make(settings(), tools)
    made = plan.make_plan(settings(), tools, dict(PREFERRED), {}, changes)
    by_name = {p.name: p for p in made.parts}
    assert by_name["vllm"].argv[-2:] == ("--max-num-seqs", "2")
    assert {p.name for p in made.parts if p not in before.parts} == {"vllm"}
    run = settings().state_dir / "run"
    jobs = yaml.safe_load(made.files[run / "prometheus.yml"])["scrape_configs"]
    vllm = next(j for j in jobs if j["job_name"] == "vllm")
    assert vllm["static_configs"] == [{"targets": []}] and by_name["prometheus"].reloads
    assert "http://127.0.0.1:9/v1" in made.files[run / "llama-stack.yaml"]
