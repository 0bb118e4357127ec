"""`python3 -m scripts.setup [light] [bench] [ogx]`: set up what is missing, silent if nothing is.

`light` leaves out vLLM and the models' data: enough to work with a recording, or to analyse servers
that run elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

from lab.environment import command_hint
from lab.errors import LabError, SetupError
from scripts.setup import environments, getuv, pip_config, places, prometheus, requirements, tools
from scripts.setup.environments import wheels_in
from scripts.setup.interpreters import output_of
from scripts.setup.places import VENVS, make_root
from scripts.setup.progress import base_environment, end_children, say


def main() -> int:
    """Return 0 when everything is ready, 1 after an error that names its fix, 130 after Ctrl-C."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        make_root()
        has_gpu = output_of("nvidia-smi", "-L").startswith("GPU")
        build = environments.vllm_build_for(has_gpu, os.environ.get("LAB_VLLM_BUILD", ""))
        with _alone():
            done = _set_up(build, sys.argv[1:])
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


def _set_up(build: str, extra: list[str]) -> list[str]:
    """Build what is missing, and return its names."""
    names = _names_of(build, extra)
    digests = environments.digests(build)
    missing = [name for name in names if not places.is_ready(VENVS / name, digests[name])]
    known = tools.read_tools()
    if not missing and prometheus.is_complete(known):
        tools.write_tools({tool: known[tool] for tool in prometheus.TOOLS}, build, known["uv"])
        return []

    uv = getuv.get_uv()
    env = base_environment()
    env.update(pip_config.uv_variables(pip_config.pip_settings(), env))
    wheels = wheels_in(pip_config.local_folders(env.get("UV_FIND_LINKS", "")))
    builder = environments.Builder(uv, env, build, wheels)
    bases = requirements.check(builder, missing)
    with ThreadPoolExecutor(len(missing) + 1) as pool:
        found = pool.submit(prometheus.find_tools)
        builds = [
            pool.submit(environments.BUILDS[name], builder, digests[name], bases[name])
            for name in missing
        ]
        _wait_for_all([found, *builds])
    tools.write_tools(found.result(), build, uv)
    return [*missing, "prometheus"]


def _names_of(build: str, extra: list[str]) -> list[str]:
    """Return the environments to have, with `extra` from the command line."""
    if unknown := set(extra) - {*environments.OPTIONAL, "light"}:
        raise SetupError(
            "set-up has no such part",
            got=", ".join(sorted(unknown)),
            fix=f"name nothing, light, or {' or '.join(environments.OPTIONAL)}",
        )

    names = list(environments.LIGHT if "light" in extra else environments.ALWAYS)
    if build == "cuda" and "light" not in extra:
        extra = [*extra, "gpu"]  # the exporter of the GPU that vLLM will use
    return names + [name for name in environments.OPTIONAL if name in extra]


def _wait_for_all(futures: list[Future]) -> None:
    """Wait for all; the first that fails, or an interruption, ends the others."""
    try:
        done, rest = wait(futures, return_when=FIRST_EXCEPTION)
        if failed := next((f.exception() for f in done if f.exception()), None):
            end_children()
            wait(rest)
            raise failed
    except KeyboardInterrupt:
        end_children()
        raise


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Run one set-up at a time in one checkout."""
    with open(VENVS / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("all", "another set-up is running in this checkout; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
