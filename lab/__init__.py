"""LLM Observability Lab: stand up a real serving stack, drive it, and read its telemetry in pandas.

Importing this package does nothing but make names available; each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

# The face of the package: what the notebooks use. name -> module that defines it.
_FACE = {
    "LabError": "lab.errors",
    "Settings": "lab.settings",
    "load_settings": "lab.settings",
}

__all__ = sorted(_FACE)


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'lab' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(_FACE[name]), name)


def __dir__() -> list[str]:
    return __all__
