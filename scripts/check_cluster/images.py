"""Check that every image has a fixed version, and that it is the one in versions.env."""

from __future__ import annotations

from typing import Any

from scripts.check_cluster.paths import versions
from scripts.check_cluster.render import containers, name, pods


def check(documents: list[dict[str, Any]]) -> list[str]:
    """Return the images without a fixed version, or with one that versions.env does not list."""
    known = set(versions().values())
    used = [(name(d), c["image"]) for d, template in pods(documents) for c in containers(template)]
    used += [
        (name(d), d["spec"].get("image", ""))
        for d in documents
        if d["kind"] in ("Prometheus", "Alertmanager")
    ]
    problems = []
    for owner, image in used:
        tag = image.rpartition(":")[2] if ":" in image.rpartition("/")[2] else ""
        if not tag or tag == "latest" or not any(c.isdigit() for c in tag):
            problems.append(f"{owner}: image {image!r} has no fixed version")
        elif image not in known:
            problems.append(f"{owner}: image {image!r} is not in versions.env")
    return problems
