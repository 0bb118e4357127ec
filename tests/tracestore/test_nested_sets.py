"""Nested sets number the spans of a trace like a walk through its tree."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lab.tracestore.nested_sets import number
from tests.tracestore.hypotheses import QUICK

_BIG = 2**63  # ids use all 64 bits


@st.composite
def spans(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """Return (trace, span, parent) with several roots, missing parents, cycles and self-parents."""
    drawn = []
    for trace in range(draw(st.integers(0, 3))):
        ids = range(_BIG, _BIG + draw(st.integers(1, 9)))
        for span in ids:
            parent = draw(st.one_of(st.just(0), st.sampled_from(ids), st.just(_BIG - 1)))
            drawn.append((trace, span, parent))
    return drawn


def walk(drawn: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Return (left, right, parent) of each span, by walking."""
    numbers = dict.fromkeys(drawn, (0, 0, 0))
    for trace in {t for t, _, _ in drawn}:
        members = [s for s in drawn if s[0] == trace]
        bound = 1

        def visit(node: tuple[int, int, int], parent: int, members: list = members) -> None:
            nonlocal bound
            left = bound
            bound += 1
            for child in members:
                if child[2] == node[1] and child is not node:
                    visit(child, left)
            numbers[node] = (left, bound, parent)
            bound += 1

        for root in (s for s in members if s[2] == 0):
            visit(root, -1)
    return [numbers[s] for s in drawn]


@QUICK
@given(drawn=spans())
def test_numbers_are_those_of_a_walk(drawn: list[tuple[int, int, int]]) -> None:
    """Roots follow each other, siblings keep their order, and spans below no root are zero."""
    columns = zip(*drawn, strict=True) if drawn else ((), (), ())
    types = (np.int64, np.uint64, np.uint64)
    arrays = [np.array(c, dtype=t) for c, t in zip(columns, types, strict=True)]
    numbered = [n.tolist() for n in number(*arrays)]
    assert list(zip(*numbered, strict=True)) == walk(drawn)
