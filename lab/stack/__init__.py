"""The stack: vLLM, Llama Stack, tools, trace store and Prometheus under one supervisor.

    up(settings)            stands everything up and returns the endpoints; again: repairs what died
    start(settings, name)   starts a part on demand, such as the canary; `stop` ends it
    require(settings, ...)  raises PartFailed, with the part's name and log, unless parts are ready
    status(settings)        one PartStatus per part
    logs(settings, ...)     log lines of one part or of all, or of one trace
    down(settings)          leaves no process

Each is loaded when it is first used: vLLM's own processes import this package too, from an
environment that has little more than vLLM.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.stack.control import down, logs, require, start, status, stop, up

__all__ = ["down", "logs", "require", "start", "status", "stop", "up"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lab.stack' has no attribute {name!r}")
    return getattr(importlib.import_module("lab.stack.control"), name)
