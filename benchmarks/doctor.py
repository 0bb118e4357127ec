"""`lab doctor`: the share of known faults that it finds, and its false alarms on good inputs."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field

from lab.doctor import examine
from lab.settings import REPO

DATA = REPO / "tests" / "data"
MIN_RECALL = 0.9
# Good inputs that the lab itself records or generates.
OWN = ("data/recorded/metrics/*.prom", "lab/k8s/dashboards/*.json", "lab/k8s/base")


@dataclass(frozen=True)
class Case:
    """An input, and the check that must find a fault in it; '' for a good one."""

    name: str
    check: str = ""
    targets: tuple[str, ...] = ()
    before: str = ""
    queries: tuple[str, ...] = field(default=())

    def checks(self) -> set[str]:
        """Return the checks of the doctor's findings."""
        findings = examine(self.targets, queries=self.queries, before=self.before)
        return {finding.check for finding in findings}


def cases() -> Iterator[Case]:
    """Yield every input with a known answer."""
    for path in sorted((DATA / "doctor").glob("*/*")):
        name = f"{path.parent.name}/{path.name}"
        if name == "bad/queries.tsv":
            for line in path.read_text().splitlines()[1:]:
                check, expr = line.split("\t")
                yield Case(expr, check, queries=(expr,))
            continue
        check = path.stem.partition("__")[2] if path.parent.name == "bad" else ""
        yield Case(name, check, (str(path),))
    for each in tomllib.loads((DATA / "doctor" / "cases.toml").read_text())["case"]:
        before = str(DATA / each["before"]) if "before" in each else ""
        yield Case(each["file"], each.get("check", ""), (str(DATA / each["file"]),), before)
    for pattern in OWN:
        for path in sorted(REPO.glob(pattern)):
            yield Case(str(path.relative_to(REPO)), "", (str(path),))


def main(argv: list[str]) -> list[dict[str, object]]:
    """Return recall and false alarms; write the cases that are wrong to stderr."""
    bad = found = good = alarms = 0
    for case in cases():
        checks = case.checks()
        if case.check:
            bad += 1
            found += case.check in checks
        else:
            good += 1
            alarms += bool(checks)
        if case.check not in checks and (case.check or checks):
            wrong = f"{case.name}: {case.check or 'nothing'} expected, {sorted(checks)} found"
            print(wrong, file=sys.stderr)
    return [
        {
            "subject": "lab",
            "metric": "recall",
            "value": found / bad,
            "better": "higher",
            "bound": MIN_RECALL,
            "note": f"{found} of {bad} inputs with a fault",
        },
        {
            "subject": "lab",
            "metric": "false alarms",
            "value": alarms,
            "better": "lower",
            "bound": 0,
            "note": f"of {good} good inputs",
        },
    ]


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:]), indent=1))
