"""Check what set-up needs before anything is downloaded, and report all that is missing at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from lab.errors import SetupError
from scripts.setup import environments, prometheus
from scripts.setup.places import GIB, LIGHT_BYTES, NEEDED_BYTES, check_space
from scripts.setup.progress import say

STACK_MEMORY_BYTES = 4 * GIB  # resident in a running lab, with shared pages counted once


def check(builder: environments.Builder, names: list[str]) -> dict[str, environments.Base]:
    """Return the interpreter for each of these environments, which are to be built.

    Raises one SetupError for all that is missing: interpreters, Prometheus, disk space.
    """
    problems: list[SetupError] = []
    bases: dict[str, environments.Base] = {}
    by_versions: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        by_versions.setdefault(tuple(environments.pythons_for(name)), []).append(name)
    for needing_the_same in by_versions.values():  # they fail together
        with _collected(problems):
            for name in needing_the_same:
                bases[name] = environments.base_for(builder, name)

    is_light = "vllm" not in names
    if names:
        with _collected(problems):
            prometheus.check_available()
        with _collected(problems):
            check_space(needed_bytes=LIGHT_BYTES if is_light else NEEDED_BYTES)
    if not is_light:
        _warn_of_little_memory()
    if len(problems) > 1:
        raise SetupError(
            f"this machine lacks {len(problems)} things that the lab needs",
            got="\n       ".join(f"{p.happened} ({p.got})" for p in problems),
            fix="\n       ".join(p.fix for p in problems),
        )
    if problems:
        raise problems[0]
    return bases


@contextlib.contextmanager
def _collected(problems: list[SetupError]) -> Iterator[None]:
    """Append the error of the block to `problems`, if it raises one."""
    try:
        yield
    except SetupError as e:
        problems.append(e)


def _warn_of_little_memory() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total < STACK_MEMORY_BYTES:
        needed = f"{STACK_MEMORY_BYTES / GIB:.0f} GiB (a recording needs less than 1 GiB)"
        say("all", f"WARNING: {total / GIB:.1f} GiB of memory; the running stack takes {needed}")
