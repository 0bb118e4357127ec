r"""Packages that Grafana publishes read the store's answers.

Opt-in: `LAB_GRAFANA_MODULES` names a folder in which this command has run:

    npm install --ignore-scripts --legacy-peer-deps @grafana/lezer-traceql@1.0.0 \
        @grafana/o11y-ds-frontend@13.2.1 react@18 react-dom@18

The transforms of the Tempo data source itself are not published.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tracestore.conftest import Running
from tests.tracestore.tempo_cases import corpus_at, load, now_t0_s, trace_ids

_SCRIPT = Path(__file__).with_name("grafana_client.cjs")
_MODULES = os.environ.get("LAB_GRAFANA_MODULES", "")

# Newer than the published grammar, which is for highlighting.
_UNKNOWN_TO_THE_GRAMMAR = (
    "compare(",
    "nil !=",
    ".5",
    ".9",
    "topk",
    "exemplars=",
    "most_recent",
    "nestedSet",
)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.skipif(not _MODULES, reason="LAB_GRAFANA_MODULES does not name a folder of packages")
def test_grafanas_packages_read_the_answers(running: Running) -> None:
    """Traces, nested sets, series and queries are accepted by Grafana's code."""
    t0_s = now_t0_s()
    body = json.dumps(corpus_at(t0_s * 10**9)).encode()
    assert running.export(body, Content_Type="application/json").status_code == 200

    answers = load("answers")
    accepted = [
        q
        for kind in ("search", "range", "instant")
        for q, a in answers[kind].items()
        if a["status"] == 200
    ]
    window = {"start": str(t0_s - 5), "end": str(t0_s + 80)}
    roots = "{ nestedSetParent<0 && true }"
    selected = "select(status, nestedSetParent, nestedSetLeft, nestedSetRight)"
    job = {
        "url": str(running.tempo.base_url).rstrip("/"),
        "trace": trace_ids()[1],
        "queries": accepted,
        "search": {
            "q": f"({roots} &>> {{ kind = server }}) || ({roots}) | {selected}",
            "limit": "100",
            "spss": "100",
            **window,
        },
        "range": {"q": f"{roots} | count_over_time() by (name)", "step": "10s", **window},
    }
    ended = subprocess.run(
        ["node", str(_SCRIPT)], input=json.dumps(job), capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)

    unparsed = [
        q for q in report["unparsed"] if not any(part in q for part in _UNKNOWN_TO_THE_GRAMMAR)
    ]
    assert unparsed == []
    assert report["trace"] == {"spans": 12, "nodes": 12, "edges": 11, "badColours": 0}
    assert report["search"]["traces"] == report["search"]["roots"] == 60
    assert report["search"]["nested"] == report["search"]["spans"] > 200
    assert report["range"] == {"series": 1, "samples": report["range"]["samples"], "total": 60}
