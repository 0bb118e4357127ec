"""What telemetry alone shows of an agent's quality, without ground truth: signals of each request, how two versions
differ in them, and how well each picks out the requests that were wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lab.errors import FrameError
from lab.measures.quality import wilson
from lab.measures.quality_paired import holm

SIGNALS = {
    "failed_request": "the request itself failed",
    "failed_call": "a tool call returned an error",
    "refused_call": "a call came back with nothing: it was never run",
    "malformed_call": "a tool call could not be read, or stands in the answer as text",
    "no_answer": "answered with nothing",
    "ungrounded": "a value in the answer that neither the user nor a tool has said",
    "repetition": "the answer repeats itself",
    "cut_off": "the answer was cut off at its limit of tokens",
}
NUMBERS = {
    "calls": "tool calls a request",
    "answer_words": "words of the answer",
    "completion_tokens": "generated tokens a request",
    "turns": "model calls a request",
}
_WORD = re.compile(r"[\w][\w.,:/-]*")
_REPEATED = re.compile(r"(\S{2,20}?)\1{3,}|(?:\b(\w+)\b\W+)(?:\2\b\W*){3,}")


def signals(frame: pd.DataFrame) -> pd.DataFrame:
    """The SIGNALS (boolean) and NUMBERS of each row of a request frame, on its index. No scenario is looked at.

    An answer may use what was said earlier in its session. Raises FrameError for a frame that lacks what they need.
    """
    needed = (
        "status",
        "answer",
        "prompt",
        "tool_calls",
        "finish_reason",
        "session_id",
        "turn_index",
    )
    if missing := [name for name in (*needed, "completion_tokens", "turns") if name not in frame]:
        raise FrameError(
            f"the frame lacks {', '.join(missing)}",
            fix="take it from lab.observe(run, settings).requests",
        )
    said: dict[str, list[str]] = {}
    rows = {}
    for row in frame.sort_values(["session_id", "turn_index"], kind="stable").itertuples():
        calls, answer = _calls(row.tool_calls), "" if pd.isna(row.answer) else str(row.answer)
        heard = said.setdefault(row.session_id, [])
        heard += [str(row.prompt), *(_text(c.get("output")) for c in calls)]
        rows[row.Index] = _of_one(row, calls, answer, heard)
        heard.append(answer)
    found = pd.DataFrame.from_dict(rows, orient="index", columns=[*SIGNALS, *NUMBERS]).reindex(
        frame.index
    )
    return found.astype(dict.fromkeys(SIGNALS, bool))


def _of_one(row: Any, calls: list[dict[str, Any]], answer: str, heard: list[str]) -> list[Any]:
    ok = row.status == "ok"
    unreadable = (
        any(not isinstance(c.get("arguments"), dict) for c in calls) or "<tool_call>" in answer
    )
    never_run = any(not c.get("error") and c.get("output") is None for c in calls)
    return [
        not ok,
        any(bool(c.get("error")) for c in calls),
        never_run,
        unreadable,
        ok and not answer.strip(),
        bool(ungrounded_values(answer, heard)),
        bool(_REPEATED.search(answer)),
        row.finish_reason in ("incomplete", "length"),
        len(calls),
        len(answer.split()),
        max(0, row.completion_tokens),
        row.turns,
    ]


def ungrounded_values(answer: str, sources: Iterable[str]) -> set[str]:
    """The values of an answer (its words with a digit in them) that stand in none of the sources.

    Numbers are compared as numbers. What it cannot see: a wrong value that somebody did say, and values without digits.
    """
    there = {v for text in sources for v in _values(text)}
    return _values(answer) - there


def _values(text: str) -> set[str]:
    return {
        _plain(word.rstrip(".,:/-"))
        for word in _WORD.findall(text)
        if any(c.isdigit() for c in word)
    }


def _plain(word: str) -> str:
    try:
        return f"{float(word):.10g}"
    except ValueError:
        return word.lower()


def _calls(calls: Any) -> list[dict[str, Any]]:
    return json.loads(calls) if isinstance(calls, str) else list(calls)


def _text(output: Any) -> str:
    if output is None:
        return ""
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


def compare_signals(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """The signals of two versions, one row each, as somebody without pairs must compare them: `a`, `b` (share or mean),
    `test`, `p_value`, `p_holm`, `what`.

    In production a request goes to one version only. Shares: Fisher's exact test; numbers: Mann and Whitney's. Where
    both sides are constant and alike there is nothing to test: p is 1.
    """
    rows = []
    for name, what in (SIGNALS | NUMBERS).items():
        x, y = a[name].to_numpy(float), b[name].to_numpy(float)
        if name in SIGNALS:
            p, test = (
                stats.fisher_exact([[x.sum(), len(x) - x.sum()], [y.sum(), len(y) - y.sum()]])[1],
                "Fisher",
            )
        else:
            same = np.ptp(np.concatenate([x, y])) == 0
            p, test = (1.0 if same else stats.mannwhitneyu(x, y).pvalue), "Mann-Whitney"
        rows.append([name, x.mean(), y.mean(), test, float(p), what])
    table = pd.DataFrame(rows, columns=["signal", "a", "b", "test", "p_value", "what"]).set_index(
        "signal"
    )
    table.insert(4, "p_holm", holm(table["p_value"]))
    return table


def alert_quality(
    flags: pd.DataFrame, wrong: Sequence[bool], names: Sequence[str] = tuple(SIGNALS)
) -> pd.DataFrame:
    """How well each signal picks out the requests that were wrong, one row each, those that flag any.

    `flagged`; `precision_ratio`: the share of flagged requests that were wrong; `recall_ratio`: the share of wrong
    requests that were flagged; each with Wilson's 95 % interval. The last row, `any`, is all signals together.
    """
    truth = np.asarray(wrong, dtype=bool)
    columns = {name: flags[name].to_numpy(bool) for name in names}
    columns["any"] = np.column_stack(list(columns.values())).any(axis=1)
    rows = []
    for name, flag in columns.items():
        if not flag.any() and name != "any":
            continue
        hit = int((flag & truth).sum())
        rows.append(
            [name, int(flag.sum()), *wilson(hit, int(flag.sum())), *wilson(hit, int(truth.sum()))]
        )
    names_ = [
        f"{m}_{end}"
        for m in ("precision", "recall")
        for end in ("ratio", "low_ratio", "high_ratio")
    ]
    return pd.DataFrame(rows, columns=["signal", "flagged", *names_]).set_index("signal")
