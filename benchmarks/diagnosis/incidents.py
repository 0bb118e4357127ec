"""A live campaign: how often is the first cause right, and what would others have said?

    python -m benchmarks.diagnosis.incidents --incidents 120 --quiet 60 --seed 9000 --out FILE

Each case drives calm load, brings an incident about (kind, strength, onset and load by its seed),
and investigates the window. The same windows are judged by what one would use otherwise: the
dashboard panel with the largest z-score, and the first alert that begins to fire. Neither names a
cause, so both are judged generously: a panel is right if it shows a metric of any signal that the
true cause changes always or often (the causes' own table), an alert if the incident declares it. As
no alert covers some incidents, its share among those that one covers is reported, too. Results are
one JSON line per case, so that a campaign can be cut off and continued.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.start_up import temporary_lab
from lab import incidents, stack
from lab.dashboards import DASHBOARDS, panels
from lab.errors import LabError
from lab.incidents import INCIDENTS
from lab.investigation import NOTHING, Rehearsal, investigate, kinds, rehearse, truth_of
from lab.investigation.change import Span
from lab.investigation.grading import GOOD_S, SAME
from lab.investigation.signals import SIGNALS
from lab.observation.window import parse_window
from lab.settings import Settings, load_settings
from lab.stores import Prometheus

QUIET = "quiet"
CALM_S, INCIDENT_S, RESTART_S = 45.0, 45.0, 75.0
RATE_PER_S = 2.0
ALREADY_S = 15.0  # an alert that fired within so many seconds before a time did not begin then
SMALL = ("slow_tool", "noisy_neighbour")
SHORT = (*SMALL, "spans_lost", "slow_embeddings", "clock_skew")
METRIC = re.compile(r"[a-z_]+:?[a-z_]{6,}")


def rows(*, small: bool) -> list[dict]:
    """Return the rows of a short campaign on a lab of its own, for `lab bench`."""
    names = [*(SMALL if small else SHORT), QUIET]
    with (
        tempfile.TemporaryDirectory(prefix="lab-bench-") as folder,
        temporary_lab(Path(folder)) as settings,
    ):
        stack.up(settings, wait_for="all")
        settings = load_settings(state_dir=settings.state_dir)
        cases = [case(settings, name, 900 + number) for number, name in enumerate(names)]
    return summary(pd.DataFrame(cases))


def case(settings: Settings, name: str, seed: int) -> dict[str, Any]:
    """Return what happened in one case and what each way said of it; `error` if it failed."""
    incident = "" if name == QUIET else name
    restarts = bool(incident) and INCIDENTS[name].restarts
    result: dict[str, Any] = {"name": name, "seed": seed}
    try:
        rehearsal = rehearse(
            settings,
            incident,
            seed=seed,
            calm_s=CALM_S,
            incident_s=RESTART_S if restarts else INCIDENT_S,
            rate_per_s=RATE_PER_S,
            load_seed=seed,
        )
        stopped_s = time.time() - rehearsal.run.window[1]
        result |= judged(settings, rehearsal) | {"stopped_s": round(stopped_s, 1)}
    except LabError as e:
        result["error"] = f"{e.happened}: {e.got}"[:300]
    stack.require(settings, wait_s=90)
    return result


def judged(settings: Settings, rehearsal: Rehearsal) -> dict[str, Any]:
    """Return the truth of a rehearsal, and what investigation, panels and alerts said."""
    began = time.monotonic()
    found = investigate(settings, rehearsal.window, rehearsal.baseline)
    result: dict[str, Any] = {
        "baseline": rehearsal.baseline,
        "window": rehearsal.window,
        "cause": found.cause,
        "where": found.where,
        "first_three": [c.name for c in found.causes[:3]],
        "onset_at": found.onset.at if found.onset else None,
        "investigated_s": round(time.monotonic() - began, 1),
        "requests": len(rehearsal.run.records),
        "driver_lag_s": float(rehearsal.run.records["lag_s"].quantile(0.99)),
        "changed": [f"{o.signal.name} {o.key}".strip() for o in found.changed if abs(o.state) == 1],
    }
    baseline = parse_window(rehearsal.baseline)
    window = parse_window(rehearsal.window)
    result["panel"], panel_metrics = loudest_panel(settings, baseline, window)
    result["alert"] = next(iter(alerts_since(settings, window[0])), "")
    if rehearsal.record is None:
        return result

    record = incidents.reveal(settings)
    truth = truth_of(record)
    shown = metrics_of(truth.what)
    return result | {
        "strength": record.strength,
        "parameters": record.parameters,
        "error": record.error,
        "true_where": truth.where,
        "true_onset_at": truth.since,
        "started_s": round((record.in_effect_at or math.nan) - truth.since, 1),
        "alerts": alerts_since(settings, record.in_effect_at or truth.since),
        "panel_right": bool(shown & panel_metrics),
        "alert_right": result["alert"] in INCIDENTS[truth.what].alerts,
    }


def metrics_of(cause: str) -> set[str]:
    """Return the metrics in the queries of the signals that a cause changes always or often."""
    predicts = kinds()[cause].predicts
    changed = {name for (name, _), how in predicts.items() if how != "never"}
    return {m for s in SIGNALS if s.name in changed for m in metrics_in(s.promql)}


def metrics_in(promql: str) -> set[str]:
    """Return the metric names in a query, without the parts of histograms."""
    names = METRIC.findall(re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", promql))
    return {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in names}


def loudest_panel(settings: Settings, baseline: Span, window: Span) -> tuple[str, set[str]]:
    """Return the panel whose mean moved most, in standard deviations of its baseline."""
    prometheus = Prometheus(settings)
    best = (0.0, "", set[str]())
    for name in DASHBOARDS:
        for panel in panels(name, range_s=60, rate_interval_s=10):
            for query in panel.queries if panel.needs in ("", "local") else ():
                z = z_score(prometheus, query.expr, baseline, window)
                if z > best[0]:
                    best = (z, f"{name}: {panel.title}", metrics_in(query.expr))
    return best[1], best[2]


def z_score(prometheus: Prometheus, expr: str, baseline: Span, window: Span) -> float:
    """Return how far an expression's mean moved (sum of its series), 0 where it cannot be told."""
    values = []
    for start, end in (baseline, window):
        try:
            answer = prometheus.range(expr, start, end, 2)
        except LabError:
            return 0.0
        points: dict[float, float] = {}
        for series in answer.metrics:
            for at, value in series["values"]:
                points[at] = points.get(at, 0.0) + float(value)
        values.append(np.array([v for v in points.values() if math.isfinite(v)]))
    if min(map(len, values)) < 5 or values[0].std() == 0:
        return 0.0
    return float(abs(values[1].mean() - values[0].mean()) / values[0].std())


def alerts_since(settings: Settings, since: float) -> dict[str, float]:
    """Return how many seconds after a time each alert began to fire, without those that did."""
    prometheus = Prometheus(settings)
    answer = prometheus.samples(
        'ALERTS{alertstate="firing"}', since - ALREADY_S, time.time(), lookback_s=0.0
    )
    begun: dict[str, float] = {}
    for series in answer.metrics:
        name = series["metric"]["alertname"]
        after_s = float(series["values"][0][0]) - since
        begun[name] = min(begun.get(name, math.inf), round(after_s, 1))
    return {name: after_s for name, after_s in sorted(begun.items(), key=_second) if after_s > 0}


def fired_in_time(case: pd.Series) -> bool:
    """Return whether all alerts that an incident declares fired as soon as it says."""
    incident = INCIDENTS[case["name"]]
    fired = case["alerts"] if isinstance(case["alerts"], dict) else {}
    return all(fired.get(name, math.inf) <= incident.alert_within_s for name in incident.alerts)


def _second(item: tuple[str, float]) -> float:
    return item[1]


def summary(cases: pd.DataFrame) -> list[dict]:
    """Return the rows for `lab bench`: shares that were right, side by side."""
    cases = cases.reindex(
        columns=list(dict.fromkeys([*cases.columns, "error", "true_onset_at", "alerts"]))
    )
    real = cases[(cases["name"] != QUIET) & cases["cause"].notna()]
    quiet = cases[(cases["name"] == QUIET) & cases["cause"].notna()]
    note = f"{len(real)} incidents, {len(quiet)} quiet windows, live"
    right = real["cause"] == real["name"]
    among = [name in three for name, three in zip(real["name"], real["first_three"], strict=True)]
    off_s = (real["onset_at"].astype(float) - real["true_onset_at"].astype(float)).abs()
    covered = real["name"].map(lambda name: bool(INCIDENTS[name].alerts))
    shares = {
        ("lab", "first_cause_right_ratio"): right,
        ("lab", "first_three_right_ratio"): pd.Series(among, dtype=bool),
        ("lab", "onset_within_15s_ratio"): off_s <= GOOD_S,
        ("panel with the largest z-score", "first_cause_right_ratio"): real["panel_right"],
        ("alert that fired first", "first_cause_right_ratio"): real["alert_right"],
        ("alert that fired first", "right_where_covered_ratio"): real["alert_right"][covered],
        ("incidents", "declared_alerts_in_time_ratio"): real[covered].apply(fired_in_time, axis=1),
    }
    result = [
        {"subject": subject, "metric": metric, "value": float(share.astype(bool).mean())}
        | {"better": "higher", "note": note}
        for (subject, metric), share in shares.items()
        if len(share)
    ]
    if len(quiet):
        false = float((quiet["cause"] != NOTHING).mean())
        row = {"subject": "lab", "metric": "false_findings_ratio", "value": false}
        result.append(row | {"better": "lower", "note": note})
    return result


def report(path: Path) -> str:
    """Return the tables of a campaign as text: shares, confusion, and the wrong cases."""
    cases = pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])
    done = cases[cases["cause"].notna()]
    confusion = pd.crosstab(done["name"], done["cause"])
    wrong = done[done["cause"] != done["name"].replace(QUIET, NOTHING)]
    columns = ["name", "seed", "strength", "cause", "where", "first_three", "changed"]
    lines = [f"{r['subject']:32} {r['metric']:26} {r['value']:.2f}" for r in summary(cases)]
    places = done[done["name"] != QUIET]
    where = places["where"].replace(SAME) == places["true_where"]
    lines.append(f"{'lab':32} {'where_right_ratio':26} {where.mean():.2f}")
    parts = ["\n".join(lines), confusion.to_string(), wrong.reindex(columns=columns).to_string()]
    failed = cases[cases["cause"].isna()]
    if len(failed):
        parts.append(failed[["name", "seed", "error"]].to_string())
    return "\n\n".join(parts)


def main(argv: list[str]) -> int:
    """Run a campaign on the lab that is up, or print the tables of one."""
    parser = argparse.ArgumentParser(prog="benchmarks.diagnosis.incidents", description=__doc__)
    parser.add_argument("--incidents", type=int, default=0)
    parser.add_argument("--quiet", type=int, default=0)
    parser.add_argument("--seed", type=int, default=9000)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no case after this time")
    parser.add_argument("--only", nargs="*", default=sorted(INCIDENTS), help="incidents to draw")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)

    random = Random(options.seed)
    names: list[str] = []
    while len(names) < options.incidents:
        names += random.sample(options.only, len(options.only))
    names = names[: options.incidents] + [QUIET] * options.quiet
    random.shuffle(names)
    began = time.monotonic()
    settings = load_settings()
    for number, name in enumerate(names):
        if time.monotonic() - began > 60 * options.minutes:
            break
        result = case(settings, name, options.seed + number)
        print(result, flush=True)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result, default=str) + "\n")
    if options.out.exists():
        print(report(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
