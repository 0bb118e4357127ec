"""`lab up`, `status` and `down` with `--place cluster`."""

from __future__ import annotations

from rich.console import Console

from lab.settings import ENDPOINTS, load_settings
from lab.stack import cluster
from lab.stack.cluster.rollout import ProgressLines


def stand_up(context: str, overlay: str) -> None:
    """Check the cluster, stand the overlay up with progress, print where everything is."""
    settings = load_settings(place="cluster")
    console = Console()
    context = context or settings.cluster_context
    overlay = overlay or settings.cluster_overlay

    for finding in cluster.preflight(settings, context, overlay):
        mark = "[red]missing[/]" if finding.required else "[yellow]careful[/]"
        mark = "[green]good[/]" if finding.ok else mark
        fix = "" if finding.ok else f"; fix: {finding.fix}"
        line = f"  {mark} {finding.name}: {finding.found}{fix}"
        console.print(line, highlight=False, soft_wrap=True)

    endpoints = cluster.up(settings, context, overlay, ProgressLines())
    for name, url in sorted(endpoints.items()):
        line = f"  {name:<14}{url:<36}[dim]{ENDPOINTS[name]}[/dim]"
        console.print(line, highlight=False, soft_wrap=True)


def take_down(context: str) -> None:
    """Take it down and print what was removed."""
    settings = load_settings(place="cluster", running_stack=False)
    removed = cluster.down(settings, context or settings.cluster_context)
    lines = "\n".join(f"removed {name}" for name in removed)
    print(lines or "there was nothing of the lab in that cluster")


def show_status(context: str) -> int:
    """Print one line per workload. Returns 1 if one is not ready or there is none."""
    settings = load_settings(place="cluster")
    rows = cluster.status(settings, context or settings.cluster_context)
    for r in rows:
        state = "ready" if r.ready else "NOT READY"
        print(f"{state:<10}{r.namespace:<14}{r.kind:<12}{r.name:<18}{r.progress}  {r.why}")
    if not rows:
        print("no lab is in that cluster")
    return 0 if rows and all(r.ready for r in rows) else 1
