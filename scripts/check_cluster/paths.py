"""The places of the files that are checked."""

from __future__ import annotations

from lab.settings import REPO
from lab.stack.cluster import OVERLAYS
from lab.stack.cluster.kubectl import K8S, versions

__all__ = ["K8S", "OVERLAYS", "RECORDED_METRICS", "REPO", "versions"]

RECORDED_METRICS = REPO / "data" / "recorded" / "metrics"
