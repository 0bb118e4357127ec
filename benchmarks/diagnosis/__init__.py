"""How often the diagnosis is right: comparisons (false alarms, power), blame, and incidents.

The requests of the first two are those of real runs in data/recorded/comparisons. Incidents are a
short live campaign on a lab of its own (a long one: `benchmarks/diagnosis/incidents.py`). `--small`
draws fewer runs, and fewer incidents. To drive the runs again, see `benchmarks/diagnosis/live.py`.
"""

from __future__ import annotations


def main(argv: list[str]) -> list[dict]:
    """Return the rows for `lab bench`."""
    # Imported here, since some of them can be run as modules of their own.
    from benchmarks.diagnosis import blame, comparisons, incidents

    small = "--small" in argv
    return comparisons.rows(small=small) + blame.rows() + incidents.rows(small=small)
