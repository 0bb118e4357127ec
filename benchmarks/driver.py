"""What a load driver adds to the time to the first token of a server whose true one is known, and what it costs in CPU.

Ours beside guidellm, aiperf, the openai SDK and plain aiohttp, one after the other in one run against the same stub,
with the same number of concurrent streams. `ttft_added` is what the driver itself reports, less the stub's 50 ms; the
note says how late the stub was by its own clock. CPU is that of the driver's processes: for ours, the SDK and aiohttp
while they drive; for guidellm and aiperf, which are commands, all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.settings import REPO, load_settings

FIRST_S, CHUNK_S, CHUNKS = 0.05, 0.05, 20
BENCH_VENV = REPO / ".venvs" / "bench"
BOUNDS = {"ttft_added_p50_s": 0.010, "ttft_added_p99_s": 0.030, "cpu_per_request_s": 0.0015}
COMMAND_LIMIT_S = 540


@dataclass
class Measured:
    """Times to the first token at the median and the 99th percentile, CPU seconds of all requests, and their number."""

    p50_s: float
    p99_s: float
    cpu_s: float
    requests: int

    @classmethod
    def of(cls, ttft_s: list[float], cpu_s: float) -> Measured:
        p50, p99 = np.quantile(ttft_s, [0.5, 0.99])
        return cls(float(p50), float(p99), cpu_s, len(ttft_s))


@dataclass
class Load:
    """So many streams at once, each so many requests one after the other, started over so many seconds.

    `venv` is the environment with guidellm and aiperf.
    """

    url: str
    streams: int
    each: int
    start_over_s: float
    venv: Path

    @property
    def requests(self) -> int:
        return self.streams * self.each


class Skipped(Exception):
    """A subject cannot be measured here; the text says why."""


def main(argv: list[str]) -> list[dict]:
    """Rows of the benchmark; with --small, fewer streams and only what needs no environment of its own."""
    parser = argparse.ArgumentParser(prog="lab bench driver", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--small", action="store_true", help="32 streams, without guidellm and aiperf"
    )
    parser.add_argument("--streams", type=int, default=0)
    parser.add_argument("--each", type=int, default=0, help="requests of each stream")
    parser.add_argument("--subjects", nargs="+", choices=list(SUBJECTS), help="only these")
    parser.add_argument(
        "--venv", type=Path, default=BENCH_VENV, help="the environment with guidellm and aiperf"
    )
    args = parser.parse_args(argv)
    streams = args.streams or (32 if args.small else 512)
    each = args.each or (4 if args.small else 6)
    subjects = args.subjects or (["lab", "aiohttp", "openai"] if args.small else list(SUBJECTS))
    rows: list[dict] = []
    for name in subjects:
        with stub() as url:
            try:
                version, measured = SUBJECTS[name](Load(url, streams, each, 1.0, args.venv))
            except Skipped as e:
                print(f"{name} is left out: {e}", flush=True)
                continue
            late_s = _stub_late_s(url)
        rows += _rows(name if name == "lab" else f"{name} {version}", measured, streams, late_s)
        print(
            f"{name}: added p50 {rows[-3]['value'] * 1e3:.1f} ms, p99 {rows[-2]['value'] * 1e3:.1f} ms",
            flush=True,
        )
    return rows


@contextlib.contextmanager
def stub() -> Iterator[str]:
    """The stub server in a process of its own; its URL."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.driver_stub",
        "--first-s",
        str(FIRST_S),
        "--chunk-s",
        str(CHUNK_S),
    ]
    process = subprocess.Popen(
        [*command, "--chunks", str(CHUNKS)], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait(10)


def _stub_late_s(url: str) -> tuple[float, float]:
    with urllib.request.urlopen(f"{url}/stats", timeout=30) as answer:
        written = json.load(answer)["written_after_s"]
    p50, p99 = np.quantile(np.array(written) - FIRST_S, [0.5, 0.99])
    return float(p50), float(p99)


def _rows(
    subject: str, measured: Measured, streams: int, late_s: tuple[float, float]
) -> list[dict]:
    values = {
        "ttft_added_p50_s": measured.p50_s - FIRST_S,
        "ttft_added_p99_s": measured.p99_s - FIRST_S,
        "cpu_per_request_s": measured.cpu_s / measured.requests,
    }
    note = (
        f"{streams} streams, {measured.requests} requests, load {os.getloadavg()[0]:.1f}; "
        f"stub late by {late_s[0] * 1e3:.1f} ms p50, {late_s[1] * 1e3:.1f} ms p99"
    )
    return [
        {"subject": subject, "metric": metric, "value": value, "better": "lower", "note": note}
        | ({"bound": BOUNDS[metric]} if streams >= 512 else {})
        for metric, value in values.items()
    ]


def _in_process(name: str, load: Load) -> tuple[str, Measured]:
    """A driver that is a Python module of ours, in a process of its own so that its CPU is its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        given = json.dumps(
            {"url": load.url, "streams": load.streams, "each": load.each, "over": load.start_over_s}
        )
        python = (
            _bench_python(load.venv)
            if name == "openai" and not _importable("openai")
            else Path(sys.executable)
        )
        command = [str(python), "-m", "benchmarks.driver_subjects", name, given, str(out)]
        done = subprocess.run(
            command, cwd=REPO, capture_output=True, text=True, timeout=COMMAND_LIMIT_S
        )
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr[-800:]}")
        result = json.loads(out.read_text())
    return result["version"], Measured.of(result["ttft_s"], result["cpu_s"])


def _importable(module: str) -> bool:
    return (
        subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode
        == 0
    )


def _bench_python(venv: Path) -> Path:
    python = venv / "bin" / "python"
    if not python.exists():
        raise Skipped("its environment is not set up; `python3 -m scripts.setup bench` does that")
    return python


def _command(venv: Path, name: str, arguments: list[str], folder: Path) -> float:
    """Run a command of the benchmark environment; CPU seconds of all its processes. Raises Skipped if it cannot run."""
    program = _bench_python(venv).with_name(name)
    env = os.environ | _OFFLINE | {"HF_HOME": str(_hub_cache(folder))}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    log = folder / "log.txt"
    with log.open("w") as f:
        process = subprocess.Popen(
            [str(program), *arguments],
            cwd=folder,
            stdout=f,
            stderr=f,
            env=env,
            start_new_session=True,
        )
        try:
            status = process.wait(COMMAND_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise Skipped(f"it did not end within {COMMAND_LIMIT_S} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)  # what it may have left of its workers
            process.wait()
    if status:
        raise Skipped(f"exit status {status}: {log.read_text()[-400:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# Both want a tokenizer, and would ask a hub for one; aiperf gives its parts 30 s to start, too few on two cores.
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "AIPERF_SERVICE_REGISTRATION_TIMEOUT": "300",
}
TOKENIZER = "lab/model"


def _hub_cache(folder: Path) -> Path:
    """A cache of a model hub that holds the lab model's tokenizer: aiperf takes no folder, only a name."""
    revision = "0" * 40
    model = folder / "hf" / "hub" / f"models--{TOKENIZER.replace('/', '--')}"
    (model / "snapshots" / revision).mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(revision)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(load_settings().data_dir / "lab-model" / name, model / "snapshots" / revision)
    return folder / "hf"


def _version(venv: Path, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version('{package}'))"
    return subprocess.run(
        [str(_bench_python(venv)), "-c", code], capture_output=True, text=True
    ).stdout.strip()


def _guidellm(load: Load) -> tuple[str, Measured]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = [
            json.dumps({"prompt": f"hello number {i}, how are you today?"})
            for i in range(load.requests)
        ]
        (folder / "prompts.jsonl").write_text("\n".join(prompts))
        cpu_s = _command(
            load.venv,
            "guidellm",
            [
                *("run", "--backend", f"kind=openai_http,target={load.url},model=stub"),
                *("--profile", f"kind=concurrent,streams={load.streams}"),
                *("--constraint", f"kind=max_requests,count={load.requests}"),
                *("--data", f"kind=json_file,path={folder / 'prompts.jsonl'}"),
                *("--tokenizer", f"kind=huggingface_auto,model={TOKENIZER}"),
                *("--output", f"kind=json,path={folder / 'out.json'}", "--disable-console"),
            ],
            folder,
        )
        metrics = json.loads((folder / "out.json").read_text())["benchmarks"][0]["metrics"]
    ttft = metrics["time_to_first_token_ms"]["successful"]
    p50, p99 = ttft["percentiles"]["p50"] / 1e3, ttft["percentiles"]["p99"] / 1e3
    return _version(load.venv, "guidellm"), Measured(p50, p99, cpu_s, ttft["count"])


def _aiperf(load: Load) -> tuple[str, Measured]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cpu_s = _command(
            load.venv,
            "aiperf",
            [
                *(
                    "profile",
                    "--model",
                    "stub",
                    "--url",
                    load.url,
                    "--endpoint-type",
                    "chat",
                    "--streaming",
                ),
                *("--concurrency", str(load.streams), "--request-count", str(load.requests)),
                *("--concurrency-ramp-duration", str(load.start_over_s), "--tokenizer", TOKENIZER),
                *(
                    "--isl",
                    "16",
                    "--osl",
                    str(CHUNKS),
                    "--ui",
                    "none",
                    "--no-gpu-telemetry",
                    "--no-server-metrics",
                ),
                *("--output-artifact-dir", str(folder / "out")),
            ],
            folder,
        )
        summary = json.loads(next((folder / "out").rglob("profile_export_aiperf.json")).read_text())
    ttft, count = summary["time_to_first_token"], int(summary["request_count"]["avg"])
    return _version(load.venv, "aiperf"), Measured(
        ttft["p50"] / 1e3, ttft["p99"] / 1e3, cpu_s, count
    )


SUBJECTS = {
    "lab": lambda load: _in_process("lab", load),
    "aiohttp": lambda load: _in_process("aiohttp", load),
    "openai": lambda load: _in_process("openai", load),
    "guidellm": _guidellm,
    "aiperf": _aiperf,
}
