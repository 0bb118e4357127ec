"""`lab alerts`: which alerts fire or are pending, since when, and what to do."""

import json
from datetime import UTC, datetime

import msgspec
from rich.console import Console

from lab.command_line import Json, as_main
from lab.settings import load_settings
from lab.stores import Prometheus
from lab.stores.prometheus import Alert

FIRING = 3
RULE_LABELS = ("alertname", "severity")


def alerts(
    as_json: Json = False,
) -> int:
    """Show the alerts of Prometheus that fire or are pending.

    Exit status: 0 if none fires (one may be pending), 3 if one fires, 1 if Prometheus does not
    answer.
    """
    active = Prometheus(load_settings()).alerts()
    if as_json:
        print(json.dumps(msgspec.to_builtins(active), indent=1))
    else:
        _print(active)
    return FIRING if any(alert.state == "firing" for alert in active) else 0


def _print(active: list[Alert]) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not active:
        console.print("no alert fires or is pending")
    for alert in active:
        age = datetime.now(UTC) - alert.activeAt
        labels = {k: v for k, v in alert.labels.items() if k not in RULE_LABELS}
        of = ", ".join(f"{k} {v}" for k, v in labels.items())
        console.print(
            f"{alert.state.upper()} {alert.name} ({alert.labels.get('severity', '-')}) "
            f"since {alert.activeAt.astimezone():%H:%M:%S}, {age.total_seconds():.0f} s ago"
        )
        console.print(f"  {alert.annotations.get('summary', '')}")
        console.print(f"  value {float(alert.value):.4g}" + (f", {of}" if of else ""))
        for text in ("description", "runbook_url", "scale"):
            if text in alert.annotations:
                console.print(f"  {alert.annotations[text]}")


main = as_main(alerts, "lab alerts")
