"""`lab run`: execute the notebooks in order against the real stack, and leave a report.

run_notebooks(paths, out_dir, parameters, settings)   executes all, never stops at the first failure
write_report(out_dir, runs, facts)                    one self-contained page with the figures
main(argv)                                            stack up, notebooks, logs, report, stack down
"""

from __future__ import annotations

import importlib
from typing import Any

_FACE = {
    "NotebookRun": "lab.runner.execute",
    "run_notebooks": "lab.runner.execute",
    "write_report": "lab.runner.report",
}

__all__ = [*sorted(_FACE), "main"]


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'lab.runner' has no attribute {name!r}")
    return getattr(importlib.import_module(_FACE[name]), name)


def main(argv: list[str]) -> int:
    """The `lab run` command; see lab.runner.session."""
    from lab.runner import session

    return session.main(argv)
