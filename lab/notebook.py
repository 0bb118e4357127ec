"""How a notebook shows tables: columns of text are aligned to the left, numbers to the right."""

from __future__ import annotations

import sys

import pandas as pd
from pandas.api.types import is_bool_dtype, is_datetime64_any_dtype, is_numeric_dtype
from pandas.io.formats.style import Styler


def align_text_columns() -> None:
    """Let IPython show DataFrames and Stylers with text to the left.

    Does nothing outside of a notebook.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None:
        return

    html = shell.display_formatter.formatters["text/html"]
    html.for_type(pd.DataFrame, frame_html)
    html.for_type(Styler, styler_html)


def frame_html(frame: pd.DataFrame) -> str | None:
    """Return pandas' HTML of a DataFrame, with its text columns aligned to the left.

    The columns are counted from the right, since a row has fewer header cells where an index spans
    several rows.
    """
    html = frame._repr_html_()
    columns = _text_columns(frame)
    if html is None or not columns or "<th>...</th>" in html:
        return html

    name = "lab-" + "-".join(map(str, columns))
    cells = ", ".join(f".{name} tr > :nth-last-child({column})" for column in columns)
    styled = html.replace('class="dataframe"', f'class="dataframe {name}"')
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
