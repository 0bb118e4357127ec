"""The facts of the help desk's world: types, what tools return for them, the SQLite database."""

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import astuple, dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from lab import files
from lab.errors import WorldError
from lab.world import entities

WORLD_SEED = 20261125


@dataclass(frozen=True)
class Node:
    """A GPU node; `failed_check` is what its self test finds wrong, or 'none'."""

    name: str
    state: str
    gpus_free: int
    failed_check: str


@dataclass(frozen=True)
class Job:
    """A job and the name of the node that it runs on."""

    id: str
    state: str
    node: str


@dataclass(frozen=True)
class Invoice:
    """An issued invoice."""

    number: str
    usd: float
    state: str


@dataclass(frozen=True)
class Quota:
    """GPUs that a team may use in a region."""

    team: str
    region: str
    gpus: int


@dataclass(frozen=True)
class Order:
    """Ordered hardware and the day of its arrival (ISO 8601)."""

    number: str
    arrives_on: str


class ToolFailed(Exception):
    """A tool could not answer. The text is what the agent gets."""


def plain(x: float) -> float | int:
    """Return a whole number without its `.0`, as people write it."""
    return int(x) if float(x).is_integer() else x


# --- what each tool returns ---


def node_status(node: Node) -> dict[str, Any]:
    """Return the result of get_node_status."""
    return {"state": node.state, "gpus_free": node.gpus_free}


def job_status(job: Job) -> dict[str, Any]:
    """Return the result of get_job_status."""
    return {"state": job.state, "node": job.node}


def quote(usd_per_hour: float, hours: int) -> dict[str, Any]:
    """Return the result of quote_price, for one GPU."""
    return {"usd": plain(round(usd_per_hour * hours, 2))}


def invoice_found(invoice: Invoice) -> dict[str, Any]:
    """Return the result of get_invoice."""
    return {"usd": plain(invoice.usd), "state": invoice.state}


def converted(amount_usd: float, per_usd: float, to: str) -> dict[str, Any]:
    """Return the result of convert_currency."""
    return {"amount": plain(round(amount_usd * per_usd, 2)), "currency": to}


def quota(quota: Quota) -> dict[str, Any]:
    """Return the result of get_quota."""
    return {"gpus": quota.gpus}


def ticket(number: int) -> dict[str, Any]:
    """Return the result of open_ticket."""
    return {"ticket": f"T-{number}"}


def delivery(order: Order) -> dict[str, Any]:
    """Return the result of get_delivery_eta."""
    return {"date": order.arrives_on}


def diagnostics(node: Node) -> dict[str, Any]:
    """Return the result of run_diagnostics."""
    return {"failed_check": node.failed_check}


TIMED_OUT = "upstream timed out"


def unknown(kind: str, name: str) -> str:
    """Return what the agent gets for something that does not exist."""
    return f"unknown {kind} {name}"


class RandomFacts:
    """Facts drawn from one split: the world of training, in which nothing is seen twice."""

    def __init__(self, rng: random.Random, split: entities.Split) -> None:
        self.rng = rng
        self.split = split

    def node(self) -> Node:
        """Draw a node."""
        return Node(
            entities.node(self.rng, self.split),
            self.rng.choice(entities.NODE_STATES),
            self.rng.randint(0, 8),
            self.rng.choice(entities.CHECKS),
        )

    def job(self) -> Job:
        """Draw a job."""
        return Job(
            entities.job(self.rng, self.split),
            self.rng.choice(entities.JOB_STATES),
            entities.node(self.rng, self.split),
        )

    def node_of(self, job: Job) -> Node:
        """Draw the node that a job runs on."""
        return replace(self.node(), name=job.node)

    def invoice(self) -> Invoice:
        """Draw an invoice."""
        return Invoice(
            entities.invoice(self.rng, self.split),
            entities.amount(self.rng, self.split),
            self.rng.choice(entities.INVOICE_STATES),
        )

    def quota(self) -> Quota:
        """Draw a team's quota in a region."""
        return Quota(
            entities.team(self.rng, self.split),
            entities.city(self.rng, self.split),
            entities.number(self.rng, 1, 400, self.split),
        )

    def order(self) -> Order:
        """Draw an order."""
        number = entities.order(self.rng, self.split)
        arrives_on = date(2026, 12, 1) + timedelta(days=self.rng.randint(0, 400))
        return Order(number, str(arrives_on))

    def gpu(self) -> tuple[str, float]:
        """Draw a GPU type and its price in USD per hour."""
        return self.rng.choice(entities.GPUS), round(self.rng.uniform(0.2, 9), 2)

    def rate(self, to: str) -> float:
        """Draw how much of currency `to` one USD is."""
        magnitude = self.rng.choice((0.8, 0.9, 1.3, 10.0, 85.0, 150.0))
        return round(magnitude * self.rng.uniform(0.9, 1.1), 4)

    def ticket_number(self) -> int:
        """Draw the number of a ticket."""
        return self.rng.randint(1000, 99999)


# --- the database that the tool server serves and that live scenarios are about ---

_SCHEMA = """
CREATE TABLE nodes (name TEXT PRIMARY KEY, state TEXT, gpus_free INTEGER, failed_check TEXT) STRICT;
CREATE TABLE jobs (id TEXT PRIMARY KEY, state TEXT, node TEXT REFERENCES nodes (name)) STRICT;
CREATE TABLE invoices (number TEXT PRIMARY KEY, usd REAL, state TEXT) STRICT;
CREATE TABLE quotas (team TEXT, region TEXT, gpus INTEGER, PRIMARY KEY (team, region)) STRICT;
CREATE TABLE orders (number TEXT PRIMARY KEY, arrives_on TEXT) STRICT;
CREATE TABLE prices (gpu TEXT PRIMARY KEY, usd_per_hour REAL) STRICT;
CREATE TABLE rates (currency TEXT PRIMARY KEY, per_usd REAL) STRICT;
CREATE TABLE tickets (
    number INTEGER PRIMARY KEY, node TEXT, severity TEXT, problem TEXT, opened_at TEXT) STRICT;
"""
_RATES = {
    "EUR": 0.92,
    "GBP": 0.79,
    "JPY": 151.4,
    "CHF": 0.88,
    "SEK": 10.6,
    "INR": 84.3,
    "CAD": 1.38,
    "AUD": 1.53,
}
_USD_PER_HOUR = (3.0, 3.8, 1.6, 5.2, 1.1, 0.6, 0.75, 0.35, 2.9, 3.4)
FIRST_TICKET = 1001
_SELECT: dict[type, str] = {
    Node: "SELECT name, state, gpus_free, failed_check FROM nodes",
    Job: "SELECT id, state, node FROM jobs",
    Invoice: "SELECT number, usd, state FROM invoices",
    Quota: "SELECT team, region, gpus FROM quotas",
    Order: "SELECT number, arrives_on FROM orders",
}


def build_database(path: Path, seed: int = WORLD_SEED) -> None:
    """Write the help desk's database to `path`, whole or not at all.

    The same seed gives the same facts. Raises WorldError if the folder cannot be written.
    """
    with closing(memory_database(seed)) as db:
        content = db.serialize()
    files.save(path, content, WorldError, mode=0o600)


def memory_database(seed: int = WORLD_SEED) -> sqlite3.Connection:
    """Return the same database in memory, for scenarios and tests."""
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.executescript(_SCHEMA)
    with db:
        for table, rows in _tables(random.Random(seed)).items():
            places = ",".join("?" * len(rows[0]))
            db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({places})", rows)
    return db


def _tables(rng: random.Random) -> dict[str, list[tuple]]:
    """Return the rows of every table.

    Of rows with the same key, which may occur, the last one counts.
    """
    facts = RandomFacts(rng, "held_out")
    nodes = [facts.node() for _ in range(120)]
    jobs = [facts.job() for _ in range(160)]
    tables: dict[str, list[tuple]] = {
        "nodes": [astuple(node) for node in nodes],
        "invoices": [astuple(facts.invoice()) for _ in range(120)],
        "quotas": [astuple(facts.quota()) for _ in range(100)],
        "orders": [astuple(facts.order()) for _ in range(100)],
        "prices": list(zip(entities.GPUS, _USD_PER_HOUR, strict=True)),
        "rates": list(_RATES.items()),
    }
    names = sorted({node.name for node in nodes})
    jobs_by_id = {job.id: job for job in jobs}
    tables["jobs"] = [(j.id, j.state, rng.choice(names)) for j in jobs_by_id.values()]
    return tables


class DatabaseFacts:
    """The facts of the database, drawn at random: what a live scenario may be about."""

    def __init__(self, db: sqlite3.Connection, rng: random.Random) -> None:
        self.db = db
        self.rng = rng
        self._rows: dict[str, list[tuple]] = {}

    def _draw(self, sql: str) -> tuple:
        if sql not in self._rows:
            self._rows[sql] = self.db.execute(sql).fetchall()
        return self.rng.choice(self._rows[sql])

    def _draw_one(self, kind: type[Any], order: str) -> Any:
        return kind(*self._draw(f"{_SELECT[kind]} ORDER BY {order}"))

    def node(self) -> Node:
        """Draw a node."""
        return self._draw_one(Node, "name")

    def job(self) -> Job:
        """Draw a job."""
        return self._draw_one(Job, "id")

    def node_of(self, job: Job) -> Node:
        """Return the node that a job runs on."""
        return find_node(self.db, job.node)

    def invoice(self) -> Invoice:
        """Draw an invoice."""
        return self._draw_one(Invoice, "number")

    def quota(self) -> Quota:
        """Draw a team's quota in a region."""
        return self._draw_one(Quota, "team, region")

    def order(self) -> Order:
        """Draw an order."""
        return self._draw_one(Order, "number")

    def gpu(self) -> tuple[str, float]:
        """Draw a GPU type and its price in USD per hour."""
        name, usd_per_hour = self._draw("SELECT gpu, usd_per_hour FROM prices ORDER BY gpu")
        return name, usd_per_hour

    def rate(self, to: str) -> float:
        """Return how much of currency `to` one USD is."""
        return find_rate(self.db, to)

    def ticket_number(self) -> int:
        """Return 0: only the server knows the next number."""
        return 0


def _get(db: sqlite3.Connection, sql: str, key: tuple, kind: str) -> tuple:
    """Return the one row, or raise ToolFailed with the kind and the key."""
    row = db.execute(sql, key).fetchone()
    if row is None:
        raise ToolFailed(unknown(kind, " in ".join(key)))
    return row


def find_node(db: sqlite3.Connection, name: str) -> Node:
    """Return the node of this name. Raises ToolFailed if there is none."""
    return _find(db, Node, "name = ?", name)


def find_rate(db: sqlite3.Connection, to: str) -> float:
    """Return how much of currency `to` one USD is. Raises ToolFailed if it is not traded."""
    return _get(db, "SELECT per_usd FROM rates WHERE currency = ?", (to,), "currency")[0]


def _find_price(db: sqlite3.Connection, gpu: str) -> float:
    return _get(db, "SELECT usd_per_hour FROM prices WHERE gpu = ?", (gpu,), "GPU")[0]


def call_tool(db: sqlite3.Connection, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run one of the MCP tools on the database and return its result.

    Slowness and failing upstreams are added by the server. Raises ToolFailed with what the agent
    gets, WorldError for a tool that does not exist.
    """
    if tool not in IMPLEMENTATIONS:
        names = ", ".join(IMPLEMENTATIONS)
        raise WorldError(f"there is no tool {tool}", fix=f"use one of {names}")
    return IMPLEMENTATIONS[tool](db, **arguments)


def _open_ticket(db: sqlite3.Connection, node: str, severity: str, problem: str) -> dict[str, Any]:
    find_node(db, node)
    if severity not in entities.SEVERITIES:
        raise ToolFailed(unknown("severity", severity))
    with db:  # one writer at a time: the number is drawn and used in one transaction
        sql = (
            "INSERT INTO tickets (number, node, severity, problem, opened_at) "
            "VALUES ((SELECT coalesce(max(number) + 1, ?) FROM tickets), ?, ?, ?, datetime('now')) "
            "RETURNING number"
        )
        number = db.execute(sql, (FIRST_TICKET, node, severity, problem)).fetchone()[0]
    return ticket(number)


def _find(db: sqlite3.Connection, kind: type[Any], where: str, *key: str) -> Any:
    """Return the one row of a table as its class. Raises ToolFailed."""
    sql = f"{_SELECT[kind]} WHERE {where}"
    return kind(*_get(db, sql, key, "team" if kind is Quota else kind.__name__.lower()))


IMPLEMENTATIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "get_node_status": lambda db, node: node_status(find_node(db, node)),
    "get_job_status": lambda db, job: job_status(_find(db, Job, "id = ?", job)),
    "quote_price": lambda db, gpu, hours: quote(_find_price(db, gpu), hours),
    "get_invoice": lambda db, invoice: invoice_found(_find(db, Invoice, "number = ?", invoice)),
    "convert_currency": lambda db, amount_usd, to: converted(amount_usd, find_rate(db, to), to),
    "get_quota": lambda db, team, region: quota(
        _find(db, Quota, "team = ? AND region = ?", team, region)
    ),
    "open_ticket": _open_ticket,
    "get_delivery_eta": lambda db, order: delivery(_find(db, Order, "number = ?", order)),
    "run_diagnostics": lambda db, node: diagnostics(find_node(db, node)),
}
