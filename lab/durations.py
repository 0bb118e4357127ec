"""Parse durations as users and Prometheus write them: `90s`, `15m`, `1h30m`."""

import re

from lab.errors import SettingsError

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_COMPONENT = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhd])\s*")
EXAMPLES = "500ms, 90s, 15m, 1h30m or 2d"


def parse_duration_s(text: str) -> float:
    """Return the duration in seconds. Raises SettingsError for text that is not a duration."""
    components = _COMPONENT.findall(text)

    if not components or _COMPONENT.sub("", text).strip():
        raise SettingsError(
            f"{text!r} is not a duration", fix=f"write a number with a unit, such as {EXAMPLES}"
        )

    return sum(float(number) * _UNITS_S[unit] for number, unit in components)
