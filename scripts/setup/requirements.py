"""Check what set-up needs of the machine before anything is downloaded, and report everything that is missing at once."""

from __future__ import annotations

import os
from collections.abc import Callable

from lab.errors import SetupError
from scripts.setup import environments, prometheus
from scripts.setup.places import check_space
from scripts.setup.progress import say

STACK_MEMORY_BYTES = 4 * 1024**3  # resident in a running lab, with the shared pages counted once


def check(builder: environments.Builder, names: list[str]) -> dict[str, environments.Base]:
    """Return the interpreter for each of these environments, which are to be built.

    Raises one SetupError for all that is missing: interpreters, disk space, Prometheus.
    """
    problems: list[SetupError] = []
    bases = _interpreters(builder, names, problems)
    _collect(problems, prometheus.check_available)
    if names:
        _collect(problems, check_space)
        _warn_of_little_memory()

    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise SetupError(
            f"this machine lacks {len(problems)} things that the lab needs",
            got="\n       ".join(f"{p.happened} ({p.got})" for p in problems),
            fix="\n       ".join(p.fix for p in problems),
        )
    return bases


def _interpreters(
    builder: environments.Builder, names: list[str], problems: list[SetupError]
) -> dict[str, environments.Base]:
    """Find a Python for each environment. Those that need the same versions fail together, so one is enough."""
    bases = {}
    unavailable = set()
    for name in names:
        versions = tuple(environments.pythons_for(name))
        if versions in unavailable:
            continue
        try:
            bases[name] = environments.base_for(builder, name)
        except SetupError as e:
            unavailable.add(versions)
            problems.append(e)
    return bases


def _collect(problems: list[SetupError], check: Callable[[], None]) -> None:
    try:
        check()
    except SetupError as e:
        problems.append(e)


def _warn_of_little_memory() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total < STACK_MEMORY_BYTES:
        say(
            "all",
            f"WARNING: {total / 1024**3:.1f} GiB of memory; the running stack takes "
            f"{STACK_MEMORY_BYTES / 1024**3:.0f} GiB (a recording needs less than 1 GiB)",
        )
