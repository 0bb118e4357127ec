"""Drive the runs that the campaigns resample, on a real stack of this machine; opt-in.

    python -m benchmarks.diagnosis.live FOLDER --part agents      # about ten minutes each
    python -m benchmarks.diagnosis.live FOLDER --part tenants
    python -m benchmarks.diagnosis.live FOLDER --part equal

- agents: pairs of equal runs through Llama Stack, pairs of equal runs straight to vLLM, and runs in
  which the tools are slower (the tool server's own faults) between runs in which they are not;
- tenants: chat traffic, in every second run with a tenant of long prompts;
- equal: 80 runs of chat traffic that differ by their seed only.

FOLDER gets, per part, the request frames without texts, the turn frames, and how they were made
(versions, machine, time). Its parts that exist already are kept; their runs are not driven again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pandas as pd

import lab
from benchmarks.start_up import temporary_lab
from lab import stack
from lab.frames import turn_frame
from lab.runner import facts
from lab.settings import Settings, load_settings
from lab.workload import Plan, Poisson
from lab.world.catalogue import MCP_TOOLS

DATA = Path(__file__).resolve().parents[2] / "data" / "recorded" / "comparisons"
TEXTS = ["prompt", "answer", "tool_calls", "error_type", "trace_problem", "user_id"]
CULPRIT = "bulk"
SLOWER_S = 0.3  # that every tool takes longer
WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel")


def agents(settings: Settings) -> Iterator[tuple[str, int, pd.DataFrame, pd.DataFrame]]:
    """Yield (stage, seed, requests, turns) of the pairs of equal runs and of slow tools."""
    for seed in range(101, 106):
        for side in "ab":
            plan = _plan(settings, 30, 1.2, seed, "responses")
            yield f"agent {side}", seed, *_drive(settings, plan)
    for seed in range(201, 209):
        for side in "ab":
            yield f"chat {side}", seed, *_drive(settings, _plan(settings, 60, 6.0, seed, "chat"))
    for seed in (301, 302):
        plan = _plan(settings, 30, 1.2, seed, "responses")
        yield "tools usual", seed, *_drive(settings, plan)
        with _slow_tools(settings):
            yield "tools slow", seed, *_drive(settings, plan)


def tenants(settings: Settings) -> Iterator[tuple[str, int, pd.DataFrame, pd.DataFrame]]:
    """Yield (stage, seed, requests, turns) of runs with a tenant of long prompts, and without."""
    for seed in range(401, 421):
        usual = _plan(settings, 36, 6.0, seed, "chat")
        yield "without", seed, *_drive(settings, usual)
        yield "with", seed, *_drive(settings, with_long_prompts(usual, seed))


def equal(settings: Settings) -> Iterator[tuple[str, int, pd.DataFrame, pd.DataFrame]]:
    """Yield (stage, seed, requests, turns) of runs that differ by their seed only."""
    for seed in range(501, 581):
        yield "equal", seed, *_drive(settings, _plan(settings, 40, 6.0, seed, "chat"))


def with_long_prompts(plan: Plan, seed: int) -> Plan:
    """Return the plan with a few prompts of thousands of tokens more, of the tenant CULPRIT."""
    rng = np.random.default_rng(seed)
    model = plan.requests[0]
    added = []
    times = np.sort(rng.uniform(0.5, 5.0, size=int(rng.integers(3, 7))))
    for number, offset_s in enumerate(times):
        words = int(rng.integers(450, 880))
        text = f"{secrets.token_hex(8)} {' '.join(rng.choice(WORDS, words))}"
        names = {"request_id": f"x{number:05d}-0", "session_id": f"bulk-{number:05d}"}
        added.append(
            msgspec.structs.replace(
                model,
                **names,
                turn_index=0,
                offset_s=float(offset_s),
                tenant=CULPRIT,
                user_id=f"{CULPRIT}-u00",
                text=text,
                max_tokens=4,
            )
        )
    requests = sorted((*plan.requests, *added), key=lambda r: (r.offset_s is None, r.offset_s or 0))
    return replace(plan, requests=tuple(requests))


def _plan(settings: Settings, n: int, rate_per_s: float, seed: int, api: str) -> Plan:
    return lab.make_plan(
        requests=n, arrivals=Poisson(rate_per_s), seed=seed, api=api, settings=settings
    )


def _drive(settings: Settings, plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    run = lab.run_plan(plan, settings, progress=False)
    seen = lab.observe(run, settings)
    turns = turn_frame(seen.requests, seen.spans)
    requests = seen.requests.drop(columns=TEXTS, errors="ignore")
    return requests, turns.drop(columns=["user_id"])


@contextlib.contextmanager
def _slow_tools(settings: Settings) -> Iterator[None]:
    """Make every tool of the server slower by SLOWER_S inside this block."""
    url = f"{settings.endpoint('mcp')}/admin/faults"
    usual = httpx.get(url, timeout=10).raise_for_status().json()
    for tool in MCP_TOOLS:
        delay_s = usual[tool.name]["delay_s"] + SLOWER_S
        fault = {"tool": tool.name, "delay_s": delay_s}
        httpx.post(url, json=fault, timeout=10).raise_for_status()
    try:
        yield
    finally:
        httpx.delete(url, timeout=10)


PARTS = {"agents": agents, "tenants": tenants, "equal": equal}


def collect(settings: Settings, part: str, folder: Path) -> None:
    """Drive a part and write its tables, after every run."""
    began = time.time()
    tables: dict[str, list[pd.DataFrame]] = {"requests": [], "turns": []}
    folder.mkdir(parents=True, exist_ok=True)
    about = facts.collect(settings) | {
        "recorded_at": pd.Timestamp(began, unit="s", tz="UTC").isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.diagnosis.live data/recorded/comparisons --part {part}",
    }
    (folder / f"{part}.json").write_text(json.dumps(about, indent=1) + "\n")
    for stage, seed, requests, turns in PARTS[part](settings):
        for name, table in (("requests", requests), ("turns", turns)):
            tables[name].append(table.assign(stage=stage, seed=seed))
            whole = pd.concat(tables[name], ignore_index=True)
            whole.to_parquet(folder / f"{part}-{name}.parquet", compression="zstd")
        ok = (requests["status"] == "ok").mean()
        mean_s = requests["e2e_s"].mean()
        took_s = time.time() - began
        print(f"{took_s:5.0f} s  {stage} {seed}: {mean_s:.3f} s, {ok:.0%} ok", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="where to write, such as data/recorded/...")
    parser.add_argument("--part", choices=tuple(PARTS), required=True)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="lab-diagnosis-") as folder,
        temporary_lab(Path(folder)) as settings,
    ):
        stack.up(settings, wait_for="all")
        settings = load_settings(state_dir=settings.state_dir)
        lab.run_plan(_plan(settings, 8, 1.0, 1, "responses"), settings, progress=False)
        collect(settings, arguments.part, arguments.folder)


if __name__ == "__main__":
    main()
