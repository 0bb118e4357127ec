"""Check the lab's Dockerfile: everything it copies exists and is in the build context."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from scripts.check_cluster.paths import K8S, REPO

DOCKERFILE = K8S / "image" / "Dockerfile"


def check(dockerfile: Path = DOCKERFILE, context: Path = REPO) -> list[str]:
    """Return the sources that do not exist, and those that .dockerignore keeps out."""
    ignored = _ignored(context)
    problems = []
    for source in _sources(dockerfile.read_text()):
        if not list(context.glob(source)):
            problems.append(f"{dockerfile.name} copies {source}, which does not exist")
        elif not _kept(source.rstrip("/"), ignored):
            problems.append(f"{dockerfile.name} copies {source}, which .dockerignore keeps out")
    return problems


def _sources(text: str) -> Iterator[str]:
    """Yield the sources of COPY and ADD that come from the build context."""
    joined = re.sub(r"\\\n", " ", text)
    for line in joined.splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction.upper() in ("COPY", "ADD") and "--from=" not in rest:
            words = [word for word in rest.split() if not word.startswith("--")]
            yield from words[:-1]


def _ignored(context: Path) -> list[str]:
    path = context / ".dockerignore"
    if not path.exists():
        return []
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _kept(source: str, patterns: list[str]) -> bool:
    """Return whether a path is in the context; a later pattern overrides an earlier one."""
    kept = True
    for pattern in patterns:
        plain = pattern.removeprefix("!").strip("/")
        whole = fnmatch(source, plain) or source.startswith(f"{plain}/")
        inside = pattern.startswith("!") and plain.startswith(f"{source}/")
        if whole or inside:
            kept = pattern.startswith("!")
    return kept
