"""The `lab` command: help, errors without tracebacks, exit status."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab import cli, stack
from lab.cli import app as verbs
from lab.cli import show
from lab.errors import PartFailed
from lab.stack.state import PartStatus


def run(monkeypatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lab", *argv])
    with pytest.raises(SystemExit) as e:
        cli.main()
    return e.value.code or 0


def test_help_names_every_verb(monkeypatch, capsys):
    """What one can do is on the first screen."""
    assert run(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in ("up", "down", "status", "logs", *verbs.DELEGATED))


def test_help_imports_no_stage():
    """So that it is quick, and works while a stage is broken."""
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
    """Kind, what happened, what to do; exit status 1."""

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
    """Exit status 2, before anything is done."""
    assert run(monkeypatch, "up", "--wait", "everything") == 2
    assert run(monkeypatch, "upp") == 2


def test_status_says_what_is_wrong(monkeypatch, capsys):
    """Exit status 1 when a needed part is dead; 0 when only the documents are missing."""
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
    """Of the parts that answer, with the port that they have now; not of others."""
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
    """A script can ask `lab status` whether there is one."""
    monkeypatch.setattr(stack, "status", lambda _: [])
    assert run(monkeypatch, "status") == 1
    assert "lab up" in capsys.readouterr().out


def test_verbs_of_other_rooms_get_their_arguments_whole(monkeypatch):
    """Also --help: each has its own."""
    import types

    got: list[list[str]] = []
    module = types.ModuleType("lab.workload.command")
    module.main = lambda argv: got.append(argv) or 7
    monkeypatch.setitem(sys.modules, "lab.workload.command", module)
    assert run(monkeypatch, "load", "--help", "--rate", "3") == 7
    assert got == [["--help", "--rate", "3"]]


@pytest.mark.parametrize("verb", ["up", "down", "status", "logs", "doctor", *verbs.DELEGATED])
def test_every_option_of_every_verb_has_help(monkeypatch, capsys, verb):
    """All help pages have the same look, and no option is left unexplained."""
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, verb, "--help") == 0
    out = capsys.readouterr().out
    assert f"Usage: lab {verb}" in out and "╭─ Options" in out
    rows = [line for line in out.splitlines() if re.match(r"│ [ *]*-", line)]
    not_help = r"--[\w-]+|-\w\b|<[^>]*>|\[default:[^\]]*\]"
    assert rows
    assert all(re.search("[a-z]{3}", re.sub(not_help, "", row)) for row in rows), out


def test_the_trace_store_has_the_same_options_alone(monkeypatch, capsys):
    """`python -m lab.tracestore`, which the stack starts, and `lab tracestore` do not drift
    apart.
    """
    from lab.cli.tracestore import tracestore
    from lab.tracestore.__main__ import main as alone

    with pytest.raises(SystemExit):
        alone(["--help"])
    options = set(re.findall(r"--([a-z-]+)", capsys.readouterr().out)) - {"help"}
    names = inspect.signature(tracestore).parameters
    assert options == {name.rstrip("_").replace("_", "-") for name in names}


def test_a_wrong_option_of_a_verb_is_refused(monkeypatch, capsys):
    """Exit status 2, in words, as for `lab` itself."""
    assert run(monkeypatch, "report", "--folder", "x") == 2
    assert "No such option" in capsys.readouterr().err


def test_down_takes_down_what_any_place_started(monkeypatch, tmp_path, capsys):
    """Also beside an endpoints.json that cannot be read; with --place only that place."""
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


def test_up_names_the_source_of_every_foreign_address(monkeypatch, tmp_path, capsys):
    """A lab.toml that names other servers silently redirected the notebooks before."""
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


def test_progress_without_a_terminal_is_a_line_a_change(capsys):
    """And one from time to time that says what is waited for."""
    progress = show.LineProgress()
    for t in (1.0, 2.0, 11.0, 12.0):
        progress([PartStatus("vllm", "starting", waits_for="chat: refused")], t)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("s  ")[1] for line in lines] == [
        "vllm         starting",
        "waiting for vllm: chat: refused",
    ]


def test_logs_of_a_part_and_a_trace_at_once_are_refused(monkeypatch, capsys):
    """A trace goes through all parts."""
    assert run(monkeypatch, "logs", "vllm", "--trace", "0" * 32) == 1
    assert "leave out the part" in capsys.readouterr().err
