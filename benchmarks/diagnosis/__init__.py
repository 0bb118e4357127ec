"""How often the diagnosis is right: comparisons (false alarms, power, guilty phase) and blame.

The requests are those of real runs in data/recorded/comparisons; nothing is sent. `--small` draws
fewer runs. To drive the runs again, see `benchmarks/diagnosis/live.py`.
"""

from __future__ import annotations

from benchmarks.diagnosis import blame, comparisons


def main(argv: list[str]) -> list[dict]:
    """Return the rows for `lab bench`."""
    return comparisons.rows(small="--small" in argv) + blame.rows()
