"""What telemetry alone shows of an agent's quality, without ground truth.

Signals of each request, how two versions differ in them, and how well each picks out the requests
that were wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lab.errors import FrameError
from lab.measures.quality import holm, wilson

SIGNALS = {
    "failed_request": "the request itself failed",
    "failed_call": "a tool call returned an error",
    "refused_call": "a call came back with nothing: it was never run",
    "malformed_call": "a tool call could not be read, or stands in the answer as text",
    "no_answer": "answered with nothing",
    "ungrounded": "a value in the answer that neither the user nor a tool has stated",
    "repetition": "the answer repeats itself",
    "cut_off": "the answer was cut off at its limit of tokens",
}
NUMBERS = {
    "calls": "tool calls per request",
    "answer_words": "words of the answer",
    "completion_tokens": "generated tokens per request",
    "turns": "model calls per request",
}
_NEEDED = (
    "status",
    "answer",
    "prompt",
    "tool_calls",
    "finish_reason",
    "session_id",
    "turn_index",
    "completion_tokens",
    "turns",
)
_WORD = re.compile(r"[\w][\w.,:/-]*")
_REPEATED = re.compile(r"(\S{2,20}?)\1{3,}|(?:\b(\w+)\b\W+)(?:\2\b\W*){3,}")


def signals(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the SIGNALS (boolean) and NUMBERS of each row of a request frame, on its index.

    Ground truth is not used. An answer may use what was stated earlier in its session. Raises
    FrameError for a frame that lacks what they need.
    """
    if missing := [name for name in _NEEDED if name not in frame]:
        raise FrameError(
            f"the frame lacks {', '.join(missing)}",
            fix="take it from lab.observe(run, settings).requests",
        )

    sessions: dict[str, list[str]] = {}  # what was stated in each so far
    rows = {}
    for row in frame.sort_values(["session_id", "turn_index"], kind="stable").itertuples():
        calls = json.loads(row.tool_calls) if isinstance(row.tool_calls, str) else row.tool_calls
        answer = "" if pd.isna(row.answer) else str(row.answer)
        stated = sessions.setdefault(row.session_id, [])
        stated += [str(row.prompt), *(_text(call.get("output")) for call in calls)]
        rows[row.Index] = _of_request(row, list(calls), answer, stated)
        stated.append(answer)

    table = pd.DataFrame(list(rows.values()), index=list(rows), columns=[*SIGNALS, *NUMBERS])
    return table.reindex(frame.index).astype(dict.fromkeys(SIGNALS, bool))


def _of_request(
    row: Any, calls: list[dict[str, Any]], answer: str, stated: list[str]
) -> dict[str, bool | int]:
    unreadable = [call for call in calls if not isinstance(call.get("arguments"), dict)]
    never_run = [call for call in calls if not call.get("error") and call.get("output") is None]
    return {
        "failed_request": row.status != "ok",
        "failed_call": any(call.get("error") for call in calls),
        "refused_call": bool(never_run),
        "malformed_call": bool(unreadable) or "<tool_call>" in answer,
        "no_answer": row.status == "ok" and not answer.strip(),
        "ungrounded": bool(ungrounded_values(answer, stated)),
        "repetition": bool(_REPEATED.search(answer)),
        "cut_off": row.finish_reason in ("incomplete", "length"),
        "calls": len(calls),
        "answer_words": len(answer.split()),
        "completion_tokens": max(0, row.completion_tokens),
        "turns": row.turns,
    }


def ungrounded_values(answer: str, sources: Iterable[str]) -> set[str]:
    """Return the values of an answer (its words with a digit) that occur in none of the sources.

    Numbers are compared as numbers. Not recognised: a wrong value that some source did state, and
    values without digits.
    """
    return _values(answer).difference(*map(_values, sources))


def _values(text: str) -> set[str]:
    words = _WORD.findall(text)
    return {_plain(word.rstrip(".,:/-")) for word in words if re.search(r"\d", word)}


def _plain(word: str) -> str:
    try:
        return f"{float(word):.10g}"
    except ValueError:
        return word.lower()


def _text(output: Any) -> str:
    if output is None:
        return ""
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


def compare_signals(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Compare the signals of two versions that answered different requests, one row per signal.

    Columns: `a`, `b` (share or mean), `test`, `p_value`, `p_holm`, `what`. In production a request
    goes to one version only, so the tests are unpaired: Fisher's exact test for shares, Mann and
    Whitney's for numbers. p is 1 where both sides are constant and equal.
    """
    rows = []
    for name, what in (SIGNALS | NUMBERS).items():
        x = a[name].to_numpy(float)
        y = b[name].to_numpy(float)
        test = "Fisher" if name in SIGNALS else "Mann-Whitney"
        if name in SIGNALS:
            counts = [[side.sum(), len(side) - side.sum()] for side in (x, y)]
            p = stats.fisher_exact(counts)[1]
        elif np.ptp(np.concatenate([x, y])) == 0:
            p = 1.0
        else:
            p = stats.mannwhitneyu(x, y).pvalue
        rows.append([name, x.mean(), y.mean(), test, float(p), what])

    columns = ["signal", "a", "b", "test", "p_value", "what"]
    table = pd.DataFrame(rows, columns=columns).set_index("signal")
    table.insert(4, "p_holm", holm(table["p_value"]))
    return table


def alert_quality(
    flags: pd.DataFrame, wrong: Sequence[bool], names: Sequence[str] = tuple(SIGNALS)
) -> pd.DataFrame:
    """Return how well each signal picks out the requests that were wrong, one row per signal.

    - `flagged`: requests that it flags; signals that flag none are left out;
    - `precision_ratio`: the share of flagged requests that were wrong;
    - `recall_ratio`: the share of wrong requests that were flagged;
    - `precision_low_ratio` and so on: their Wilson 95 % intervals.

    The last row, `any`, is all signals together.
    """
    truth = np.asarray(wrong, dtype=bool)
    raised = flags[list(names)].astype(bool)
    raised["any"] = raised.any(axis=1)
    columns = ["signal", "flagged"]
    for measure in ("precision", "recall"):
        columns += [f"{measure}_ratio", f"{measure}_low_ratio", f"{measure}_high_ratio"]

    rows = []
    for name, flag in raised.items():
        flagged = int(flag.sum())
        hits = int((flag & truth).sum())
        if flagged or name == "any":
            rows.append([name, flagged, *wilson(hits, flagged), *wilson(hits, int(truth.sum()))])
    return pd.DataFrame(rows, columns=columns).set_index("signal")
