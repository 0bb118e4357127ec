"""Columns of attributes that only some spans have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def sparse_column(rows: list[int], values: list[Any], size: int) -> Any:
    """A column of `size` with these values at these rows, NaN or None elsewhere: float64, `boolean` or `str`.

    Values of mixed types become text.
    """
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {int, float}:
        column = np.full(size, np.nan)
        column[rows] = [np.nan if v is None else v for v in values]
        return column
    sparse = np.full(size, None, dtype=object)
    sparse[rows] = (
        values if kinds in ({str}, {bool}) else [None if v is None else str(v) for v in values]
    )
    return pd.array(sparse, dtype="boolean" if kinds == {bool} else "str")
