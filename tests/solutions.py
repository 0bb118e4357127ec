"""Provide reference solutions of the notebooks' exercises, and notebooks that contain them.

Each solution is an expression in the variables of its notebook, calculated in another way than in
`lab.exercises`.
"""

from __future__ import annotations

from pathlib import Path

import nbformat

from lab.exercises import RIGHT
from scripts.notebook_rules import answers_in, exercises_in

SOLUTIONS = {
    "00-most-memory": "parts.sort_values('rss_mib').part.iloc[-1]",
    "00-writing-tools": "len(tools[tools.writes])",
    "00-break-tools": "client.responses.create(model=model, input=question, temperature=0.0)",
    "01-model-calls": "int(((tree.name == 'llm_request') & (tree.service == 'vllm')).sum())",
    "01-longest-phase": "phases.sort_values('seconds').index[-1]",
    "01-prefill-share": "phases.share['prefill_s']",
    "01-predict-phase": "'decode_s'",
    "01-traceql-model-calls": """'{ resource.service.name = "vllm" && kind = server }'""",
    "01-break-tool": (
        "lab.observe(lab.drive(settings, n_requests=2, kinds=['tool_error'], progress=False),"
        " settings)"
    ),
    "02-requests-with-tools": "len(frame.query('tool_runs > 0'))",
    "02-median-decode-share": "(frame.decode_s / frame.e2e_s).dropna().quantile(0.5)",
    "02-promql-calls": (
        """'sum(increase(vllm:request_success_total{job="vllm"}[$__range]))'"""
        " + f' / {seen.scraped_until - seen.run.window[0]}'"
    ),
    "02-break-patience": (
        "lab.drive(settings, n_requests=8, rate_per_s=4.0, timeout_s=0.05, progress=False)"
    ),
    "03-tokens-per-request": "all_tokens / len(frame)",
    "03-slowest-kind": "frame.groupby('kind').e2e_s.mean().sort_values().index[-1]",
    "03-promql-cached": (
        """'sum(rate(vllm:prefix_cache_hits_total{job="vllm"}[$__range]))'"""
        """' / sum(rate(vllm:prefix_cache_queries_total{job="vllm"}[$__range]))'"""
    ),
    "04-share-outside-vllm": (
        "1 - (turns[['queue_s', 'prefill_s', 'decode_s']].sum().sum()"
        " + frame.engine_other_s.sum()) / frame.e2e_s.sum()"
    ),
    "04-times-too-high": (
        "bucketed[(bucketed.what == 'prefill') & (bucketed.q == 0.95)].error_ratio.iloc[0] + 1"
    ),
    "04-prefill-of-1500-tokens": "(saved.intercept + 1500 * saved.per_x) * 1e3",
    "04-predict-cache": "3.0",
    "04-promql-ttft": (
        "'histogram_quantile(0.95, sum without (instance, engine, model_name) ('"
        """'increase(vllm:time_to_first_token_seconds_bucket{job="vllm"}[$__range])))'"""
    ),
    "05-knee": (
        "sweep.table[sweep.table.verdict == 'keeps up']"
        ".eval('power = answered_per_s / e2e_mean_s')"
        ".sort_values('power').offered_per_s.iloc[-1]"
    ),
    "05-latency-at-half": "2 * services[0].alone_s * 1e3",
    "05-good-share": "sweep.table.sort_values('offered_per_s').good_ratio.iloc[-1]",
    "05-predict-capacity": "137.0",
    "06-never-idle": (
        "(1 - bill.share_ratio['idle']) * run.duration_s / 3600 * usd_per_hour / len(frame) * 1e6"
    ),
    "06-dearest-tool": (
        "turns[~turns.reads.str.startswith('(')].groupby('reads')"
        "[['prefill_share_s', 'decode_share_s']].sum().sum(axis=1).idxmax()"
    ),
    "06-predict-idle": "0.9",
    "07-only-one-right": (
        "int((pairs['a', 'answer_right'] != pairs['b', 'answer_right']).fillna(False).sum())"
    ),
    "07-faithful-but-wrong": (
        "int((other.answer_faithful.fillna(False) & ~other.answer_right).sum())"
    ),
    "07-predict-canary": "0.5",
    "07-traceql-failed-tools": (
        """'{ resource.service.name = "lab-tools" && name =~ "execute_tool .*" '"""
        "'&& status = error }'"
    ),
    "08-tokens-per-busy-second": "steps.tokens_per_step * steps.steps / busy_s",
    "08-hungriest-part": "by_part.sort_values('tree_s').index[-1]",
    "09-certain-changes": "int(changes.certain.sum())",
    "09-onset-interval": "result.onset.high - result.onset.low if result.onset else 0",
    "10-diagnosis": (
        "(lambda t: investigation.Diagnosis(t.what, t.where, t.since, t.how_much))"
        "(investigation.truth_of(incidents.reveal(settings)))"
    ),
}


def solved(notebook: Path, folder: Path) -> Path:
    """Write a copy of a notebook with the reference solutions instead of `...`; return its path."""
    content = nbformat.read(notebook, as_version=4)
    for name, index in answers_in(content.cells).items():
        cell = content.cells[index]
        cell.source = cell.source.replace("...", SOLUTIONS[name])
    copy = folder / notebook.name
    nbformat.write(content, copy)
    return copy


def verdicts_of(executed: Path) -> dict[str, str]:
    """Return {name of an exercise: output of its check} of an executed notebook."""
    content = nbformat.read(executed, as_version=4)
    verdicts = {}
    for name, index in exercises_in(content.cells).items():
        outputs = content.cells[index].outputs
        verdicts[name] = outputs[0].data["text/plain"] if outputs else ""
    return verdicts


def not_right(executed: Path) -> dict[str, str]:
    """Return the exercises of an executed notebook whose check does not say right.

    A prediction shows what was measured instead.
    """
    return {
        name: text
        for name, text in verdicts_of(executed).items()
        if not text.startswith("Predicted" if "-predict-" in name else RIGHT)
    }
