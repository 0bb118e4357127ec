"""Exercises in notebooks.

An attendee's answer is checked here, and the expected value is computed here, out of sight.

A notebook hands over the answer with the data of its own run: `lab.check("01-model-calls",
model_calls, seen)`. A wrong answer gets a hint and never stops the notebook.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.errors import LabError

NOT_ANSWERED = "Not answered yet: replace the ... above, then run both cells again."
RIGHT = "Right."
TOLERANCE_RATIO = 0.02
SHARE = "share"  # between 0 and 1, where many would write percent


@dataclass(frozen=True)
class Exercise:
    """How an answer is checked.

    `expected(*data)` is the right one for the data of the notebook's run.

    `unit` is SHARE, or a unit for the messages. Numbers may differ by `tolerance_ratio`.
    """

    expected: Callable[..., Any]
    hint: str
    unit: str = ""
    tolerance_ratio: float = TOLERANCE_RATIO


@dataclass(frozen=True)
class Feedback:
    """The message for an attendee; `right` is None for an exercise without an answer."""

    right: bool | None
    message: str

    def __repr__(self) -> str:
        return self.message


def check(name: str, answer: Any, *data: Any) -> Feedback:
    """Compare an answer with the one that the data gives, and return what to tell the attendee.

    `data` is what the exercise is about, as the notebook has it. `...` means not answered. Numbers,
    texts (without regard to case and outer spaces), booleans and numpy's values are accepted; a
    wrong type, a percentage instead of a share and a wrong order of magnitude are told apart from a
    wrong value. Raises LabError for an unknown exercise.
    """
    if name not in EXERCISES:
        fix = f"use one of {', '.join(EXERCISES)}"
        raise LabError(f"there is no exercise {name!r}", fix=fix)
    if answer is ...:
        return Feedback(None, NOT_ANSWERED)

    exercise = EXERCISES[name]
    expected = _plain(exercise.expected(*data))
    if expected is None or expected != expected:
        return Feedback(None, f"This run has no data for this exercise. Hint: {exercise.hint}.")
    problem = _problem(_plain(answer), expected, exercise)
    if not problem:
        return Feedback(True, RIGHT)
    return Feedback(False, f"Not yet: {problem}. Hint: {exercise.hint}.")


def _plain(value: Any) -> Any:
    """Return numpy's scalars, and arrays and Series with one value, as Python's own values."""
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value


def _problem(answer: Any, expected: Any, exercise: Exercise) -> str:
    """Return what is wrong with an answer, '' for a right one."""
    if isinstance(expected, str):
        return _problem_of_text(answer, expected)
    if isinstance(answer, str):
        return "this is text; write a number, without quotes"
    if isinstance(answer, bool) or not isinstance(answer, (int, float)):
        return f"this is a {type(answer).__name__}; the answer is a single number"
    return _problem_of_number(float(answer), float(expected), exercise)


def _problem_of_text(answer: Any, expected: str) -> str:
    if not isinstance(answer, str):
        kind = type(answer).__name__
        return f"this is a {kind}; the answer is a single name, as a text in quotes"
    given = answer.strip().casefold()
    wanted = expected.strip().casefold()
    if given == wanted:
        return ""
    if given and (wanted.startswith(given) or given.startswith(wanted)):
        return f"{answer!r} is nearly it; write the whole name, exactly as in the table"
    return f"{answer!r} is not what this run shows"


def _problem_of_number(answer: float, expected: float, exercise: Exercise) -> str:
    def close(value: float) -> bool:
        return math.isclose(
            value, expected, rel_tol=max(exercise.tolerance_ratio, 1e-12), abs_tol=1e-9
        )

    if close(answer):
        return ""
    if exercise.unit == SHARE and close(answer / 100):
        return f"{answer:g} is a percentage; write it as a share (ten percent is 0.1)"
    if expected and (close(answer / 1000) or close(answer * 1000)):
        unit = f": the answer is in {exercise.unit}" if exercise.unit else ""
        return f"{answer:g} is a thousand times off{unit}"
    return (
        f"{answer:g} is not what this run shows (every run is measured anew, so calculate it from "
        "the variables above)"
    )


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


def _only_one_right(compared: Any) -> int:
    row = compared.loc["answer_right"]
    return int(row["only_a"] + row["only_b"])


EXERCISES = {
    "00-most-memory": Exercise(_largest_part, "sort the table of parts by rss_mib"),
    "00-writing-tools": Exercise(
        lambda tools: tools["writes"].sum(),
        "look at the column `writes` of the table of tools",
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
    "02-requests-with-tools": Exercise(
        lambda frame: (frame["tool_runs"] > 0).sum(),
        "the column tool_runs of the request frame",
    ),
    "02-median-decode-share": Exercise(
        lambda frame: (frame["decode_s"] / frame["e2e_s"]).median(),
        "divide two columns, then take the median",
        SHARE,
    ),
    "03-tokens-per-request": Exercise(
        _tokens_per_request, "the client's totals of both kinds, by the number of requests"
    ),
    "03-slowest-kind": Exercise(
        lambda frame: str(frame.groupby("kind")["e2e_s"].mean().idxmax()),
        "group the request frame by kind",
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
    "05-knee": Exercise(
        _knee, "answered requests per second, divided by mean latency: the greatest"
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
    "06-never-idle": Exercise(
        lambda bill, requests: bill["usd"][["prefill", "decode"]].sum() * 1e6 / len(requests),
        "the bill without its idle row",
        "USD",
    ),
    "06-dearest-tool": Exercise(_dearest_tool, "bill_by('reads'), without the question itself"),
    "07-only-one-right": Exercise(
        _only_one_right, "pairs on which they disagree: only_a and only_b"
    ),
    "07-faithful-but-wrong": Exercise(
        lambda frame: (frame["answer_faithful"].fillna(False) & frame["wrong"]).sum(),
        "two boolean columns; mind the missing values",
    ),
    "08-tokens-per-busy-second": Exercise(
        lambda steps, busy_s: float(steps["tokens"] / busy_s), "steps.tokens, by the busy seconds"
    ),
    "08-hungriest-part": Exercise(
        lambda by_part: str(by_part["tree_s"].idxmax()) if len(by_part) else None,
        "the column tree_s",
    ),
}
