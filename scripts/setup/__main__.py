"""`python3 -m scripts.setup [bench]`: set up what is missing, and say nothing when nothing is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from lab.environment import command_hint
from lab.errors import LabError, SetupError
from scripts.setup import (
    environments,
    getuv,
    piplike,
    prometheus,
    requirements,
    stamp,
    tools,
    torch,
)
from scripts.setup.places import VENVS, make_root
from scripts.setup.progress import base_environment, end_children, say


def main() -> int:
    """0 when everything is ready; 1 with an error that says what to do; 130 when interrupted."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        make_root()
        build = environments.vllm_build_for(_has_nvidia_gpu(), os.environ.get("LAB_VLLM_BUILD", ""))
        with _alone():
            done = _set_up(build, _asked(sys.argv[1:]))
    except LabError as e:
        end_children()
        print(f"\nSet-up failed: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        end_children()
        print(
            "\nSet-up was interrupted. What was half done does not count; run it again to go on.",
            file=sys.stderr,
        )
        return 130
    if done:
        say("all", f"ready in {time.monotonic() - started:.0f} s: " + ", ".join(done))
        if hint := command_hint(VENVS / "lab" / "bin"):
            print(hint, file=sys.stderr)
    return 0


def _asked(names: list[str]) -> tuple[str, ...]:
    unknown = set(names) - {"bench"}
    if unknown:
        raise SetupError(
            f"set-up knows no {', '.join(sorted(unknown))}", fix="name nothing, or `bench`"
        )
    return (*environments.ALWAYS, *names)


def _set_up(build: str, names: tuple[str, ...]) -> list[str]:
    """Do what is missing of `names`; returns what was."""
    wanted = environments.digests(build)
    missing = [name for name in names if not stamp.is_ready(VENVS / name, wanted[name])]
    known = tools.read_tools()
    if not missing and known and all(Path(known.get(t, "")).is_file() for t in prometheus.TOOLS):
        tools.write_tools({t: known[t] for t in prometheus.TOOLS}, build, known["uv"])
        return []
    uv = getuv.get_uv()
    builder = _builder(uv, build)
    bases = requirements.check(builder, missing)
    with ThreadPoolExecutor(len(missing) + 1) as pool:
        found = pool.submit(prometheus.find_tools)
        builds = [
            pool.submit(environments.BUILDS[name], builder, wanted[name], bases[name])
            for name in missing
        ]
        _all_of([found, *builds])
    tools.write_tools(found.result(), build, uv)
    return [*missing, "prometheus"]


def _builder(uv: str, build: str) -> environments.Builder:
    pip, env = piplike.pip_settings(), base_environment()
    env.update(piplike.uv_variables(pip, env))
    folders = piplike.local_folders(env.get("UV_FIND_LINKS", ""))
    return environments.Builder(uv, env, build, torch.wheels_in(folders))


def _all_of(futures: list) -> None:
    """Wait for all; the first that fails ends the others."""
    try:
        done, rest = wait(futures, return_when=FIRST_EXCEPTION)
        failed = next((f.exception() for f in done if f.exception()), None)
        if failed:
            end_children()
            wait(rest)
            raise failed
    except KeyboardInterrupt:
        end_children()
        raise


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One set-up at a time in one checkout."""
    with open(VENVS / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("all", "another set-up is running in this checkout; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _has_nvidia_gpu() -> bool:
    if not shutil.which("nvidia-smi"):
        return False
    try:
        return subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, timeout=30
        ).stdout.startswith(b"GPU")
    except subprocess.TimeoutExpired:
        return False


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
