"""Tool calls: one row per call, with its arguments and whether it failed, wherever that is written.

The status of a span often hides a failure: MCP reports a tool's error in its result, and the caller
then answered correctly. Arguments and results are often only in the messages of the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from lab.dialects import attributes_of
from lab.frames.completeness import TraceShapes, shapes_of
from lab.frames.roles import Role, field_texts, plain_value, text_column
from lab.frames.spans import start_ns

_NS = 1e9
# MCP's and others' flag of an error, or Llama Stack's code, anywhere in a result.
_ERROR_FLAG = re.compile(r'"?is_?error"?\s*[:=]\s*true|"error_code"\s*:\s*[1-9]', re.IGNORECASE)
# The beginning of a result in words, as LangGraph, LlamaIndex, CrewAI, OpenAI's Agents SDK,
# FastMCP, Microsoft's Agent Framework and Semantic Kernel write it for a tool that raised. "Error:"
# alone is LangGraph's ToolNode and Microsoft's FunctionInvokingChatClient; by custom, tools that
# catch their own exceptions return it, too.
_ERROR_TEXT = re.compile(
    r"(?:error|exception)\s*:|traceback \(most recent|an error occurred (?:while|when|during)"
    r"|error (?:when )?(?:executing|calling|invoking|running) |(?:i )?encountered (?:an )?error\b"
    r"|unknown tool\b|tool \S+ not found",
    re.IGNORECASE,
)
IS_ERROR = "is_error"
NO_ERROR = "no error"
_FLAGS = {"true": IS_ERROR, "error": IS_ERROR, "false": NO_ERROR, "success": NO_ERROR}
_MAY_REPORT = r"error|success|exception|traceback|unknown tool|not found"
_INSIDE = ("output", "result", "kwargs")  # what a message of a tool has its result in
# A call or a result in a model's messages: names of its parts in the APIs of OpenAI, Anthropic and
# Gemini, in OpenTelemetry's conventions, LangChain and the Vercel AI SDK.
_CALL_IDS = ("call_id", "tool_call_id", "tool_use_id", "toolCallId", "toolUseId")
_TOOLS = ("name", "toolName", "tool_name")
_ARGUMENTS = ("arguments", "args", "input")
_RESULTS = ("response", "result", "output", "content", "parts")
_MESSAGES = (*attributes_of("calls"), *attributes_of("messages"))
_IS_CALL = re.compile("tool|function")
_IS_RESULT = re.compile(r"(tool_call|function)_?response|gen_ai\.tool\.message")
MAX_DEPTH = 4
_COLUMNS = ("group", "call_id", "tool", "arguments", "result")


def tool_frame(spans: pd.DataFrame) -> pd.DataFrame:
    """Return one row per tool call, in order of its start.

    - `trace_id`, `span_id` (of the outermost span of the call), `tool`, `call_id`;
    - `arguments` and `result` as text: of the call's spans, else of the model's messages (by
      `call_id`, else the model's calls of this tool in their order), None where neither has them;
    - `failed`, and `error`: the type, message or result that shows it, '' for a call that
      succeeded;
    - `status_error`: whether the outermost span's own status shows the failure;
    - `by_words`: whether only the first words of the result show it ('Error: ...'). Most frameworks
      write them for a tool that raised, but a tool may also return such a text itself. The words
      are ignored if an attribute of the call says that it succeeded (`mcp.tool.result.is_error`,
      `gen_ai.tool.status`, ...);
    - `start_s` (seconds since the epoch), `duration_s`.

    Raises FrameError for another frame.
    """
    return _tool_calls(spans, shapes_of(spans))[1]


def _tool_calls(spans: pd.DataFrame, shapes: TraceShapes) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the row of each tool call's outermost span, and the frame of tool calls."""
    views = _views(shapes)
    calls = np.unique(shapes.tool[views])
    calls = calls[np.argsort(start_ns(spans)[calls], kind="stable")]
    names = spans["name"].astype(str).to_numpy(object)[calls]
    frame = pd.DataFrame(
        {
            "trace_id": shapes.ids[shapes.group[calls]],
            "span_id": spans["span_id"].to_numpy(object)[calls],
            **{
                name: first_of(shapes.tool[views], field_texts(spans, name, views), calls)
                for name in ("tool", "call_id", "arguments", "result")
            },
        }
    )
    frame["tool"] = frame["tool"].where(
        frame["tool"].notna(), [n.rpartition(" ")[2] for n in names]
    )
    frame["arguments"] = [_arguments(text) for text in frame["arguments"]]
    frame = _with_messages(frame.assign(group=shapes.group[calls]), spans, shapes)
    error = first_of(shapes.tool[views], _errors(spans, views), calls)
    flag = _flags(first_of(shapes.tool[views], field_texts(spans, "is_error", views), calls))
    from_message = _reports_error(frame["result"], words=flag != NO_ERROR)
    frame["failed"] = pd.notna(error) | from_message
    frame["error"] = np.where(pd.notna(error), error, np.where(from_message, frame["result"], ""))
    frame["status_error"] = (spans["status"].to_numpy(object)[calls]) == "error"
    is_stated = frame["status_error"] | (flag == IS_ERROR) | (frame["error"] != frame["result"])
    stated = frame["result"].where(frame["failed"] & ~is_stated)
    frame["by_words"] = stated.notna() & ~_reports_error(stated, words=np.zeros(len(stated), bool))
    frame["start_s"] = start_ns(spans)[calls] / _NS
    frame["duration_s"] = spans["duration_s"].to_numpy()[calls]
    return calls, frame.drop(columns="group")


def _arguments(text: str | None) -> str | None:
    """Return a call's arguments as JSON, without what some libraries put around them."""
    given = plain_value(text) if text is not None else None
    if text is None or not isinstance(given, dict):
        return text
    value = _unwrapped(given)
    is_json = text[:1] == "{" and "'" not in text[:2]
    return text if value is given and is_json else json.dumps(value)


def _unwrapped(given: dict[str, Any]) -> Any:
    names = set(given)
    if names == {"input"}:
        inner = plain_value(str(given["input"]))
        return inner if isinstance(inner, dict) else given
    if names >= {"tool_name", "arguments"}:
        return given["arguments"]
    if names <= {"args", "kwargs", "sanitize_inputs_outputs"} and not given.get("args"):
        return given.get("kwargs", given)
    if "input_str" in names:
        return given.get("inputs") or plain_value(str(given["input_str"]))
    return given


def failed_calls(spans: pd.DataFrame, shapes: TraceShapes) -> np.ndarray:
    """Return the outermost span of each tool call that failed (a mask)."""
    views = _views(shapes)
    failed = np.zeros(len(shapes.role), dtype=bool)
    if any(name in spans for name in _MESSAGES):
        calls, frame = _tool_calls(spans, shapes)
        failed[calls[frame["failed"]]] = True
    else:
        failed[shapes.tool[views[pd.notna(_errors(spans, views))]]] = True
    return failed


def _views(shapes: TraceShapes) -> np.ndarray:
    return np.flatnonzero((shapes.tool >= 0) & (shapes.role != Role.STRANGER))


def _errors(spans: pd.DataFrame, views: np.ndarray) -> np.ndarray:
    """Return what shows that these spans' calls failed, None where nothing does."""
    errors = field_texts(spans, "error", views)
    result = field_texts(spans, "result", views)
    flag = _flags(field_texts(spans, "is_error", views))
    in_result = _reports_error(result, words=flag != NO_ERROR)
    if in_result.any():
        errors = np.where(pd.isna(errors) & in_result, result, errors)
    errors = np.where(pd.isna(errors) & (flag == IS_ERROR), IS_ERROR, errors)

    by_status = np.flatnonzero((spans["status"] == "error").to_numpy(bool)[views] & pd.isna(errors))
    message = spans["status_message"].iloc[views[by_status]].to_numpy(object)
    errors[by_status] = np.where(message == "", "error", message)
    return errors


def _flags(values: np.ndarray) -> np.ndarray:
    """Return IS_ERROR or NO_ERROR where an attribute states one of them, else None."""
    return pd.Series(values, dtype=object).astype(str).str.lower().map(_FLAGS).to_numpy(object)


def _reports_error(results: Any, words: np.ndarray) -> np.ndarray:
    """Return which results say that the call failed; their `words` count where that is true."""
    texts = pd.Series(results, dtype=object)
    if texts.isna().all():
        return np.zeros(len(texts), dtype=bool)
    found = texts.astype("string").str.contains(_MAY_REPORT, case=False, regex=True)
    found = found.fillna(False).to_numpy(bool)
    for row in np.flatnonzero(found):
        text = str(texts.iloc[row])
        is_flagged = bool(_ERROR_FLAG.search(text))
        found[row] = is_flagged or _is_error(plain_value(text), words=bool(words[row]))
    return found


def _is_error(value: Any, depth: int = 0, *, words: bool = True) -> bool:
    """Return whether a tool's result says that the call failed, by its own fields or words."""
    if isinstance(value, str):
        inner = plain_value(value)
        if inner == value:
            return words and bool(_ERROR_TEXT.match(value))
        return _is_error(inner, depth, words=words)
    if isinstance(value, list):
        return len(value) == 1 and _is_error(value[0], depth, words=words)
    if not isinstance(value, dict) or depth > MAX_DEPTH:
        return False
    if _has_error_field(value):
        return True
    if value.get("type") in ("text", "tool"):
        return _is_error(value.get("text", value.get("content")), depth + 1, words=words)
    return any(_is_error(value[name], depth + 1, words=words) for name in _INSIDE if name in value)


def _has_error_field(result: dict[str, Any]) -> bool:
    is_failed = result.get("status") == "error" or result.get("success") is False
    is_error = result.get("type") in ("error-text", "error-json", "tool-error")
    return is_failed or is_error or bool(result.get("error"))


def first_of(group: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the first value of each wanted group that is not None, else None."""
    first = pd.Series(values, dtype=object).groupby(group).first()
    result = first.reindex(wanted)
    return np.array([None if pd.isna(value) else value for value in result], dtype=object)


def _with_messages(frame: pd.DataFrame, spans: pd.DataFrame, shapes: TraceShapes) -> pd.DataFrame:
    """Fill in arguments and results from the messages of the same trace."""
    messages = _messages(spans, shapes)
    if messages.empty or frame.empty:
        return frame
    by_id = messages.dropna(subset="call_id").groupby(["group", "call_id"]).first()
    keys = pd.MultiIndex.from_frame(frame[["group", "call_id"]])
    for name in ("arguments", "result"):
        frame[name] = _filled(frame[name], by_id[name].reindex(keys))

    # Without an id: the model's first call of a tool is the tool's first span.
    named = messages.dropna(subset=["tool", "arguments"]).copy()
    repeated = named.duplicated(["group", "call_id"]) & named["call_id"].notna()
    named = named[~repeated].drop_duplicates(["group", "call_id", "tool", "arguments"])
    named["place"] = named.groupby(["group", "tool"]).cumcount()
    by_place = named.set_index(["group", "tool", "place"])["arguments"]
    place = frame.groupby(["group", "tool"]).cumcount()
    keys = pd.MultiIndex.from_arrays([frame["group"], frame["tool"], place])
    unknown = frame["call_id"].isna().to_numpy()
    values = by_place.reindex(keys).where(unknown)
    frame["arguments"] = _filled(frame["arguments"], values)
    return frame


def _filled(column: pd.Series, values: pd.Series) -> pd.Series:
    filled = column.astype(object).where(column.notna(), values.to_numpy(object))
    return filled.where(filled.notna(), None)


def _messages(spans: pd.DataFrame, shapes: TraceShapes) -> pd.DataFrame:
    """Return the tool calls and tool results that the messages of model calls contain."""
    rows: list[tuple[Any, ...]] = []
    in_order = np.argsort(start_ns(spans), kind="stable")
    of_calls = in_order[shapes.call[in_order] >= 0]
    for name in _MESSAGES:
        texts = text_column(spans, name, of_calls)
        if texts is None:
            continue
        for row in np.flatnonzero(pd.notna(texts)):
            group = shapes.group[of_calls[row]]
            with suppress(RecursionError):
                rows.extend((group, *part) for part in _walk(plain_value(texts[row])))
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype(dict.fromkeys(_COLUMNS[1:], object))


def _walk(value: Any, key: str = "") -> Iterator[tuple[Any, Any, Any, Any]]:
    """Yield (call id, tool, arguments, result) of every tool call and result in messages.

    `key` is the name of this value. A text in messages may be JSON again.
    """
    if isinstance(value, str) and value[:1] in ("[", "{") and _IS_CALL.search(value):
        value = plain_value(value)
    if isinstance(value, list):
        for item in value:
            yield from _walk(item, key)
    if not isinstance(value, dict):
        return

    if call_or_result := _call_or_result(value, key):
        yield call_or_result
        return
    for name in sorted(value, key=_place):
        yield from _walk(value[name], name)


def _call_or_result(value: dict[str, Any], key: str) -> tuple[Any, Any, Any, Any] | None:
    """Return what an object in messages is, if it is a tool call or a result."""
    part = value | value["function"] if isinstance(value.get("function"), dict) else value
    call_id = _of(part, _CALL_IDS) or part.get("id")
    tool = _of(part, _TOOLS)
    arguments = _of(part, _ARGUMENTS)
    kind = f"{part.get('type', '')} {part.get('event.name', '')} {key}".lower()
    if tool and arguments is not None and (call_id or _IS_CALL.search(kind)):
        return call_id, tool, _text(arguments), None
    if call_id and (_of(part, _CALL_IDS) or _IS_RESULT.search(kind)):
        return call_id, None, None, _result(part)
    return None


def _result(part: dict[str, Any]) -> str | None:
    result = _text(_of(part, _RESULTS))
    is_error = part.get("is_error") or part.get("isError") or part.get("status") == "error"
    return json.dumps({"is_error": True, "content": result}) if is_error else result


def _of(part: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((part[name] for name in names if part.get(name) is not None), None)


def _place(name: str) -> tuple[int, str]:
    """Return where a name is among others: numbers in their order, names as they come."""
    return (int(name), name) if name.isdecimal() else (-1, "")


def _text(value: Any) -> str | None:
    """Return a value as text: that of its parts, where they are texts; else as JSON."""
    if value is None or isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else [value]
    texts = [part.get("text", part.get("content")) for part in parts if isinstance(part, dict)]
    plain = [text for text in texts if isinstance(text, str)]
    if plain and len(plain) == len(parts):
        return "\n".join(plain)
    return json.dumps(value)
