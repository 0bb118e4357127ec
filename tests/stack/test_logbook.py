"""Log lines are written as JSON, merged in order of time, and found by trace."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

import pytest

from lab.errors import NotUp, StackError
from lab.json_logging import TraceJsonFormatter
from lab.stack.logbook import LogSink, as_json_line, causes, last_lines, read

TRACE = "0af7651916cd43dd8448eb211c80319c"


def write(state: Path, part: str, *entries: dict | str) -> None:
    (state / "logs").mkdir(exist_ok=True)
    lines = [e if isinstance(e, str) else json.dumps(e) for e in entries]
    (state / "logs" / f"{part}.log").write_text("".join(line + "\n" for line in lines))


def test_a_plain_line_becomes_an_object_with_its_level():
    """Every line of the log file is JSON, whatever the part prints."""
    entry = json.loads(as_json_line(b"(APIServer pid=1) WARNING 11-25 12:22:22 careful"))
    assert entry["level"] == "warning" and entry["message"].endswith("careful") and entry["ts"]


def test_a_json_line_is_kept_unchanged():
    """A line that only looks like JSON is wrapped."""
    assert as_json_line(b'{"a": 1}') == b'{"a": 1}\n'
    assert json.loads(as_json_line(b"{'a': 1}"))["message"] == "{'a': 1}"


def test_lines_that_arrive_in_pieces_are_joined(tmp_path):
    """Pieces read from a pipe do not end at line ends."""
    sink = LogSink(tmp_path / "x.log")
    for piece in (b'{"message": "o', b'ne"}\ntwo\nth', b"ree"):
        sink.feed(piece)
    sink.close()
    messages = [
        json.loads(line)["message"] for line in (tmp_path / "x.log").read_text().splitlines()
    ]
    assert messages == ["one", "two", "three"]


def test_the_log_of_the_previous_run_is_kept(tmp_path):
    """A crash can still be read after the next `lab up`."""
    for text in (b"first\n", b"second\n"):
        sink = LogSink(tmp_path / "x.log")
        sink.feed(text)
        sink.close()
    assert (
        "first" in (tmp_path / "x.log.1").read_text()
        and "second" in (tmp_path / "x.log").read_text()
    )


def test_a_trace_id_may_lack_its_leading_zeros(tmp_path):
    """Searches show ids without the zeros; anything shorter than 64 bits is not an id."""
    full = TRACE[2:].rjust(32, "0")
    write(tmp_path, "vllm", {"message": "model", "trace_id": full})
    for notation in (full, full.lstrip("0"), full.lstrip("0").upper()):
        assert [e["message"] for e in read(tmp_path, trace_id=notation)] == ["model"]


def test_a_trace_is_merged_from_all_parts_in_order_of_time(tmp_path):
    """Parts name their fields differently, and times decide the order."""
    write(
        tmp_path,
        "vllm",
        {"ts": "2026-11-25T12:00:00.200+00:00", "message": "model", "trace_id": TRACE},
        "other",
    )
    write(
        tmp_path,
        "tools",
        {"timestamp": "2026-11-25T12:00:00.300Z", "event": "tool", "trace_id": TRACE},
    )
    write(tmp_path, "prometheus", {"ts": "2026-11-25T12:00:00.100Z", "msg": "scrape"})
    entries = list(read(tmp_path, trace_id=TRACE.upper()))
    assert [(e["part"], e["message"]) for e in entries] == [("vllm", "model"), ("tools", "tool")]


def test_a_line_without_a_time_follows_the_previous_line(tmp_path):
    """A traceback stays with its error."""
    first = {"ts": "2026-11-25T12:00:01Z", "message": "a"}
    write(tmp_path, "x", first, "plain", {"ts": "2026-11-25T12:00:03Z", "message": "c"})
    write(tmp_path, "y", {"ts": "2026-11-25T12:00:02Z", "message": "b"})
    assert [e["message"] for e in read(tmp_path)] == ["a", "plain", "b", "c"]


def test_following_shows_lines_as_they_are_written(tmp_path):
    """A line is shown only when it is complete."""
    write(tmp_path, "x", {"ts": "2026-11-25T12:00:01Z", "message": "old"})
    entries = read(tmp_path, follow=True)
    assert next(entries)["message"] == "old"

    def append() -> None:
        with (tmp_path / "logs" / "x.log").open("a") as f:
            f.write('{"message": ')
            f.flush()
            time.sleep(0.1)
            f.write('"new"}\n')

    threading.Thread(target=append).start()
    assert next(entries)["message"] == "new"


def test_following_starts_with_the_newest_lines(tmp_path):
    """`lab logs -f -n 2` does not print the complete log first."""
    messages = [{"ts": f"2026-11-25T12:00:0{i}Z", "message": str(i)} for i in range(5)]
    write(tmp_path, "x", *messages)
    entries = read(tmp_path, follow=True, last=2)
    assert [next(entries)["message"] for _ in range(2)] == ["3", "4"]
    assert [e["message"] for e in read(tmp_path, last=1)] == ["4"]


def test_a_full_disk_does_not_close_the_pipe_of_a_part(tmp_path):
    """Its lines are lost, and later ones are written again."""
    sink = LogSink(tmp_path / "x.log")
    full = sink._file
    sink._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
    sink.feed(b"lost\n")
    sink._file = full
    sink.feed(b"kept\n")
    sink.close()
    assert last_lines(tmp_path / "x.log") == ["kept"]


def test_logs_that_cannot_be_shown_are_an_error(tmp_path):
    """A missing lab, an unknown part and an invalid trace id are errors."""
    with pytest.raises(NotUp):
        read(tmp_path)
    write(tmp_path, "x", "a")
    with pytest.raises(StackError, match="no log of 'vlm'"):
        read(tmp_path, "vlm")
    with pytest.raises(StackError, match="not a trace id"):
        read(tmp_path, trace_id="123")


def test_the_cause_of_an_error_comes_first(tmp_path):
    """An error message quotes the lines that name an error, in their order."""
    write(
        tmp_path,
        "x",
        "starting",
        "ValueError: too little memory",
        "  at line 3",
        "RuntimeError: engine failed: see",
    )
    path = tmp_path / "logs" / "x.log"
    assert causes(path) == ["ValueError: too little memory", "RuntimeError: engine failed: see"]
    assert last_lines(path, 1) == ["RuntimeError: engine failed: see"]


def test_a_log_line_carries_the_current_trace():
    """Code that logs inside a span gets its trace id without doing anything."""
    trace = pytest.importorskip("opentelemetry.trace")
    context = trace.SpanContext(int(TRACE, 16), 7, is_remote=False)
    record = logging.LogRecord("x", logging.INFO, "f", 1, "hello %s", ("you",), None)
    with trace.use_span(trace.NonRecordingSpan(context)):
        entry = json.loads(TraceJsonFormatter().format(record))
    assert (entry["message"], entry["level"], entry["trace_id"]) == ("hello you", "info", TRACE)
    assert "trace_id" not in json.loads(TraceJsonFormatter().format(record))
