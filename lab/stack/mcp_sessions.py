"""Close each MCP session of Llama Stack in the task that opened it.

Llama Stack runs each event of a streamed response in a new task, so it closes a session in another
task than the one that opened it. anyio refuses that, and Llama Stack ignores the error: a task, two
cancel scopes and a span per request, 33 kB, stayed in memory. Here every session has a task of its
own, which opens it, waits until the request ends, and closes it.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from typing import Any

# How long a response waits for its sessions to close; a server may be asked to end them.
CLOSE_S = 5.0


def own_sessions(module: str) -> None:
    """Give every session of the module's MCPSessionManager an owner.

    A module without such a class is left as it is.
    """
    try:
        manager = importlib.import_module(module).MCPSessionManager
        create, leave = manager._create_session, manager.__aexit__
        manager()._sessions  # noqa: B018
    except (ImportError, AttributeError):
        return

    async def create_session(self: Any, endpoint: str, headers: dict[str, str]) -> Any:
        owner = _Owner(manager(), lambda owned: create(owned, endpoint, headers), leave)
        vars(self).setdefault("_owners", []).append(owner)
        return await owner.open()

    async def close(self: Any, *exception: Any) -> Any:
        owners = vars(self).pop("_owners", [])
        for owner in owners:
            owner.closing.set()
        if owners:
            await asyncio.wait([owner.task for owner in owners], timeout=CLOSE_S)
        self._sessions.clear()
        return await leave(self, *exception)

    manager._create_session = create_session
    manager.__aexit__ = close


class _Owner:
    """The task of one session. `manager` is a session manager that holds this session only."""

    def __init__(
        self,
        manager: Any,
        create: Callable[[Any], Awaitable[tuple]],
        leave: Callable[..., Awaitable],
    ) -> None:
        self._manager = manager
        self._create = create
        self._leave = leave
        self._opened: asyncio.Future = asyncio.get_running_loop().create_future()
        self.closing = asyncio.Event()
        self.task = asyncio.create_task(self._own())

    async def open(self) -> tuple:
        """Return the session with its contexts, or raise what prevented it."""
        try:
            return await self._opened
        except asyncio.CancelledError:
            self.task.cancel()
            raise

    async def _own(self) -> None:
        try:
            contexts = await self._create(self._manager)
        except BaseException as error:
            if not self._opened.cancelled():
                self._opened.set_exception(error)
            return
        self._manager._sessions["own"] = contexts
        if not self._opened.cancelled():
            self._opened.set_result(contexts)
        try:
            await self.closing.wait()
        finally:
            await self._leave(self._manager, None, None, None)
            # If the connection broke, mcp 1 would let the callers wait forever.
            for response in getattr(contexts[0], "_response_streams", {}).values():
                response.close()
