"""What a notebook shows: tables with text to the left, the progress of work, links to pages."""

import html
import io
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO
from urllib.parse import quote, urlencode

import pandas as pd
from pandas.api.types import is_bool_dtype, is_datetime64_any_dtype, is_numeric_dtype
from pandas.io.formats.style import Styler

from lab.settings import Settings

SHOW_WAITING_S = 1.0  # a lab that was up already needs no line


class ProgressLine(io.TextIOBase):
    """A line below a notebook's cell that is replaced by whatever is written next.

    It is black, unlike the output of stderr, and no part of what a cell prints.
    """

    def __init__(self) -> None:
        self._handle: Any = None

    def write(self, text: str) -> int:
        """Show a text in place of the one before; `tqdm` writes a carriage return before it."""
        from IPython.display import display

        content = {"text/plain": text.strip("\r\n")}
        if not content["text/plain"]:
            return len(text)
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
        return len(text)


def progress_file() -> TextIO | None:
    """Return the file for progress bars: a line in a notebook, None (stderr) elsewhere."""
    return ProgressLine() if _shell() is not None else None  # type: ignore[return-value]


class WaitingLine:
    """Shows in a notebook what the start of the lab waits for; a progress callback of lab.stack."""

    def __init__(self) -> None:
        self._file = progress_file()
        self._began = time.monotonic()
        self._shown = False

    def __call__(self, parts: Sequence[Any], elapsed_s: float) -> None:
        """Show the parts that are not ready, and for what each of them waits."""
        pending = [p for p in parts if not p.ready and p.state != "off"]
        if self._file is None or elapsed_s < SHOW_WAITING_S or not pending:
            return
        waits = "; ".join(f"{p.name}: {p.waits_for or p.state}" for p in pending)
        self._file.write(f"{elapsed_s:.0f} s, waiting for {waits}")
        self._shown = True

    def end(self) -> None:
        """Replace the line by the time that the start took."""
        if self._file is not None and self._shown:
            self._file.write(f"the lab is up after {time.monotonic() - self._began:.0f} s")


class LiveView:
    """A link to the live view; text outside of a notebook."""

    def __init__(self, url: str, text: str) -> None:
        self.url = url
        self._text = text

    def __repr__(self) -> str:
        return f"{self._text}: {self.url}" if self.url else self._text

    def _repr_html_(self) -> str:
        text = html.escape(self._text)
        if not self.url:
            return text
        return f'<a href="{html.escape(self.url)}" target="_blank" rel="noopener">{text}</a>'


def live_view(
    settings: Settings,
    view: str = "lab",
    row: str = "",
    window: tuple[float, float] | None = None,
) -> LiveView:
    """Return a link to the live view of what a notebook measures.

    `view` is "lab", "query", "traces", "alerts" or the name of a dashboard; `row` the title of one
    of its rows or panels; `window` a time range in seconds since the epoch, such as `run.window`.
    """
    if not settings.view_url:
        return LiveView("", "No live view runs here; `lab view` serves one.")

    pages = ("lab", "query", "traces", "alerts")
    route = view if view in pages else f"d/{quote(view)}" + (f"/{quote(row)}" if row else "")
    # Whole seconds around the window.
    times = {"from": int(window[0]), "to": int(window[1]) + 1} if window else {}
    query = f"?{urlencode(times)}" if times else ""
    url = f"{settings.view_url.rstrip('/')}/#/{route}{query}"
    return LiveView(url, f"Live view: {row or view}")


def align_text_columns() -> None:
    """Let IPython show DataFrames and Stylers with text to the left.

    Does nothing outside of a notebook.
    """
    shell = _shell()
    if shell is None:
        return

    formatter = shell.display_formatter.formatters["text/html"]
    formatter.for_type(pd.DataFrame, frame_html)
    formatter.for_type(Styler, styler_html)


def _shell() -> Any:
    """Return IPython's shell, None outside of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def frame_html(frame: pd.DataFrame) -> str | None:
    """Return pandas' HTML of a DataFrame, with its text columns aligned to the left.

    The columns are counted from the right, since a row has fewer header cells where an index spans
    several rows.
    """
    text = frame._repr_html_()
    columns = _text_columns(frame)
    if text is None or not columns or "<th>...</th>" in text:
        return text

    name = "lab-" + "-".join(map(str, columns))
    cells = ", ".join(f".{name} tr > :nth-last-child({column})" for column in columns)
    styled = text.replace('class="dataframe"', f'class="dataframe {name}"')
    return f"<style>{cells} {{ text-align: left !important; }}</style>{styled}"


def styler_html(styler: Styler) -> str:
    """Return the HTML of a Styler, with its text columns aligned to the left."""
    frame = styler.data
    names = [frame.columns[-column] for column in _text_columns(frame)]
    if names and frame.columns.is_unique and frame.index.is_unique:
        styler.set_properties(subset=names, **{"text-align": "left"})
    return styler.to_html()


def _text_columns(frame: pd.DataFrame) -> list[int]:
    """Return the places of the columns that hold text, 1 for the last column."""
    count = len(frame.columns)
    return [
        count - place
        for place, dtype in enumerate(frame.dtypes)
        if not (is_numeric_dtype(dtype) or is_bool_dtype(dtype) or is_datetime64_any_dtype(dtype))
    ]
