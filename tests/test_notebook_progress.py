"""Notebooks show progress in black, link to the live view, and say what they wait for."""

from __future__ import annotations

from types import SimpleNamespace

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

from lab import notebook
from lab.settings import load_settings
from lab.stack.state import PartStatus

CELL = """
from tqdm import tqdm
from lab import notebook
from lab.stack.state import PartStatus

for _ in tqdm(range(3), file=notebook.progress_file(), mininterval=0):
    pass
waiting = notebook.WaitingLine()
waiting([PartStatus("vllm", "starting", waits_for="its weights")], 12.0)
waiting.end()
"""


def test_progress_in_a_notebook_is_one_black_line() -> None:
    """A bar and the wait for the lab are outputs that are replaced, not red text on stderr."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(book, timeout=120, kernel_name="python3").execute()
    outputs = book.cells[0].outputs
    assert [output.output_type for output in outputs] == ["display_data"] * 2
    bar, waited = (output.data["text/plain"] for output in outputs)
    assert "3/3" in bar
    assert waited.startswith("the lab is up after")


def test_the_line_names_what_is_waited_for(monkeypatch) -> None:
    """The reader sees the parts that are not ready, and for what each of them waits."""
    written: list[str] = []
    line = SimpleNamespace(write=written.append)
    monkeypatch.setattr(notebook, "progress_file", lambda: line)
    waiting = notebook.WaitingLine()
    ready = PartStatus("tools", "ready", ready=True)
    off = PartStatus("vllm-canary", "off")
    waiting([ready, PartStatus("vllm", "starting"), off], 0.2)
    assert written == []
    waiting([ready, PartStatus("llama-stack", "waiting", waits_for="vllm"), off], 3.4)
    assert written == ["3 s, waiting for llama-stack: vllm"]


def test_outside_of_a_notebook_bars_stay_on_stderr(capsys) -> None:
    """Programs that read stdout are not disturbed."""
    assert notebook.progress_file() is None
    for _ in tqdm(range(2), file=notebook.progress_file(), mininterval=0):
        pass
    captured = capsys.readouterr()
    assert captured.out == "" and "2/2" in captured.err


def test_a_link_leads_to_the_view_of_a_run() -> None:
    """The address names dashboard, row and time; text and HTML show it, escaped."""
    settings = load_settings(view_url="http://127.0.0.1:19001/")
    link = notebook.live_view(settings, "vllm", "Latency & load", window=(100.7, 130.2))
    assert link.url == ("http://127.0.0.1:19001/#/d/vllm/Latency%20%26%20load?from=100&to=131")
    assert "Latency &amp; load" in link._repr_html_() and link.url in repr(link)
    assert notebook.live_view(settings, "traces").url == "http://127.0.0.1:19001/#/traces"


def test_without_a_live_view_the_link_says_how_to_get_one() -> None:
    """A cluster and your own stores have none until it is served."""
    link = notebook.live_view(load_settings(running_stack=False, view_url=None))
    assert "lab view" in repr(link) and "href" not in link._repr_html_()
