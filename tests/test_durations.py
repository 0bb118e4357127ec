"""Durations are parsed as users type them."""

from __future__ import annotations

import pytest

from lab.durations import parse_duration_s
from lab.errors import SettingsError


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("500ms", 0.5),
        ("90s", 90.0),
        ("15m", 900.0),
        ("1.5h", 5400.0),
        ("1h30m", 5400.0),
        ("2 d", 172_800.0),
        (" 5m ", 300.0),
    ],
)
def test_durations_are_parsed(text, seconds):
    """Numbers with units are accepted, alone or in sequence."""
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "15", "m", "15x", "-5m", "5m and more", "1e3s"])
def test_what_is_not_a_duration_is_refused(text):
    """The error quotes the text and shows how to write one."""
    with pytest.raises(SettingsError, match="is not a duration"):
        parse_duration_s(text)
