"""What changed, when, where, and why: from a window of telemetry and a baseline.

    result = investigate(settings, "last 5m")                # the time before it is the baseline
    print(result)                                            # three sentences
    result.changed, result.causes, result.onset, result.notes
    as_markdown(result), as_html(result)                     # a report to hand over, by role

Signals (signals.py) are compared between both times; causes (causes.toml) are ranked by what each
would change. Both are tables: a new one is a row.
"""

from lab.investigation.causes import NOTHING, Cause, kinds, rank
from lab.investigation.evidence import Evidence, gather
from lab.investigation.grading import (
    Diagnosis,
    Grade,
    Truth,
    grade,
    save_score,
    score_line,
    scoreboard,
)
from lab.investigation.investigating import Investigation, diagnosis_of, investigate, judge
from lab.investigation.rehearsal import Rehearsal, rehearse, truth_of
from lab.investigation.report import as_html, as_markdown, causes_table, changes_table

__all__ = [
    "NOTHING",
    "Cause",
    "Diagnosis",
    "Evidence",
    "Grade",
    "Investigation",
    "Rehearsal",
    "Truth",
    "as_html",
    "as_markdown",
    "causes_table",
    "changes_table",
    "diagnosis_of",
    "gather",
    "grade",
    "investigate",
    "judge",
    "kinds",
    "rank",
    "rehearse",
    "save_score",
    "score_line",
    "scoreboard",
    "truth_of",
]
