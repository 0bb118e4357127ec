"""Check what set-up needs before anything is downloaded, and report all that is missing at once."""

from __future__ import annotations

import functools
import os

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
    unavailable = set()
    for name in names:
        versions = tuple(environments.pythons_for(name))
        if versions not in unavailable:  # those that need the same versions fail together
            try:
                bases[name] = environments.base_for(builder, name)
            except SetupError as e:
                unavailable.add(versions)
                problems.append(e)
    is_light = "vllm" not in names
    space = functools.partial(check_space, needed_bytes=LIGHT_BYTES if is_light else NEEDED_BYTES)
    for requirement in (prometheus.check_available, space) if names else ():
        try:
            requirement()
        except SetupError as e:
            problems.append(e)

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


def _warn_of_little_memory() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total < STACK_MEMORY_BYTES:
        needed = f"{STACK_MEMORY_BYTES / GIB:.0f} GiB (a recording needs less than 1 GiB)"
        say("all", f"WARNING: {total / GIB:.1f} GiB of memory; the running stack takes {needed}")
