"""The help desk's database: the same from the same seed, whole or absent, and its tools answer what
it holds.
"""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.errors import WorldError
from lab.world import MCP_TOOLS, ToolFailed, build_database, call_tool, documents, memory_database

DOCUMENTS = Path(__file__).resolve().parents[2] / "data" / "world" / "documents"


def test_same_seed_same_facts(tmp_path: Path) -> None:
    """A file and a database in memory from the same seed hold the same rows.

    Another seed does not.
    """
    build_database(tmp_path / "a.sqlite")
    on_disk = sqlite3.connect(tmp_path / "a.sqlite")
    assert list(on_disk.iterdump()) == list(memory_database().iterdump())
    assert list(on_disk.iterdump()) != list(memory_database(seed=1).iterdump())


def test_unwritable_folder_is_said(tmp_path: Path) -> None:
    """A file where the folder should be: a clear error, and nothing half-written."""
    (tmp_path / "file").write_text("")
    with pytest.raises(WorldError, match="cannot be written"):
        build_database(tmp_path / "file" / "world.sqlite")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_documents_on_disk_are_the_generators() -> None:
    """data/world/documents is what lab.world.documents writes."""
    made = {name: text for name, (text, _) in documents.all_documents().items()}
    assert {p.name: p.read_text(encoding="utf-8") for p in DOCUMENTS.glob("*.md")} == made


def test_price_of_hours_by_hand() -> None:
    """12 hours of an H100 at 3 USD an hour."""
    assert call_tool(memory_database(), "quote_price", {"gpu": "H100", "hours": 12}) == {"usd": 36}


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("get_node_status", {"node": "nowhere"}, "unknown node nowhere"),
        ("get_node_status", {"node": "x' OR '1'='1"}, "unknown node x' OR '1'='1"),
        ("convert_currency", {"amount_usd": 1, "to": "XXX"}, "unknown currency XXX"),
        (
            "open_ticket",
            {"node": "nowhere", "severity": "high", "problem": "p"},
            "unknown node nowhere",
        ),
    ],
)
def test_the_agent_gets_an_error_for_what_does_not_exist(
    tool: str, arguments: dict, words: str
) -> None:
    """An unknown name is a tool error with the name in it, never a database error."""
    with pytest.raises(ToolFailed) as caught:
        call_tool(memory_database(), tool, arguments)
    assert str(caught.value) == words


def test_tickets_written_at_once_get_different_numbers(tmp_path: Path) -> None:
    """Eight writers, forty tickets, forty numbers."""
    path = tmp_path / "w.sqlite"
    build_database(path)
    node = sqlite3.connect(path).execute("SELECT name FROM nodes").fetchone()[0]

    def write(_: int) -> str:
        db = sqlite3.connect(path, timeout=30)
        return call_tool(
            db, "open_ticket", {"node": node, "severity": "low", "problem": "fan is loud"}
        )["ticket"]

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(write, range(40)))) == 40


def test_every_mcp_tool_has_an_implementation() -> None:
    """No tool is offered that cannot be called."""
    for tool in MCP_TOOLS:
        wrong = {p.name: 1 if p.type != "string" else "nothing-like-it" for p in tool.parameters}
        with pytest.raises(ToolFailed):
            call_tool(memory_database(), tool.name, wrong)
