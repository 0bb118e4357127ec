"""Doctor: whether telemetry is true, that is, says what its readers take it for.

findings = lab.doctor.examine(["http://prometheus:9090", "dashboard.json"])

A target is a Prometheus, a Tempo, a /metrics page (address or file), OTLP JSON, a dashboard, rules,
a KEDA trigger, manifests, or a folder of such files. Queries are checked against the series of the
pages and stores that are examined with them, or against the engines' own names.
"""

from __future__ import annotations

from collections.abc import Sequence

from lab.doctor.findings import Check, Finding, checks
from lab.doctor.manifests import check_manifests
from lab.doctor.queries import Query, check_query
from lab.doctor.targets import Subject, known_in, read_target
from lab.errors import LabError
from lab.settings import Settings, hide_password, load_settings

__all__ = ["Check", "Finding", "checks", "examine"]


# What a value of another type than its kind has raises where it is used.
MISSHAPEN = (AttributeError, IndexError, KeyError, TypeError, ValueError)
SHAPE_FIX = "validate it with the program that reads it (kubectl, promtool, Grafana)"


def misshapen(error: Exception) -> str:
    """Return what is known of a document whose values do not have the types of its kind."""
    return f"a value has another type than its kind has: {type(error).__name__}: {error}"


def examine(
    targets: Sequence[str],
    settings: Settings | None = None,
    *,
    queries: Sequence[str] = (),
    before: str = "",
    window: str = "last 15m",
) -> list[Finding]:
    """Return all faults of these targets and PromQL expressions, errors first.

    `before` is an earlier page of the same target, with which a page is compared; `window` is what
    of a store is examined. A target that cannot be read is a finding, too ('unreadable').
    """
    settings = settings or load_settings()
    findings: list[Finding] = []
    subjects = [each for target in targets for each in _read(target, settings, before, window)]
    subjects.append(Subject(queries=[Query("query", "", expr) for expr in queries]))

    known = known_in(subjects)
    documents = []
    for subject in subjects:
        documents += subject.documents
        findings += subject.findings
        findings += [each for query in subject.queries for each in check_query(query, known)]
    files = ", ".join(target for target in targets if "://" not in target)
    try:
        findings += check_manifests(documents, files)
    except MISSHAPEN as e:
        findings.append(Finding("unreadable", files, "", misshapen(e), SHAPE_FIX))
    return sorted(dict.fromkeys(findings), key=lambda each: each.level)


def _read(target: str, settings: Settings, before: str, window: str) -> list[Subject]:
    """Return what a target holds; of one that cannot be read, the finding that it cannot."""
    try:
        return list(read_target(target, settings, before, window))
    except MISSHAPEN as e:
        evidence = misshapen(e)
        fix = SHAPE_FIX
    except LabError as e:
        evidence = f"{e.happened}: {e.got}" if e.got else e.happened
        fix = e.fix
    return [Subject([Finding("unreadable", hide_password(target), "", evidence, fix)])]
