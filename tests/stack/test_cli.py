"""The `lab` command has help, errors without tracebacks and a useful exit status."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab import cli, stack
from lab.cli import app as commands
from lab.errors import PartFailed
from lab.stack import control
from lab.stack.state import PartStatus


def run(monkeypatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lab", *argv])
    with pytest.raises(SystemExit) as e:
        cli.main()
    return e.value.code or 0


def test_help_names_every_command(monkeypatch, capsys):
    """All commands are on the first screen."""
    assert run(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in ("up", "down", "status", "logs", *commands.DELEGATED))


def test_help_imports_no_stage():
    """Help is quick, and works while a stage is broken."""
    code = """
import sys
from lab.cli import main
sys.argv = ['lab', '--help']
try:
    main()
except SystemExit:
    floor = ('cli', 'command_line', 'environment', 'errors')
    modules = [m.split('.')[1] for m in sys.modules if m.startswith('lab.')]
    print([m for m in modules if m not in floor])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(cli.__file__).parents[2],
    )
    assert done.stdout.strip().endswith("[]"), done.stdout[-300:]


def test_an_error_is_printed_without_a_traceback(monkeypatch, capsys):
    """The error's type, message and fix are printed, and the exit status is 1."""

    def fail(*_, **__):
        raise PartFailed("vllm did not come up", part="vllm", log="/x/vllm.log", got="no memory")

    monkeypatch.setattr(stack, "up", fail)
    assert run(monkeypatch, "up") == 1
    err = capsys.readouterr().err
    assert (
        "PartFailed: vllm did not come up" in err
        and "read /x/vllm.log" in err
        and "Traceback" not in err
    )


def test_a_wrong_command_line_is_refused(monkeypatch):
    """The exit status is 2, and nothing is done."""
    assert run(monkeypatch, "up", "--wait", "everything") == 2
    assert run(monkeypatch, "upp") == 2


def test_status_reports_what_is_wrong(monkeypatch, capsys):
    """The exit status is 1 when a required part is dead, and 0 when only documents are missing."""
    parts = [
        PartStatus("supervisor", "ready", ready=True),
        PartStatus("vllm", "dead", error="killed by SIGKILL"),
    ]
    monkeypatch.setattr(stack, "status", lambda _: parts)
    assert run(monkeypatch, "status") == 1
    assert "killed by SIGKILL" in capsys.readouterr().out
    parts[1] = PartStatus("documents", "failed", essential=False)
    assert run(monkeypatch, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out)[1]["state"] == "failed"


def test_status_names_the_pages_to_open(monkeypatch, capsys):
    """The pages of parts that answer are printed with their current port, and no others."""
    parts = [
        PartStatus("prometheus", "ready", ready=True, port=19110),
        PartStatus("tracestore", "starting", port=13220),
        PartStatus("vllm", "ready", ready=True, port=18000),
    ]
    monkeypatch.setattr(stack, "status", lambda _: parts)
    run(monkeypatch, "status")
    out = capsys.readouterr().out
    assert "http://127.0.0.1:19110/ " in out and "alerts" in out
    assert "http://127.0.0.1:13220" not in out and "http://127.0.0.1:18000" not in out

    parts[1] = PartStatus("tracestore", "ready", ready=True, port=13220)
    run(monkeypatch, "status")
    assert "http://127.0.0.1:13220/ " in capsys.readouterr().out


def test_status_without_a_lab_is_not_success(monkeypatch, capsys):
    """A script can use `lab status` to check whether a lab is running."""
    monkeypatch.setattr(stack, "status", lambda _: [])
    assert run(monkeypatch, "status") == 1
    assert "lab up" in capsys.readouterr().out


def test_delegated_commands_get_all_their_arguments(monkeypatch):
    """Even --help is passed on, as every command has its own."""
    import types

    calls: list[list[str]] = []
    module = types.ModuleType("lab.workload.command")
    module.main = lambda argv: calls.append(argv) or 7
    monkeypatch.setitem(sys.modules, "lab.workload.command", module)
    assert run(monkeypatch, "load", "--help", "--rate", "3") == 7
    assert calls == [["--help", "--rate", "3"]]


@pytest.mark.parametrize("verb", ["up", "down", "status", "logs", *commands.DELEGATED])
def test_every_option_of_every_command_has_help(monkeypatch, capsys, verb):
    """All help pages have the same layout, and every option is explained."""
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, verb, "--help") == 0
    out = capsys.readouterr().out
    assert f"Usage: lab {verb}" in out and "╭─ Options" in out
    rows = [line for line in out.splitlines() if re.match(r"│ [ *]*-", line)]
    not_help = r"--[\w-]+|-\w\b|<[^>]*>|\[default:[^\]]*\]"
    assert rows
    assert all(re.search("[a-z]{3}", re.sub(not_help, "", row)) for row in rows), out


def test_the_trace_store_has_the_same_options_as_a_module(monkeypatch, capsys):
    """`python -m lab.tracestore`, which the stack starts, and `lab tracestore` agree."""
    from lab.cli.tracestore import tracestore
    from lab.tracestore.__main__ import main as alone

    with pytest.raises(SystemExit):
        alone(["--help"])
    options = set(re.findall(r"--([a-z-]+)", capsys.readouterr().out)) - {"help"}
    names = inspect.signature(tracestore).parameters
    assert options == {name.rstrip("_").replace("_", "-") for name in names}


def test_a_wrong_option_of_a_command_is_refused(monkeypatch, capsys):
    """The exit status is 2, with a message, as for `lab` itself."""
    assert run(monkeypatch, "report", "--folder", "x") == 2
    assert "No such option" in capsys.readouterr().err


def test_down_takes_down_the_labs_of_all_places(monkeypatch, tmp_path, capsys):
    """An unreadable endpoints.json does not matter, and --place limits it to that place."""
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    (tmp_path / "endpoints.json").write_text("{")
    (tmp_path / "recorded" / "first-look").mkdir(parents=True)
    seen: list[Path] = []
    monkeypatch.setattr(stack, "down", lambda settings, _: seen.append(settings.state_dir) or [])
    assert run(monkeypatch, "down") == 0
    assert seen == [tmp_path, tmp_path / "recorded" / "first-look"]
    seen.clear()
    assert run(monkeypatch, "down", "--place", "local") == 0
    assert seen == [tmp_path]


def test_up_names_the_source_of_every_external_address(monkeypatch, tmp_path, capsys):
    """A lab.toml that redirects the notebooks to other servers is named in the output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_STATE_DIR", str(tmp_path))
    (tmp_path / "lab.toml").write_text('tempo_url = "http://tempo.example"\n')
    endpoints = {"tempo": "http://127.0.0.1:13200", "vllm": "http://127.0.0.1:18000"}
    monkeypatch.setattr(stack, "up", lambda *_: endpoints)
    monkeypatch.setattr(stack, "start", lambda *_: None)
    assert run(monkeypatch, "up") == 0
    out = capsys.readouterr().out
    assert f"settings from {tmp_path / 'lab.toml'}" in out
    assert "http://tempo.example" in out and f"(from {tmp_path / 'lab.toml'})" in out
    assert "http://127.0.0.1:18000" in out


def test_progress_without_a_terminal_is_one_line_per_change(capsys):
    """From time to time a line names what is waited for."""
    progress = control.LineProgress()
    for t in (1.0, 2.0, 11.0, 12.0):
        progress([PartStatus("vllm", "starting", waits_for="chat: refused")], t)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("s  ")[1] for line in lines] == [
        "vllm         starting",
        "waiting for vllm: chat: refused",
    ]


def test_logs_of_a_part_and_of_a_trace_are_exclusive(monkeypatch, capsys):
    """A trace goes through all parts, so the combination is refused."""
    assert run(monkeypatch, "logs", "vllm", "--trace", "0" * 32) == 1
    assert "leave out the part" in capsys.readouterr().err
