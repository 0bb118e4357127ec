"""Check the lab's Dockerfile: everything it copies exists and is in the build context."""

import re
from pathlib import Path

from pathspec import PathSpec

from tests.k8s.checks.render import K8S, REPO

DOCKERFILE = K8S / "image" / "Dockerfile"
_COPY = re.compile(r"^\s*(?:COPY|ADD)\s+(?!.*--from=)(.+)$", re.I | re.M)


def check(dockerfile: Path = DOCKERFILE, context: Path = REPO) -> list[str]:
    """Return the sources that do not exist, and those that .dockerignore keeps out."""
    ignore = context / ".dockerignore"
    patterns = ignore.read_text().splitlines() if ignore.exists() else []
    ignored = PathSpec.from_lines("gitignore", patterns)
    problems = []
    for copied in _COPY.findall(dockerfile.read_text().replace("\\\n", " ")):
        *sources, _ = [word for word in copied.split() if not word.startswith("--")]
        for source in sources:
            paths = [path.relative_to(context) for path in context.glob(source)]
            below = [file for path in paths for file in (context / path).rglob("*")]
            files = [file.relative_to(context) for file in below] or paths
            if not paths:
                problems.append(f"{dockerfile.name} copies {source}, which does not exist")
            elif not list(ignored.match_files(files, negate=True)):
                problems.append(f"{dockerfile.name} copies {source}, which .dockerignore keeps out")
    return problems
