"""Configure how many examples hypothesis tries.

Examples are not shrunk: a failing query is short as it is, and shrinking takes minutes.
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

_COMMON = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.explicit, Phase.reuse, Phase.generate],
}
QUICK = settings(max_examples=40, derandomize=True, **_COMMON)
LONG = settings(max_examples=300, **_COMMON)
