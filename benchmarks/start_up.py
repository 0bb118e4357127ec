"""Start-up of the stack: time to the first answered agent request, memory use, and repair.

Compared with vLLM's server module by itself. The stack runs in a temporary state folder; caches are
warm, because a first start compiles Python bytecode. Other load on the machine matters: see the
load in the results. `--small` omits the plain vLLM, which takes most of a minute.
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
    """Return the rows for `lab bench`."""
    with (
        tempfile.TemporaryDirectory(prefix="lab-bench-") as folder,
        temporary_lab(Path(folder)) as settings,
    ):
        rows = start_and_measure(settings)
        rows += kill_and_repair(settings)

    if "--small" not in argv:
        seconds = plain_vllm_s()
        rows.append(
            row("vllm, started plainly", "vllm_ready_s", seconds, "alone, same model and flags")
        )
    return rows


def row(subject: str, metric: str, value: float, note: str, **more: float) -> dict:
    """Return a row in which lower is better."""
    measured = {"subject": subject, "metric": metric, "value": round(value, 3)}
    return {**measured, "better": "lower", "note": note, **more}


def start_and_measure(settings: Settings) -> list[dict]:
    """Start the stack; return the rows on its start-up and on its memory."""
    began = time.monotonic()
    stack.up(settings)
    up_s = time.monotonic() - began
    settings = load_settings(state_dir=settings.state_dir)  # now with the ports
    attempts = ask_until_answered(settings)
    answered_s = time.monotonic() - began

    stack.require(settings, "vllm-embed", "documents", wait_s=LIMIT_S)
    parts = stack.status(settings)
    ready_after_s = {part.name: part.ready_after_s for part in parts}
    vllm_s = ready_after_s["vllm"] + ready_after_s.get("vllm-base", 0.0)
    vllm_note = "one import and the chat server, while all other parts start"
    up_note = f"up after {up_s:.1f} s; {attempts} request(s) until one was answered"
    rss_gib = sum(part.rss_bytes for part in parts) / GIB
    return [
        row("lab", "start_to_first_answer_s", answered_s, up_note, bound=60.0),
        row("lab", "vllm_ready_s", vllm_s, vllm_note),
        row("lab", "memory_rss_gib", rss_gib, memory_note(parts), bound=6.0),
    ]


def memory_note(parts: list[PartStatus]) -> str:
    """Return a note with each part's RSS, and the total PSS, which counts shared pages once."""
    each = ", ".join(f"{p.name} {p.rss_bytes / 1024**2:.0f}" for p in parts if p.rss_bytes)
    pss_gib = sum(part.pss_bytes for part in parts) / GIB
    return f"MiB: {each}; PSS of all: {pss_gib:.2f} GiB"


@contextlib.contextmanager
def temporary_lab(folder: Path) -> Iterator[Settings]:
    """Yield the settings of a separate lab, which is stopped afterwards in any case."""
    settings = load_settings(state_dir=folder / "lab")
    try:
        yield settings
    finally:
        stack.down(settings)


def ask_until_answered(settings: Settings) -> int:
    """Send the workload's questions to the agent until one is answered; return the attempts.

    A small model fails on some of them. Raises RuntimeError if none of 50 is answered.
    """
    url = f"{settings.endpoint('llama_stack')}/v1/responses"
    tool = {
        "type": "mcp",
        "server_label": "help-desk",
        "server_url": f"{settings.endpoint('mcp')}/mcp",
        "require_approval": "never",
    }
    body = {"model": model_id(settings.model_name), "tools": [tool], "temperature": 0}
    for attempt, scenario in enumerate(make_scenarios(50, seed=3, kinds=("single",)), 1):
        request = body | {"input": scenario.turns[0].text}
        response = httpx.post(url, json=request, timeout=120)
        if response.is_success and response.json()["output"][-1]["type"] == "message":
            return attempt
    raise RuntimeError("none of 50 agent requests was answered")


def kill_and_repair(settings: Settings) -> list[dict]:
    """Kill vLLM with SIGKILL; return the seconds until `status` reports it and `up` repairs it."""
    os.kill(_vllm(settings).pid, signal.SIGKILL)
    killed = time.monotonic()
    while _vllm(settings).state != "dead":
        time.sleep(0.05)
    seen_s = time.monotonic() - killed

    began = time.monotonic()
    stack.up(settings)
    back_s = time.monotonic() - began
    seen_note = "kill -9 of vLLM until `lab status` reports it"
    return [
        row("lab", "death_seen_s", seen_s, seen_note, bound=5.0),
        row("lab", "vllm_back_s", back_s, "`lab up` afterwards"),
    ]


def _vllm(settings: Settings) -> PartStatus:
    return next(part for part in stack.status(settings) if part.name == "vllm")


def plain_vllm_s() -> float:
    """Return the seconds from the start of vLLM's server module to the first token.

    Raises RuntimeError if it does not answer within LIMIT_S.
    """
    model, context = chat_model(load_settings())
    port = choose()["vllm"]
    command = [
        *(find_tools().python_vllm, "-m", "vllm.entrypoints.openai.api_server"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--model", model, "--served-model-name", "m", "--max-model-len", str(context or 2048)),
        *("--enforce-eager", "--dtype", cpu_dtype()),
        *("--kv-cache-memory-bytes", str(512 * 1024**2)),
    ]
    env = os.environ | {
        "VLLM_TARGET_DEVICE": "cpu",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}

    began = time.monotonic()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=env, **quiet)
    try:
        while time.monotonic() < began + LIMIT_S and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.post(url, json=body, timeout=60).is_success:
                    return time.monotonic() - began
            time.sleep(0.25)
        raise RuntimeError("vLLM, started plainly, did not answer")
    finally:
        processes.end(processes.tree(process.pid))
