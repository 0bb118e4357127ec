"""The stack: vLLM, Llama Stack, tools, trace store and Prometheus as processes of this machine under one supervisor.

    up(settings)            stands everything up, returns the endpoints; a second call repairs what died
    start(settings, name)   starts a part on demand, such as the canary; stop(settings, name) ends it
    require(settings, ...)  raises PartFailed, with the part's name and its log, unless the parts are ready
    status(settings)        one PartStatus a part
    logs(settings, ...)     log lines of one part or of all, or of one trace
    down(settings)          leaves no process

The modules behind it are imported when a function is called: vLLM's own processes import this package too, from an
environment that has little more than vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lab.settings import Settings
    from lab.stack.state import PartStatus

__all__ = ["down", "logs", "require", "start", "status", "stop", "up", "vector_store_id"]


def up(
    settings: Settings,
    progress: Callable[[list[PartStatus], float], None] | None = None,
    wait_for: Literal["agent", "all"] = "agent",
) -> dict[str, str]:
    """Start what is not running, wait until it really answers, return {endpoint name: base URL}.

    `agent` waits for everything that an agent request needs, while embeddings and documents come up behind it; `all`
    waits for those too. `progress` is called a few times a second with the parts and the seconds waited.
    Raises SettingsError, SetupError or ModelError before anything is started, PartFailed when a part does not come up.
    """
    from lab.stack import control

    return control.up(settings, progress, wait_for)


def down(settings: Settings) -> list[str]:
    """Stop every part, also those that outlived their supervisor. Returns what had to be killed, normally nothing."""
    from lab.stack import control

    return control.down(settings)


def status(settings: Settings) -> list[PartStatus]:
    """How each part is now; empty if nothing was started. Looks at the processes, not only at the status file."""
    from lab.stack import control

    return control.status(settings)


def require(settings: Settings, *parts: str, wait_s: float = 120.0) -> None:
    """Return when the parts (default: all that an agent request needs) are ready; waits for those still coming up.

    Raises PartFailed for a part that is dead or did not get ready in `wait_s`, NotUp if no lab is running.
    Does nothing where the lab is not local, or the part's address was set to somebody else's server.
    """
    from lab.stack import control

    control.require(settings, *parts, wait_s=wait_s)


def start(settings: Settings, *parts: str, wait_s: float = 300.0) -> None:
    """Start parts on demand of a running lab, such as `vllm-canary`, and wait until they answer.

    Raises NotUp if no lab is running, StackError for a part that is not on demand, PartFailed if it does not come up.
    Does nothing where the lab is not local: there the other deployment is somebody else's to start.
    """
    from lab.stack import control

    control.start(settings, *parts, wait_s=wait_s)


def stop(settings: Settings, *parts: str, wait_s: float = 30.0) -> None:
    """End parts on demand. Raises as `start` does; does nothing where the lab is not local."""
    from lab.stack import control

    control.stop(settings, *parts, wait_s=wait_s)


def logs(
    settings: Settings, part: str | None = None, trace_id: str | None = None, follow: bool = False
) -> Iterator[dict]:
    """Log entries in time order, each with `part`, `ts` (ISO 8601), `level`, `message` and the part's own fields.

    Raises NotUp if there are no logs, StackError for a part that does not exist or a malformed trace id.
    """
    from lab.stack import logbook

    return logbook.read(settings.state_dir, part, trace_id, follow)


def vector_store_id(settings: Settings, wait_s: float = 120.0) -> str:
    """The id of the vector store that holds the help desk's documents. Raises as `require` does."""
    from lab.stack import control

    return control.vector_store_id(settings, wait_s)
