"""The database behind the tools: one connection per thread, many readers, one writer at a time."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lab.errors import WorldError
from lab.world import facts

THREADS = 4
BUSY_S = 5.0


class Database:
    """Runs tool calls on the database file.

    Makes the file from the world's seed if it is not there.
    """

    def __init__(self, path: Path) -> None:
        """Open the file. Raises WorldError if it cannot be made or is not the help desk's."""
        self.path = path
        if not path.exists():
            facts.build_database(path)
        self._local = threading.local()
        self.executor = ThreadPoolExecutor(THREADS, thread_name_prefix="lab-tools-db")
        self._check()

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Run a tool in the calling thread. Raises ToolFailed with the text for the agent."""
        return facts.call_tool(self._connection(), tool, arguments)

    def rows(self) -> int:
        """Return the number of nodes: a real query, for the health check."""
        return self._connection().execute("SELECT count(*) FROM nodes").fetchone()[0]

    def close(self) -> None:
        """Take no more calls."""
        self.executor.shutdown(wait=False, cancel_futures=True)

    def _check(self) -> None:
        again = f"remove {self.path}; it is made again from the world's seed"
        try:
            with self._connection() as db:
                db.execute("PRAGMA journal_mode = WAL")
            nodes = self.rows()
        except sqlite3.Error as e:
            raise WorldError(
                f"{self.path} is not the help desk's database", got=str(e), fix=again
            ) from e
        if not nodes:
            raise WorldError(f"{self.path} has no nodes", fix=again)

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, timeout=BUSY_S)
            connection.execute("PRAGMA synchronous = NORMAL")  # with WAL: safe but for a power cut
            self._local.connection = connection
        return connection
