"""What is true at the help desk: typed facts, the results that tools make of them, and their SQLite database."""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from lab.errors import WorldError
from lab.world import entities as e

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
    """A tool could not answer. The text is what the agent is told."""


def plain(x: float) -> float | int:
    """A whole number without its `.0`, as people write it."""
    return int(x) if float(x).is_integer() else x


def node_status(node: Node) -> dict[str, Any]:
    """Result of get_node_status."""
    return {"state": node.state, "gpus_free": node.gpus_free}


def job_status(job: Job) -> dict[str, Any]:
    """Result of get_job_status."""
    return {"state": job.state, "node": job.node}


def quote(usd_per_hour: float, hours: int) -> dict[str, Any]:
    """Result of quote_price, for one GPU."""
    return {"usd": plain(round(usd_per_hour * hours, 2))}


def invoice_found(found: Invoice) -> dict[str, Any]:
    """Result of get_invoice."""
    return {"usd": plain(found.usd), "state": found.state}


def converted(amount_usd: float, per_usd: float, to: str) -> dict[str, Any]:
    """Result of convert_currency."""
    return {"amount": plain(round(amount_usd * per_usd, 2)), "currency": to}


def quota(found: Quota) -> dict[str, Any]:
    """Result of get_quota."""
    return {"gpus": found.gpus}


def ticket(number: int) -> dict[str, Any]:
    """Result of open_ticket."""
    return {"ticket": f"T-{number}"}


def delivery(order: Order) -> dict[str, Any]:
    """Result of get_delivery_eta."""
    return {"date": order.arrives_on}


def diagnostics(node: Node) -> dict[str, Any]:
    """Result of run_diagnostics."""
    return {"failed_check": node.failed_check}


TIMED_OUT = "upstream timed out"


def unknown(kind: str, name: str) -> str:
    """What the agent is told about something that does not exist."""
    return f"unknown {kind} {name}"


class RandomFacts:
    """Facts drawn when they are asked for, from one split: the training's world, in which nothing is seen twice."""

    def __init__(self, rng: random.Random, split: e.Split) -> None:
        self.rng, self.split = rng, split

    def node(self) -> Node:
        r = self.rng
        return Node(
            e.node(r, self.split), r.choice(e.NODE_STATES), r.randint(0, 8), r.choice(e.CHECKS)
        )

    def job(self) -> Job:
        return Job(
            e.job(self.rng, self.split), self.rng.choice(e.JOB_STATES), e.node(self.rng, self.split)
        )

    def node_of(self, job: Job) -> Node:
        drawn = self.node()
        return Node(job.node, drawn.state, drawn.gpus_free, drawn.failed_check)

    def invoice(self) -> Invoice:
        r = self.rng
        return Invoice(
            e.invoice(r, self.split), e.amount(r, self.split), r.choice(e.INVOICE_STATES)
        )

    def quota(self) -> Quota:
        r = self.rng
        return Quota(e.team(r, self.split), e.city(r, self.split), e.number(r, 1, 400, self.split))

    def order(self) -> Order:
        return Order(e.order(self.rng, self.split), _day(self.rng))

    def gpu(self) -> tuple[str, float]:
        return self.rng.choice(e.GPUS), round(self.rng.uniform(0.2, 9), 2)

    def rate(self, to: str) -> float:
        return round(
            self.rng.choice((0.8, 0.9, 1.3, 10.0, 85.0, 150.0)) * self.rng.uniform(0.9, 1.1), 4
        )

    def ticket_number(self) -> int:
        return self.rng.randint(1000, 99999)


def _day(rng: random.Random) -> str:
    return str(date(2026, 12, 1) + timedelta(days=rng.randint(0, 400)))


# --- the database that the tool server serves and the live scenarios ask about ---

_SCHEMA = """
CREATE TABLE nodes (name TEXT PRIMARY KEY, state TEXT, gpus_free INTEGER, failed_check TEXT) STRICT;
CREATE TABLE jobs (id TEXT PRIMARY KEY, state TEXT, node TEXT REFERENCES nodes (name)) STRICT;
CREATE TABLE invoices (number TEXT PRIMARY KEY, usd REAL, state TEXT) STRICT;
CREATE TABLE quotas (team TEXT, region TEXT, gpus INTEGER, PRIMARY KEY (team, region)) STRICT;
CREATE TABLE orders (number TEXT PRIMARY KEY, arrives_on TEXT) STRICT;
CREATE TABLE prices (gpu TEXT PRIMARY KEY, usd_per_hour REAL) STRICT;
CREATE TABLE rates (currency TEXT PRIMARY KEY, per_usd REAL) STRICT;
CREATE TABLE tickets (number INTEGER PRIMARY KEY, node TEXT, severity TEXT, problem TEXT, opened_at TEXT) STRICT;
"""
_ROWS = {"nodes": 120, "jobs": 160, "invoices": 120, "quotas": 100, "orders": 100}
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


def build_database(path: Path, seed: int = WORLD_SEED) -> None:
    """Write the help desk's database to `path`: the same seed gives the same facts.

    It appears whole or not at all. Raises WorldError if the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, draft = tempfile.mkstemp(dir=path.parent, suffix=".draft")
        os.close(fd)
    except OSError as err:
        raise WorldError(
            f"the help desk's database cannot be written to {path}",
            got=str(err),
            fix="check the folder",
        ) from err
    try:
        with sqlite3.connect(draft) as db:
            db.executescript(_SCHEMA)
            _fill(db, random.Random(seed))
        db.close()
        os.replace(draft, path)
    finally:
        Path(draft).unlink(missing_ok=True)


def memory_database(seed: int = WORLD_SEED) -> sqlite3.Connection:
    """The same database in memory, for scenarios and tests."""
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.executescript(_SCHEMA)
    with db:
        _fill(db, random.Random(seed))
    return db


def _fill(db: sqlite3.Connection, rng: random.Random) -> None:
    draw = RandomFacts(rng, "held_out")
    nodes = {n.name: n for n in (draw.node() for _ in range(_ROWS["nodes"]))}
    names = sorted(nodes)
    jobs = {j.id: j for j in (draw.job() for _ in range(_ROWS["jobs"]))}
    invoices = {i.number: i for i in (draw.invoice() for _ in range(_ROWS["invoices"]))}
    quotas = {(q.team, q.region): q for q in (draw.quota() for _ in range(_ROWS["quotas"]))}
    orders = {o.number: o for o in (draw.order() for _ in range(_ROWS["orders"]))}
    insert = db.executemany
    insert(
        "INSERT INTO nodes VALUES (?,?,?,?)",
        [(n.name, n.state, n.gpus_free, n.failed_check) for n in nodes.values()],
    )
    insert(
        "INSERT INTO jobs VALUES (?,?,?)",
        [(j.id, j.state, rng.choice(names)) for j in jobs.values()],
    )
    insert(
        "INSERT INTO invoices VALUES (?,?,?)",
        [(i.number, i.usd, i.state) for i in invoices.values()],
    )
    insert(
        "INSERT INTO quotas VALUES (?,?,?)", [(q.team, q.region, q.gpus) for q in quotas.values()]
    )
    insert("INSERT INTO orders VALUES (?,?)", [(o.number, o.arrives_on) for o in orders.values()])
    insert("INSERT INTO prices VALUES (?,?)", list(zip(e.GPUS, _USD_PER_HOUR, strict=True)))
    insert("INSERT INTO rates VALUES (?,?)", list(_RATES.items()))


class DatabaseFacts:
    """The same questions as RandomFacts, answered from the database: what a live scenario may ask about."""

    def __init__(self, db: sqlite3.Connection, rng: random.Random) -> None:
        self.db, self.rng = db, rng
        self._rows: dict[str, list[tuple]] = {}

    def _draw(self, sql: str) -> tuple:
        if sql not in self._rows:
            self._rows[sql] = self.db.execute(sql).fetchall()
        return self.rng.choice(self._rows[sql])

    def node(self) -> Node:
        return Node(
            *self._draw("SELECT name, state, gpus_free, failed_check FROM nodes ORDER BY name")
        )

    def job(self) -> Job:
        return Job(*self._draw("SELECT id, state, node FROM jobs ORDER BY id"))

    def node_of(self, job: Job) -> Node:
        return find_node(self.db, job.node)

    def invoice(self) -> Invoice:
        return Invoice(*self._draw("SELECT number, usd, state FROM invoices ORDER BY number"))

    def quota(self) -> Quota:
        return Quota(*self._draw("SELECT team, region, gpus FROM quotas ORDER BY team, region"))

    def order(self) -> Order:
        return Order(*self._draw("SELECT number, arrives_on FROM orders ORDER BY number"))

    def gpu(self) -> tuple[str, float]:
        return self._draw("SELECT gpu, usd_per_hour FROM prices ORDER BY gpu")

    def rate(self, to: str) -> float:
        return find_rate(self.db, to)

    def ticket_number(self) -> int:
        return 0  # only the server knows the next number; scenarios expect the shape of a ticket


def _one(db: sqlite3.Connection, sql: str, key: tuple, kind: str, name: str) -> tuple:
    row = db.execute(sql, key).fetchone()
    if row is None:
        raise ToolFailed(unknown(kind, name))
    return row


def find_node(db: sqlite3.Connection, name: str) -> Node:
    """Raises ToolFailed if there is no such node."""
    return Node(
        *_one(
            db,
            "SELECT name, state, gpus_free, failed_check FROM nodes WHERE name = ?",
            (name,),
            "node",
            name,
        )
    )


def find_rate(db: sqlite3.Connection, to: str) -> float:
    """How much of currency `to` is one USD. Raises ToolFailed if it is not traded."""
    return _one(db, "SELECT per_usd FROM rates WHERE currency = ?", (to,), "currency", to)[0]


def call_tool(db: sqlite3.Connection, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run one of the MCP tools on the database and return its result.

    Slowness and failing upstreams are the server's business. Raises ToolFailed with what the agent is told, WorldError
    for a tool that does not exist.
    """
    if tool not in _CALLS:
        raise WorldError(f"there is no tool {tool}", fix=f"use one of {', '.join(_CALLS)}")
    return _CALLS[tool](db, **arguments)


def _get_job_status(db: sqlite3.Connection, job: str) -> dict[str, Any]:
    return job_status(
        Job(*_one(db, "SELECT id, state, node FROM jobs WHERE id = ?", (job,), "job", job))
    )


def _quote_price(db: sqlite3.Connection, gpu: str, hours: int) -> dict[str, Any]:
    return quote(
        _one(db, "SELECT usd_per_hour FROM prices WHERE gpu = ?", (gpu,), "GPU", gpu)[0], hours
    )


def _get_invoice(db: sqlite3.Connection, invoice: str) -> dict[str, Any]:
    sql = "SELECT number, usd, state FROM invoices WHERE number = ?"
    return invoice_found(Invoice(*_one(db, sql, (invoice,), "invoice", invoice)))


def _get_quota(db: sqlite3.Connection, team: str, region: str) -> dict[str, Any]:
    sql = "SELECT team, region, gpus FROM quotas WHERE team = ? AND region = ?"
    return quota(Quota(*_one(db, sql, (team, region), "team", f"{team} in {region}")))


def _get_delivery_eta(db: sqlite3.Connection, order: str) -> dict[str, Any]:
    sql = "SELECT number, arrives_on FROM orders WHERE number = ?"
    return delivery(Order(*_one(db, sql, (order,), "order", order)))


def _open_ticket(db: sqlite3.Connection, node: str, severity: str, problem: str) -> dict[str, Any]:
    find_node(db, node)
    if severity not in e.SEVERITIES:
        raise ToolFailed(unknown("severity", severity))
    with db:  # one writer at a time: the number is drawn and used in one transaction
        sql = (
            "INSERT INTO tickets (number, node, severity, problem, opened_at) "
            "VALUES ((SELECT coalesce(max(number) + 1, ?) FROM tickets), ?, ?, ?, datetime('now')) RETURNING number"
        )
        number = db.execute(sql, (FIRST_TICKET, node, severity, problem)).fetchone()[0]
    return ticket(number)


_CALLS = {
    "get_node_status": lambda db, node: node_status(find_node(db, node)),
    "get_job_status": _get_job_status,
    "quote_price": _quote_price,
    "get_invoice": _get_invoice,
    "convert_currency": lambda db, amount_usd, to: converted(amount_usd, find_rate(db, to), to),
    "get_quota": _get_quota,
    "open_ticket": _open_ticket,
    "get_delivery_eta": _get_delivery_eta,
    "run_diagnostics": lambda db, node: diagnostics(find_node(db, node)),
}
