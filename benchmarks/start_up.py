"""The stack's start-up beside vLLM started plainly: `lab up` to the first answered agent request; memory; repair.

A lab of its own in a temporary state folder, caches warm (a first start compiles Python bytecode). What the machine
does besides counts: see the load in the results. `--small` leaves out the plain vLLM, which takes most of a minute.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from lab import stack
from lab.settings import Settings, load_settings
from lab.stack import processes
from lab.stack.llama_stack_config import model_id
from lab.stack.plan import chat_model
from lab.stack.ports import choose
from lab.stack.state import PartStatus
from lab.stack.toolbox import find_tools
from lab.stack.vllm_args import cpu_dtype
from lab.world import make_scenarios

GIB = 1024**3
LIMIT_S = 600.0


def main(argv: list[str]) -> list[dict]:
    """Rows for `lab bench`."""
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="lab-bench-") as folder,
        lab_of_its_own(Path(folder)) as settings,
    ):
        began = time.monotonic()
        stack.up(settings)
        up_s = time.monotonic() - began
        settings = load_settings(state_dir=settings.state_dir)
        attempts = ask_until_answered(settings)
        note = f"up after {up_s:.1f} s; {attempts} request(s) until one was answered"
        rows.append(
            row("lab", "start_to_first_answer_s", time.monotonic() - began, note, bound=60.0)
        )
        stack.require(settings, "vllm-embed", "documents", wait_s=LIMIT_S)
        parts = stack.status(settings)
        by_name = {p.name: p for p in parts}
        vllm_s = by_name["vllm"].ready_after_s + (
            by_name["vllm-base"].ready_after_s if "vllm-base" in by_name else 0.0
        )
        rows.append(
            row(
                "lab",
                "vllm_ready_s",
                vllm_s,
                "imports once and the chat server, while all else starts",
            )
        )
        rss = sum(p.rss_bytes for p in parts) / GIB
        rows.append(row("lab", "memory_rss_gib", rss, memory_note(parts), bound=6.0))
        rows += kill_and_repair(settings)
    if "--small" not in argv:
        rows.append(
            row(
                "vllm, started plainly",
                "vllm_ready_s",
                plain_vllm_s(),
                "alone, same model and flags",
            )
        )
    return rows


def row(subject: str, metric: str, value: float, note: str, **more: float) -> dict:
    return {
        "subject": subject,
        "metric": metric,
        "value": round(value, 3),
        "better": "lower",
        "note": note,
        **more,
    }


def memory_note(parts: list[PartStatus]) -> str:
    """Each part's RSS, and the sum that counts shared pages once."""
    each = ", ".join(f"{p.name} {p.rss_bytes / 1024**2:.0f}" for p in parts if p.rss_bytes)
    pss = sum(p.pss_bytes for p in parts) / GIB
    return f"MiB: {each}; PSS of all: {pss:.2f} GiB"


@contextlib.contextmanager
def lab_of_its_own(folder: Path) -> Iterator[Settings]:
    """Settings of a lab that is taken down afterwards, whatever happens."""
    settings = load_settings(state_dir=folder / "lab")
    try:
        yield settings
    finally:
        stack.down(settings)


def ask_until_answered(settings: Settings) -> int:
    """Put the workload's questions to the agent until one is answered; how many it took (a small model fails some)."""
    tool = {
        "type": "mcp",
        "server_label": "help-desk",
        "server_url": f"{settings.endpoint('mcp')}/mcp",
    }
    body = {
        "model": model_id(settings.model_name),
        "tools": [tool | {"require_approval": "never"}],
        "temperature": 0,
    }
    for attempt, scenario in enumerate(make_scenarios(50, seed=3, kinds=("single",)), 1):
        answer = httpx.post(
            f"{settings.endpoint('llama_stack')}/v1/responses",
            json=body | {"input": scenario.turns[0].text},
            timeout=120,
        )
        if answer.is_success and answer.json()["output"][-1]["type"] == "message":
            return attempt
    raise RuntimeError("none of 50 agent requests was answered")


def kill_and_repair(settings: Settings) -> list[dict]:
    """kill -9 of vLLM: seconds until `status` says so, and until `up` has it back."""
    pid = next(p.pid for p in stack.status(settings) if p.name == "vllm")
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    while next(p.state for p in stack.status(settings) if p.name == "vllm") != "dead":
        time.sleep(0.05)
    seen_s = time.monotonic() - killed
    began = time.monotonic()
    stack.up(settings)
    back_s = time.monotonic() - began
    return [
        row("lab", "death_seen_s", seen_s, "kill -9 of vLLM until `lab status` says so", bound=5.0),
        row("lab", "vllm_back_s", back_s, "`lab up` after it"),
    ]


def plain_vllm_s() -> float:
    """vLLM's own server module from start to the first token."""
    tools, settings = find_tools(), load_settings()
    port, (model, context) = choose()["vllm"], chat_model(settings)
    argv = [
        tools.python_vllm,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        model,
        "--port",
        str(port),
    ]
    argv += [
        "--host",
        "127.0.0.1",
        "--served-model-name",
        "m",
        "--max-model-len",
        str(context or 2048),
    ]
    argv += [
        "--enforce-eager",
        "--dtype",
        cpu_dtype(),
        "--kv-cache-memory-bytes",
        str(512 * 1024**2),
    ]
    env = os.environ | {
        "VLLM_TARGET_DEVICE": "cpu",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    began = time.monotonic()
    process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while time.monotonic() < began + LIMIT_S and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.post(
                    f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60
                ).is_success:
                    return time.monotonic() - began
            time.sleep(0.25)
        raise RuntimeError("vLLM, started plainly, did not answer")
    finally:
        processes.end(processes.tree(process.pid))
