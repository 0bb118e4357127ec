"""Documents read by Arrow and documents walked give the same frame."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.frames.otlp_arrow import NotPlain, span_table
from lab.frames.spans import _from_json, _walked
from tests.frames.telemetry import CLIENT, agent_request, document, span

NAMES = ("text", "whole", "real", "yes")
_PLAIN = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text(max_size=8),
        "whole": st.integers(-(2**53), 2**53),
        "real": st.floats(allow_nan=False, allow_infinity=False),
        "yes": st.booleans(),
    },
)
_SPANS = st.lists(
    st.tuples(st.integers(1, 2**64 - 1), st.integers(0, 3), st.text(max_size=5), _PLAIN), max_size=5
)


def made(rows: list) -> bytes:
    """One document of these spans."""
    return document(
        *(
            span(own, parent, f"svc{own % 3}", name, 0, 1.25, CLIENT, **a)
            for own, parent, name, a in rows
        )
    )


@settings(max_examples=80, deadline=None)
@given(st.lists(_SPANS.filter(bool), min_size=1, max_size=4))
def test_both_ways_are_the_same(documents: list) -> None:
    """Ids, texts in any script, times, and attributes that only some spans have."""
    texts = [made(rows) for rows in documents]
    fast = _from_json(texts, NAMES)
    pd.testing.assert_frame_equal(
        fast, _walked(texts, NAMES), check_categorical=False, check_column_type=False
    )


def test_a_real_request_is_read_by_arrow() -> None:
    """The usual case does not fall back; line breaks between tokens and hex ids do not change that."""
    text = document(*agent_request())
    table = span_table([text, text.replace(b",", b",\n")], ["gen_ai.usage.prompt_tokens"])
    assert len(table) == 2 * len(_walked([text], ()))


@pytest.mark.parametrize("odd", [{"many": [1]}, {"mixed": True}])
def test_what_is_not_plain_is_left_to_the_walk(odd: dict) -> None:
    """Arrays and attributes of two types: no value is lost on the way."""
    texts = [made([(1, 0, "a", odd)]), made([(2, 0, "b", {k: "text" for k in odd})])]
    with pytest.raises(NotPlain):
        span_table(texts, tuple(odd))
    assert _from_json(texts, tuple(odd))[next(iter(odd))].notna().all()
