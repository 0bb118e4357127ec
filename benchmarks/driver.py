"""Time to first token that a load driver adds, on a server whose true value is known, and its CPU.

Compares the lab's driver with guidellm, aiperf, the openai SDK and plain aiohttp, in sequence, in
one run, against the same stub server and with the same number of concurrent streams.

`ttft_added` is the time to first token that the driver reports, minus the stub's 50 ms; the note
states how late the stub was by its own clock. CPU time is that of the driver's processes: for the
lab, the SDK and aiohttp only while they send requests; for guidellm and aiperf, which are
commands, from start to exit.
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

FIRST_S = 0.05
CHUNK_S = 0.05
CHUNKS = 20
BENCH_VENV = REPO / ".venvs" / "bench"
BOUNDS = {"ttft_added_p50_s": 0.010, "ttft_added_p99_s": 0.030, "cpu_per_request_s": 0.0015}
COMMAND_LIMIT_S = 540


@dataclass
class Measured:
    """Time to first token (median and 99th percentile), total CPU seconds, number of requests."""

    p50_s: float
    p99_s: float
    cpu_s: float
    requests: int

    @classmethod
    def of(cls, ttft_s: list[float], cpu_s: float) -> Measured:
        """Return the quantiles of individual times to first token."""
        p50, p99 = np.quantile(ttft_s, [0.5, 0.99])
        return cls(float(p50), float(p99), cpu_s, len(ttft_s))


@dataclass
class Load:
    """The load of every subject.

    - `streams` is the number of concurrent streams, whose starts are spread over `start_over_s`.
    - `each` is the number of sequential requests per stream.
    - `venv` is the environment with guidellm and aiperf.
    """

    url: str
    streams: int
    each: int
    start_over_s: float
    venv: Path

    @property
    def requests(self) -> int:
        """The number of requests in total."""
        return self.streams * self.each


class Skipped(Exception):
    """A subject cannot be measured on this machine; the message states the reason."""


def main(argv: list[str]) -> list[dict]:
    """Return the rows for `lab bench`."""
    args = _parser().parse_args(argv)
    streams = args.streams or (32 if args.small else 512)
    each = args.each or (4 if args.small else 6)
    subjects = args.subjects or (["lab", "aiohttp", "openai"] if args.small else list(SUBJECTS))
    load_of = {"streams": streams, "each": each, "start_over_s": 1.0, "venv": args.venv}

    rows: list[dict] = []
    for name in subjects:
        with stub() as url:
            try:
                version, measured = SUBJECTS[name](Load(url, **load_of))
            except Skipped as e:
                print(f"{name} is left out: {e}", flush=True)
                continue
            late_s = _stub_late_s(url)

        rows += _rows(name if name == "lab" else f"{name} {version}", measured, streams, late_s)
        p50_ms = rows[-3]["value"] * 1e3
        p99_ms = rows[-2]["value"] * 1e3
        print(f"{name}: added p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms", flush=True)
    return rows


def _parser() -> argparse.ArgumentParser:
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="lab bench driver", description=summary)
    add = parser.add_argument
    add("--small", action="store_true", help="32 streams, without guidellm and aiperf")
    add("--streams", type=int, default=0, help="number of concurrent streams")
    add("--each", type=int, default=0, help="requests per stream")
    add("--subjects", nargs="+", choices=list(SUBJECTS), help="measure only these")
    add("--venv", type=Path, default=BENCH_VENV, help="environment with guidellm and aiperf")
    return parser


@contextlib.contextmanager
def stub() -> Iterator[str]:
    """Run the stub server in a separate process and yield its URL."""
    command = [
        *(sys.executable, "-m", "benchmarks.driver_stub"),
        *("--first-s", str(FIRST_S), "--chunk-s", str(CHUNK_S), "--chunks", str(CHUNKS)),
    ]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait(10)


def _stub_late_s(url: str) -> tuple[float, float]:
    """Return how late the stub wrote first tokens (median and 99th percentile)."""
    with urllib.request.urlopen(f"{url}/stats", timeout=30) as response:
        written = json.load(response)["written_after_s"]
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
    rows = []
    for metric, value in values.items():
        row = {"subject": subject, "metric": metric, "value": value, "better": "lower"}
        if streams >= 512:
            row["bound"] = BOUNDS[metric]
        rows.append(row | {"note": note})
    return rows


# -- drivers that are Python modules -----------------------------------------------------------


def _in_process(name: str, load: Load) -> tuple[str, Measured]:
    """Run a driver of driver_subjects.py in a separate process, so that its CPU time is separate.

    Raises RuntimeError if it fails.
    """
    python = sys.executable
    if name == "openai" and not _importable("openai"):
        python = str(_bench_python(load.venv))
    fields = {"url": load.url, "streams": load.streams, "each": load.each}
    argument = json.dumps(fields | {"over": load.start_over_s})

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [python, "-m", "benchmarks.driver_subjects", name, argument, str(out)]
        done = subprocess.run(
            command, cwd=REPO, capture_output=True, text=True, timeout=COMMAND_LIMIT_S
        )
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr[-800:]}")
        result = json.loads(out.read_text())
    return result["version"], Measured.of(result["ttft_s"], result["cpu_s"])


def _importable(module: str) -> bool:
    done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True)
    return done.returncode == 0


# -- drivers that are commands of the benchmark environment ------------------------------------


def _bench_python(venv: Path) -> Path:
    """Return the interpreter of the benchmark environment. Raises Skipped if there is none."""
    python = venv / "bin" / "python"
    if not python.exists():
        raise Skipped("its environment is missing; run `python3 -m scripts.setup bench`")
    return python


def _command(venv: Path, name: str, arguments: list[str], folder: Path) -> float:
    """Run a command of the benchmark environment; return the CPU seconds of all its processes.

    Raises Skipped if it cannot run, fails, or does not end within COMMAND_LIMIT_S.
    """
    program = _bench_python(venv).with_name(name)
    env = os.environ | _OFFLINE | {"HF_HOME": str(_hub_cache(folder))}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    log_path = folder / "log.txt"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [str(program), *arguments],
            cwd=folder,
            stdout=log,
            stderr=log,
            env=env,
            start_new_session=True,
        )
        try:
            status = process.wait(COMMAND_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise Skipped(f"it did not end within {COMMAND_LIMIT_S} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)  # workers that it may have left running
            process.wait()

    if status:
        raise Skipped(f"exit status {status}: {log_path.read_text()[-400:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# Both need a tokenizer and would download one from a model hub. aiperf gives its components 30 s
# to start, which is too short on two cores.
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "AIPERF_SERVICE_REGISTRATION_TIMEOUT": "300",
}
TOKENIZER = "lab/model"


def _hub_cache(folder: Path) -> Path:
    """Create a model hub's cache with the lab model's tokenizer, and return its folder.

    aiperf accepts only the name of a model, not a folder.
    """
    revision = "0" * 40
    model = folder / "hf" / "hub" / f"models--{TOKENIZER.replace('/', '--')}"
    snapshot = model / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(revision)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(load_settings().data_dir / "lab-model" / name, snapshot)
    return folder / "hf"


def _version(venv: Path, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version('{package}'))"
    command = [str(_bench_python(venv)), "-c", code]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _guidellm(load: Load) -> tuple[str, Measured]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = folder / "prompts.jsonl"
        with prompts.open("w") as lines:
            for number in range(load.requests):
                prompt = f"hello number {number}, how are you today?"
                lines.write(json.dumps({"prompt": prompt}) + "\n")

        arguments = [
            *("run", "--backend", f"kind=openai_http,target={load.url},model=stub"),
            *("--profile", f"kind=concurrent,streams={load.streams}"),
            *("--constraint", f"kind=max_requests,count={load.requests}"),
            *("--data", f"kind=json_file,path={prompts}"),
            *("--tokenizer", f"kind=huggingface_auto,model={TOKENIZER}"),
            *("--output", f"kind=json,path={folder / 'out.json'}", "--disable-console"),
        ]
        cpu_s = _command(load.venv, "guidellm", arguments, folder)
        result = json.loads((folder / "out.json").read_text())

    ttft = result["benchmarks"][0]["metrics"]["time_to_first_token_ms"]["successful"]
    p50_s = ttft["percentiles"]["p50"] / 1e3
    p99_s = ttft["percentiles"]["p99"] / 1e3
    return _version(load.venv, "guidellm"), Measured(p50_s, p99_s, cpu_s, ttft["count"])


def _aiperf(load: Load) -> tuple[str, Measured]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = [
            *("profile", "--model", "stub", "--url", load.url),
            *("--endpoint-type", "chat", "--streaming"),
            *("--concurrency", str(load.streams), "--request-count", str(load.requests)),
            *("--concurrency-ramp-duration", str(load.start_over_s)),
            *("--tokenizer", TOKENIZER, "--isl", "16", "--osl", str(CHUNKS)),
            *("--ui", "none", "--no-gpu-telemetry", "--no-server-metrics"),
            *("--output-artifact-dir", str(folder / "out")),
        ]
        cpu_s = _command(load.venv, "aiperf", arguments, folder)
        summary = json.loads(next((folder / "out").rglob("profile_export_aiperf.json")).read_text())

    ttft = summary["time_to_first_token"]
    requests = int(summary["request_count"]["avg"])
    measured = Measured(ttft["p50"] / 1e3, ttft["p99"] / 1e3, cpu_s, requests)
    return _version(load.venv, "aiperf"), measured


SUBJECTS = {
    "lab": lambda load: _in_process("lab", load),
    "aiohttp": lambda load: _in_process("aiohttp", load),
    "openai": lambda load: _in_process("openai", load),
    "guidellm": _guidellm,
    "aiperf": _aiperf,
}
