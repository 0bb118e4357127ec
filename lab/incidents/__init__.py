"""Incidents on purpose: real changes to the running lab or its traffic, with a known truth.

    start("slow_tool", settings, seed=3)    # draws strength and onset from the seed
    start("any", settings, hidden=True)     # which one is drawn too, and kept secret
    current(settings)                       # the incident now, or the last one; None before any
    stop(settings)                          # undoes it; so do `lab down` and the end of its process
    reveal(settings)                        # the truth, also of a hidden one

`INCIDENTS` describes each by name. Local labs only.
"""

from lab.incidents.catalogue import INCIDENTS, Incident
from lab.incidents.control import ANY, current, reveal, start, stop
from lab.incidents.record import Record

__all__ = ["ANY", "INCIDENTS", "Incident", "Record", "current", "reveal", "start", "stop"]
