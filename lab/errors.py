"""The tree of errors. Each error says what happened, what was found, and how to fix it.

LabError
├── SettingsError           a setting is missing, malformed or contradicts another
├── SetupError              the machine lacks something (interpreter, package, disk)
├── StackError              a part of the stack
│   ├── PartFailed          ... did not come up, or died; names the part and its log
│   └── NotUp               ... is needed but not running
├── StoreError              Prometheus or Tempo
│   ├── StoreUnreachable    ... did not answer
│   ├── QueryRejected       ... refused the query; carries the query and the server's message
│   ├── NoData              ... returned an empty answer where data was needed
│   └── IncompleteTraces    ... has traces that never completed within the wait
├── WorldError              the help desk's data (unknown tool, broken catalogue, missing database)
├── WorkloadError           a plan cannot be made or read, or a run failed
├── ModelError              a model folder is missing or corrupt
├── FrameError              a table lacks a column or breaks a promise of the schema
└── NotebookError           a notebook cannot be run (an unknown parameter, a failed cell)
"""

from __future__ import annotations

from collections.abc import Container, Iterable


class LabError(Exception):
    """Base of every error that the lab raises on purpose.

    `happened` is one sentence; `got` says what was found instead; `fix` says how to correct it.
    """

    def __init__(self, happened: str, *, got: str = "", fix: str = "") -> None:
        self.happened = happened
        self.got = got
        self.fix = fix
        parts = [happened, f"  Got: {got}" if got else "", f"  Fix: {fix}" if fix else ""]
        super().__init__("\n".join(p for p in parts if p))


class SettingsError(LabError):
    """A setting is missing, malformed or contradicts another."""


class SetupError(LabError):
    """The machine lacks something that the lab needs."""


class StackError(LabError):
    """A part of the stack is not as it should be."""


class PartFailed(StackError):
    """A part did not come up, or died. `part` names it, `log` is the file to read."""

    def __init__(
        self, happened: str, *, part: str, log: str = "", got: str = "", fix: str = ""
    ) -> None:
        self.part = part
        self.log = log
        super().__init__(happened, got=got, fix=fix or (f"read {log}" if log else ""))


class NotUp(StackError):
    """A part is needed, but it is not running."""


class StoreError(LabError):
    """A request to Prometheus or Tempo failed. `query` is the query that was sent."""

    def __init__(self, happened: str, *, query: str = "", got: str = "", fix: str = "") -> None:
        self.query = query
        super().__init__(happened, got=got or (f"query {query}" if query else ""), fix=fix)


class StoreUnreachable(StoreError):
    """The store did not answer."""


class QueryRejected(StoreError):
    """The store refused the query."""


class NoData(StoreError):
    """The store returned an empty answer where data was needed."""


class IncompleteTraces(StoreError):
    """Traces did not complete within the wait."""


class WorldError(LabError):
    """The help desk's data is not usable."""


class WorkloadError(LabError):
    """A plan cannot be made or read, or a run failed."""


class ModelError(LabError):
    """A model folder is missing or corrupt."""


class FrameError(LabError):
    """A table lacks a column, or breaks a promise of the schema."""


def require_columns(
    table: Container[str], names: Iterable[str], happened: str, *, got: str = "", fix: str = ""
) -> None:
    """Raise FrameError where a table lacks columns; {} in `happened` stands for their names."""
    if missing := [name for name in names if name not in table]:
        raise FrameError(happened.format(", ".join(missing)), got=got, fix=fix)


class NotebookError(LabError):
    """A notebook cannot be run as asked."""
