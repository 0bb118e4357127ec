"""Exercises in notebooks.

An attendee's answer is checked here, and the expected value is computed here, out of sight.

A notebook hands over the answer with the data of its own run: `lab.check("01-model-calls",
model_calls, seen)`. A wrong answer gets a hint and never stops the notebook. There are five kinds:

- Exercise: a value that the run's data shows;
- Prediction: a guess before the measurement, shown beside the result;
- PromQL, TraceQL: a query, which is run against the run's own stores;
- Action: something to break;
- Graded: an answer with several parts, for points.

The score is kept in the state folder.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from lab import files
from lab.errors import LabError
from lab.exercises.judging import (
    RIGHT,
    SHARE,
    Action,
    Exercise,
    Feedback,
    Graded,
    Prediction,
    PromQL,
    TraceQL,
)
from lab.schema import Metric
from lab.settings import load_settings

__all__ = [
    "EXERCISES",
    "RIGHT",
    "SHARE",
    "Exercise",
    "Feedback",
    "Prediction",
    "check",
    "forget_score",
    "score",
]

NOT_ANSWERED = "Not answered yet: replace the ... above, then run both cells again."
SCORE_FILE = "exercises.json"
EARLIER = (
    "{right} {answer} was right for an earlier run. This run shows another value: calculate it "
    "from the variables above, and it holds for every run."
)


def check(name: str, answer: Any, *data: Any) -> Feedback:
    """Compare an answer with the one that the data gives, and return what to tell the attendee.

    `data` is what the exercise is about, as the notebook has it. `...` means not answered. Numbers,
    texts (without regard to case and outer spaces), booleans and numpy's values are accepted; a
    wrong type, a percentage instead of a share and a wrong order of magnitude are told apart from a
    wrong value. What was right in an earlier run stays right. Raises LabError for an unknown
    exercise.
    """
    if name not in EXERCISES:
        fix = f"use one of {', '.join(EXERCISES)}"
        raise LabError(f"there is no exercise {name!r}", fix=fix)
    if answer is ...:
        return Feedback(None, NOT_ANSWERED)

    feedback = EXERCISES[name].judge(answer, *data)
    given = repr(answer)[:200]
    solved = score()
    if feedback.right:
        solved[name] = sorted({given, *solved.get(name, [])})
        _keep(solved)
    elif feedback.right is False and given in solved.get(name, []):
        return Feedback(True, EARLIER.format(right=RIGHT, answer=given))
    return feedback


def score() -> dict[str, list[str]]:
    """Return {exercise: answers that were right}, as it is kept in the state folder."""
    with contextlib.suppress(TypeError, LabError):
        return {str(k): list(v) for k, v in files.read_json(_score_file()).items()}
    return {}


def forget_score() -> None:
    """Begin again with an empty score."""
    _score_file().unlink(missing_ok=True)


def _score_file() -> Path:
    """Return the file of the score: one for all places, since an attendee is one person."""
    return load_settings(running_stack=False, place="local").state_dir / SCORE_FILE


def _keep(solved: dict[str, list[str]]) -> None:
    with contextlib.suppress(LabError):  # a full disk must not stop a notebook
        files.save(_score_file(), json.dumps(solved, indent=1), LabError)


def _largest_part(parts: Any) -> str | None:
    memory = parts.set_index("part")["rss_mib"].dropna()
    return str(memory.idxmax()) if len(memory) else None


def _longest_phase(frame: Any) -> str:
    from lab.latency import phase_seconds

    return str(phase_seconds(frame).idxmax())


def _tokens_per_request(frame: Any) -> float:
    tokens = frame[["prompt_tokens", "completion_tokens"]].clip(lower=0)
    return float(tokens.sum().sum() / len(frame))


def _share_outside_vllm(frame: Any) -> float:
    inside = frame[["queue_s", "prefill_s", "decode_s", "engine_other_s"]].sum().sum()
    return float(1 - inside / frame["e2e_s"].sum())


def _times_too_high(bucketed: Any) -> float:
    row = bucketed[(bucketed["what"] == "prefill") & (bucketed["q"] == 0.95)].iloc[0]
    return float(row["bucketed_s"] / row["exact_s"])


def _knee(table: Any) -> float:
    from lab.measures import knee

    return float(knee(table)["offered_per_s"])


def _dearest_tool(by_reads: Any) -> str | None:
    costs = by_reads.set_index("reads")["machine_usd"]
    costs = costs[~costs.index.astype(str).str.startswith("(")]
    return str(costs.idxmax()) if len(costs) else None


def _grade_diagnosis(answer: Any, reveal: Any) -> tuple[int, str]:
    from lab.investigation.grading import Diagnosis, check_diagnosis, grade

    if not isinstance(answer, Diagnosis):
        got = type(answer).__name__
        raise LabError("this is not a diagnosis", got=got, fix="write investigation.Diagnosis(...)")
    check_diagnosis(answer)  # before the truth is revealed
    result = grade(answer, reveal())
    return result.score, str(result)


def _only_one_right(compared: Any) -> int:
    row = compared.loc["answer_right"]
    return int(row["only_a"] + row["only_b"])


def _has_no_tools(response: Any) -> str:
    if not hasattr(response, "output_text"):
        kind = type(response).__name__
        return f"this is a {kind}; the answer is what client.responses.create(...) returns"
    kinds = [item.type for item in response.output]
    return "the agent still had its tools" if any("mcp" in kind for kind in kinds) else ""


def _has_failed_tool(seen: Any) -> str:
    if not hasattr(seen, "requests") or not hasattr(seen, "spans"):
        return f"this is a {type(seen).__name__}; the answer is what lab.observe(...) returns"
    return "" if seen.requests["tool_failures"].sum() else "no tool failed in this run"


def _statuses(seen: Any) -> str:
    failed = seen.spans[seen.spans["name"].isin(["invoke_mcp_tool"])]
    statuses = ", ".join(sorted(set(failed["status"].astype(str)))) or "nothing"
    count = int(seen.requests["tool_failures"].sum())
    return (
        f"{count} tool calls failed, by the tool server's spans. Llama Stack's spans of the calls "
        f"have the status {statuses}: an alert on error there would not fire."
    )


def _lost_users(run: Any) -> str:
    if not hasattr(run, "records"):
        return f"this is a {type(run).__name__}; the answer is what lab.drive(...) returns"
    lost = int((run.records["status"] == "timeout").sum())
    half = len(run.records) / 2
    return "" if lost >= half else f"{lost} of {len(run.records)} requests timed out, not half"


EXERCISES: dict[str, Exercise | PromQL | TraceQL | Action | Graded] = {
    "00-most-memory": Exercise(_largest_part, "sort the table of parts by rss_mib"),
    "00-writing-tools": Exercise(
        lambda tools: tools["writes"].sum(),
        "look at the column `writes` of the table of tools",
    ),
    "00-break-tools": Action(
        _has_no_tools,
        lambda response: f"Without tools it says {response.output_text[:120]!r}.",
        "the same call as above, without `tools`",
    ),
    "01-model-calls": Exercise(
        lambda frame: frame["turns"].iloc[0], "count the llm_request spans of the service vllm"
    ),
    "01-longest-phase": Exercise(_longest_phase, "sort the table of phases by its seconds"),
    "01-prefill-share": Exercise(
        lambda frame: frame["prefill_s"].sum() / frame["e2e_s"].sum(),
        "a phase's share of the end-to-end time",
        SHARE,
        tolerance_ratio=0.1,
    ),
    "01-predict-phase": Prediction(_longest_phase, "the phases are named in the question"),
    "01-traceql-model-calls": TraceQL(
        lambda _: '{ resource.service.name = "vllm" && name = "llm_request" }',
        '`{ resource.service.name = "..." && name = "..." }`, with names of the tree above',
    ),
    "01-break-tool": Action(
        _has_failed_tool, _statuses, "drive one or two requests of kinds=['tool_error']"
    ),
    "02-requests-with-tools": Exercise(
        lambda frame: (frame["tool_runs"] > 0).sum(),
        "the column tool_runs of the request frame",
    ),
    "02-median-decode-share": Exercise(
        lambda frame: (frame["decode_s"] / frame["e2e_s"]).median(),
        "divide two columns, then take the median",
        SHARE,
    ),
    "02-promql-calls": PromQL(
        lambda seen: f"sum(rate({seen.of_vllm(Metric.REQUESTS)}[$__range]))",
        'rate() of the counter vllm:request_success_total of job="vllm" over [$__range], summed',
        "calls per second",
    ),
    "02-break-patience": Action(
        _lost_users,
        lambda run: f"{(run.records['status'] == 'timeout').mean():.0%} of the users left.",
        "lab.drive has a timeout_s; compare it with the latencies above",
    ),
    "03-tokens-per-request": Exercise(
        _tokens_per_request, "the client's totals of both kinds, by the number of requests"
    ),
    "03-slowest-kind": Exercise(
        lambda frame: str(frame.groupby("kind")["e2e_s"].mean().idxmax()),
        "group the request frame by kind",
    ),
    "03-promql-cached": PromQL(
        lambda seen: (
            f"sum(increase({seen.of_vllm('vllm:prefix_cache_hits_total')}[$__range]))"
            f" / sum(increase({seen.of_vllm('vllm:prefix_cache_queries_total')}[$__range]))"
        ),
        'two counters, vllm:prefix_cache_hits_total and ..._queries_total of job="vllm"; sum() '
        "the increase() of each, then divide",
        SHARE,
    ),
    "04-share-outside-vllm": Exercise(
        _share_outside_vllm,
        "the columns of the request frame that belong to vLLM, against e2e_s",
        SHARE,
    ),
    "04-times-too-high": Exercise(
        _times_too_high, "`bucketed_s` divided by `exact_s`, in the table `bucketed`"
    ),
    "04-prefill-of-1500-tokens": Exercise(
        lambda line: float(line.at(1500) * 1e3),
        "intercept and slope of `saved`; it is in seconds",
        "milliseconds",
    ),
    "04-promql-ttft": PromQL(
        lambda seen: (
            "histogram_quantile(0.95, sum by (le) "
            f"(rate({seen.of_vllm('vllm:time_to_first_token_seconds_bucket')}[$__range])))"
        ),
        "histogram_quantile(0.95, ...) needs the buckets' rate, summed by (le)",
        "seconds",
    ),
    "04-predict-cache": Prediction(
        lambda first, again: first["prefill_s"].median() / again["prefill_s"].median(),
        "2.0 is half the time",
        "times",
    ),
    "05-knee": Exercise(
        _knee,
        "of the steps whose `verdict` is 'keeps up', the one with the greatest "
        "answered_per_s / e2e_mean_s",
    ),
    "05-latency-at-half": Exercise(
        lambda services: services[0].open_loop_s(services[0].capacity_per_s / 2) * 1e3,
        "alone / (1 - rate · slot), and rate · slot is one half",
        "milliseconds",
    ),
    "05-good-share": Exercise(
        lambda table: table.loc[table["offered_per_s"].idxmax(), "good_ratio"],
        "the column good_ratio of sweep.table",
        SHARE,
    ),
    "05-predict-capacity": Prediction(
        lambda table: table["answered_per_s"].max(), "a number", "requests per second"
    ),
    "06-never-idle": Exercise(
        lambda bill, requests: bill["usd"][["prefill", "decode"]].sum() * 1e6 / len(requests),
        "the bill without its idle row",
        "USD",
    ),
    "06-dearest-tool": Exercise(_dearest_tool, "bill_by('reads'), without the question itself"),
    "06-predict-idle": Prediction(
        lambda bill: bill["share_ratio"]["idle"], "between 0 and 1", SHARE
    ),
    "07-only-one-right": Exercise(
        _only_one_right, "pairs on which they disagree: only_a and only_b"
    ),
    "07-faithful-but-wrong": Exercise(
        lambda frame: (frame["answer_faithful"].fillna(False) & frame["wrong"]).sum(),
        "two boolean columns; mind the missing values",
    ),
    "07-predict-canary": Prediction(
        lambda frame: frame["answer_right"].mean(), "between 0 and 1", SHARE
    ),
    "07-traceql-failed-tools": TraceQL(
        lambda _: '{ span.gen_ai.operation.name = "execute_tool" && status = error }',
        'the tool server\'s spans have gen_ai.operation.name = "execute_tool"; a failed one has '
        "status = error",
    ),
    "08-tokens-per-busy-second": Exercise(
        lambda steps, busy_s: float(steps["tokens"] / busy_s), "steps.tokens, by the busy seconds"
    ),
    "08-hungriest-part": Exercise(
        lambda by_part: str(by_part["tree_s"].idxmax()) if len(by_part) else None,
        "the column tree_s",
    ),
    "09-certain-changes": Exercise(
        lambda result: sum(abs(each.state) == 1 for each in result.observed),
        "the column `certain` of the table of changes",
    ),
    "09-onset-interval": Exercise(
        lambda result: result.onset.high - result.onset.low if result.onset else 0.0,
        "result.onset has `low` and `high`",
        "seconds",
    ),
    "10-diagnosis": Graded(
        _grade_diagnosis, "compare both times by tool, by tenant and by part, then name one cause"
    ),
}
