"""All notebooks are run, each in a fresh kernel, and each failure is reported with its cause."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from lab.errors import NotebookError
from lab.runner import jupyter, session
from lab.runner.execute import FAILED, NOT_RUN, PASSED, TIMED_OUT, Progress, run_notebooks
from lab.settings import REPO, Settings
from tests.runner.notebooks import write

pytestmark = pytest.mark.slow  # starts processes


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state")


def _printed(path: str | Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for c in cells for o in c.get("outputs", []))


def test_one_failure_does_not_hide_other_results(tmp_path: Path, settings: Settings) -> None:
    """Failing, hanging and crashing notebooks are reported, and the next one runs."""
    paths = [
        write(
            tmp_path / "00_fails.ipynb",
            "from lab.errors import NoData\nraise NoData('no series', fix='wait')",
        ),
        write(tmp_path / "01_hangs.ipynb", "import time; time.sleep(60)"),
        write(tmp_path / "02_dies.ipynb", "import os; os._exit(3)"),
        write(tmp_path / "03_good.ipynb", "print('rate is', rate)"),
    ]
    seen: list[Progress] = []
    runs = run_notebooks(
        paths, tmp_path / "out", {"rate": 2.5}, settings, cell_timeout_s=8, progress=seen.append
    )
    assert [run.status for run in runs] == [FAILED, TIMED_OUT, FAILED, PASSED]
    assert [run.cell for run in runs] == [3, 3, 3, None], (
        "the injected cell counts, as in the executed copy"
    )
    assert "NoData: no series\n  Fix: wait" in runs[0].error and "raise NoData" in runs[0].traceback
    assert "longer than 8 s" in runs[1].error and "kernel died" in runs[2].error
    assert _printed(runs[3].output) == "rate is 2.5\n"
    assert [p.run.status for p in seen if p.run] == [run.status for run in runs]


def test_the_lab_command_works_in_a_notebook(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`!lab status`, which the lab's errors recommend, works whatever the shell's PATH is."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    path = write(tmp_path / "00_command.ipynb", "get_ipython().system('lab --help')")
    (run,) = run_notebooks([path], tmp_path / "out", {}, settings)
    assert run.status == PASSED
    assert "observability lab" in _printed(run.output)


def test_jupyterlab_gives_kernels_the_command_and_no_proxy_for_this_machine(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel that `make lab` registers finds `lab` and uses no proxy for loopback."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    folder = jupyter.register_kernel(tmp_path, settings)
    env = json.loads((folder / "kernel.json").read_text())["env"]
    assert env["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert {"127.0.0.1", "localhost", "::1"} <= set(env["NO_PROXY"].split(","))


def test_the_kernel_runs_in_this_environment(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notebook runs in the lab's interpreter, whatever `python3` kernel is registered."""
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        '{"argv": ["/bin/false"], "display_name": "wrong", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("HOME", "/nonexistent")
    path = write(
        tmp_path / "00_who.ipynb",
        "import os, sys\nprint(sys.executable, os.environ['LAB_STATE_DIR'])",
    )
    run = run_notebooks([path], tmp_path / "out", {}, settings)[0]
    assert _printed(run.output).split() == [sys.executable, str(settings.state_dir)], run.error


def test_the_source_is_not_changed(tmp_path: Path, settings: Settings) -> None:
    """The notebook in git is unchanged, and the executed copy is another file."""
    path = write(tmp_path / "00_good.ipynb", "1 + 1")
    before = path.read_bytes()
    run_notebooks([path], tmp_path / "out", {}, settings)
    assert path.read_bytes() == before


def test_an_output_folder_that_cannot_be_created(tmp_path: Path, settings: Settings) -> None:
    """The error is raised before any notebook is run."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NotebookError, match=r"(?s)cannot be made.*--out"):
        run_notebooks([write(tmp_path / "00_a.ipynb")], tmp_path / "file" / "out", {}, settings)


def test_an_interrupt_keeps_the_results(tmp_path: Path) -> None:
    """Ctrl-C writes the report, with the running notebook interrupted, and stops all kernels."""
    started = tmp_path / "started"
    write(tmp_path / "00_n.ipynb", "pass")
    for number in ("01", "02"):
        code = f"import time; open({str(started)!r}, 'w').close(); time.sleep(300)"
        write(tmp_path / f"{number}_n.ipynb", code)
    script = textwrap.dedent(
        f"""
        import sys
        from pathlib import Path
        from lab.runner import session
        session.NOTEBOOKS = Path({str(tmp_path)!r})
        sys.exit(session.main(["--out", {str(tmp_path / "out")!r}]))
        """
    )
    env = {
        **os.environ,
        "LAB_PLACE": "recorded",
        "LAB_STATE_DIR": str(tmp_path / "state"),
        "PYTHONPATH": str(REPO),
    }
    child = subprocess.Popen(
        [sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        for line in child.stdout:
            if "01_n (2 of 3)" in line:
                break
        limit = time.monotonic() + 120
        while not started.exists():
            assert time.monotonic() < limit, "the second notebook did not start"
            time.sleep(0.05)
        kernels = psutil.Process(child.pid).children(recursive=True)
        assert kernels
        child.send_signal(signal.SIGINT)
        output = child.communicate(timeout=120)[0]
    finally:
        child.kill()
    assert child.returncode == 130
    assert "passed" in output and "interrupted" in output and NOT_RUN in output
    assert "interrupted" in (tmp_path / "out" / "index.html").read_text()
    assert not psutil.wait_procs(kernels, timeout=60)[1]


def test_a_stack_that_does_not_start(tmp_path: Path) -> None:
    """A report is written with the reason, no notebook is run, and the exit status is 1."""
    settings = Settings(state_dir=tmp_path / "state", data_dir=tmp_path / "no-data")
    path = write(tmp_path / "00_a.ipynb")
    assert session.run_session(settings, [path], tmp_path / "out", {}) == 1
    page = (tmp_path / "out" / "index.html").read_text()
    assert "0 of 1 notebooks passed" in page and "not run" in page and "ModelError" in page


def test_the_terminal_shows_why_a_notebook_failed(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The error of the cell is printed, not only that it failed."""
    monkeypatch.setattr(session, "stack_for", lambda *_, **__: contextlib.nullcontext())
    code = "from lab.errors import NoData\nraise NoData('no series', fix='wait')"
    path = write(tmp_path / "00_fails.ipynb", code)
    assert session.run_session(settings, [path], tmp_path / "out", {}) == 1
    assert "cell 3: NoData: no series" in (out := capsys.readouterr().out) and "Fix: wait" in out


def test_a_window_starts_nothing(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lab run NB -p window=...` analyses telemetry that is there; no stack is stood up for it."""

    def stood_up(*_: object, **__: object) -> None:
        raise AssertionError("the stack was stood up")

    monkeypatch.setattr(session, "stack_for", stood_up)
    parameters = 'window: str = ""  # a window of your telemetry'
    code = "assert window == 'last 15m'"
    path = write(tmp_path / "00_window.ipynb", code, parameters=parameters)
    given = {"window": "last 15m"}
    assert session.run_session(settings, [path], tmp_path / "out", given) == 0


def test_two_runs_in_the_same_second_get_different_folders(tmp_path: Path) -> None:
    """Their results are not mixed."""
    folders = [session._make_unique(tmp_path, "20261128-142334") for _ in range(3)]
    assert len(set(folders)) == 3 and all(f.is_dir() for f in folders)
