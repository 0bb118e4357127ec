"""The length of a union of intervals is exact."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lab.frames.requests import union_length


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-50, 50), st.integers(-50, 50)), max_size=20)
)
def test_union_is_the_number_of_covered_units(intervals: list[tuple[int, int, int]]) -> None:
    """The result equals counting the covered units one by one, in every group."""
    covered = [set() for _ in range(4)]
    for group, start, end in intervals:
        covered[group].update(range(start, end))
    columns = np.array(intervals, dtype=np.int64).reshape(-1, 3)
    lengths = union_length(columns[:, 0], columns[:, 1], columns[:, 2], 4)
    assert lengths.tolist() == [len(c) for c in covered]
