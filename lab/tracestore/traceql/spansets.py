"""Spanset pipelines -> SQL: a relation of matching spans, per trace and, after by(), per group.

A relation has the columns trace_id, rid (the row of `spans`), span_id, parent_id, start_ns and,
after n groupings, g1..gn (text with the type in its first letter, so that the string "1" and the
number 1 are two groups). Aggregates of scalar filters are carried as v1..vn, because Tempo returns
them with the spanset.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import duckdb

from lab.tracestore.catalogue import Catalogue
from lab.tracestore.traceql import ast
from lab.tracestore.traceql.fetch import FetchPlan
from lab.tracestore.traceql.fields import FieldCompiler, Needs, Parameters, Slots
from lab.tracestore.traceql.pipeline import STRUCTURAL

_KEYS = "trace_id, rid, span_id, parent_id, start_ns"
_NESTED_SETS = "nested_sets"  # a temporary table


@dataclass(frozen=True)
class Window:
    """Spans that overlap [start_ns, end_ns] (unix ns) take part. `source` is the table of spans.

    With `edges`, traces are meant: the spans of these traces take part wherever they are, and no
    span that takes part starts outside [first_ns, last_ns] (see `lab.tracestore.windows`).
    """

    start_ns: int = 0
    end_ns: int = 2**63 - 1
    source: str = "spans"
    edges: tuple[str, ...] | None = None
    first_ns: int = 0
    last_ns: int = 2**63 - 1


@dataclass(frozen=True)
class Relation:
    """SQL of a relation, and what its extra columns are."""

    sql: str
    groups: tuple[ast.FieldExpression, ...] = ()
    values: tuple[ast.Aggregate, ...] = ()

    @property
    def group_columns(self) -> list[str]:
        """The columns of groupings."""
        return [f"g{i + 1}" for i in range(len(self.groups))]

    @property
    def extra_columns(self) -> list[str]:
        """The columns of groupings and aggregates."""
        return self.group_columns + [f"v{i + 1}" for i in range(len(self.values))]

    @property
    def columns(self) -> str:
        """All columns, for a SELECT."""
        return ", ".join([_KEYS, *self.extra_columns])


class SpansetCompiler:
    """Compiles pipelines over a window. `ctes` are the WITH clauses that the relations lean on."""

    def __init__(
        self,
        catalogue: Catalogue,
        window: Window,
        parameters: Parameters | None = None,
        plan: FetchPlan | None = None,
    ) -> None:
        """Compile for the spans of a window, and with a plan as Tempo reads them."""
        self.catalogue = catalogue
        self.window = window
        self.parameters = parameters or Parameters()
        self.plan = plan
        self.ctes: list[str] = []
        self.needs_nested_sets = False
        self._names = 0

    def prepare(self, con: duckdb.DuckDBPyConnection) -> None:
        """Create the tables beside the spans that the statement reads, on its connection."""
        if not self.needs_nested_sets:
            return
        from lab.tracestore import nested_sets  # with numpy, for which the start does not wait

        source = self.window.source
        if source == "spans" and self.window.edges is not None:
            traces = f"SELECT trace_id FROM spans s WHERE {self._overlap_literal()}"
            source = (
                "(SELECT rowid, trace_id, span_id, parent_id, start_ns, res_id, scope_id "
                f"FROM spans WHERE trace_id IN ({traces}))"
            )
        nested_sets.register(con, source, _NESTED_SETS)

    def _overlap_literal(self) -> str:
        window = self.window
        return f"s.start_ns <= {window.end_ns:d} AND s.end_ns >= {window.start_ns:d}"

    # -- SQL pieces

    def statement(self, body: str) -> str:
        """Return a whole statement: the WITH clauses, then the body."""
        return (f"WITH RECURSIVE {', '.join(self.ctes)} " if self.ctes else "") + body

    def name(self, sql: str, *, materialized: bool = True) -> str:
        """Give a subquery a name that can be used several times."""
        self._names += 1
        name = f"q{self._names}"
        self.ctes.append(f"{name} AS {'MATERIALIZED ' if materialized else ''}({sql})")
        return name

    def fields(self) -> FieldCompiler:
        """Return a compiler of field expressions."""
        return FieldCompiler(self.catalogue, self.parameters, plan=self.plan)

    def source(self, needs: Needs) -> str:
        """FROM and the joins that the expressions need."""
        sql = f"{self.window.source} s"
        if needs.resources:
            sql += " LEFT JOIN resources r ON r.id = s.res_id"
        if needs.scopes:
            sql += " LEFT JOIN scopes c ON c.id = s.scope_id"
        if needs.trace:
            traces = TRACES.format(source=self.window.source)
            sql += f" LEFT JOIN ({traces}) t ON t.trace_id = s.trace_id"
        if needs.children:
            children = (
                "SELECT trace_id, parent_id, count(*) AS children "
                f"FROM {self.window.source} GROUP BY ALL"
            )
            sql += (
                f" LEFT JOIN ({children}) k ON k.trace_id = s.trace_id AND k.parent_id = s.span_id"
            )
        if needs.nested_sets:
            self.needs_nested_sets = True
            sql += f" LEFT JOIN {_NESTED_SETS} n ON n.rid = s.rowid"
        return sql

    def in_window(self) -> str:
        """Return the condition that a span takes part."""
        window = self.window
        parts = []
        if window.end_ns < 2**63 - 1:
            parts.append(f"s.start_ns <= {self.parameters.add(window.end_ns)}::BIGINT")
        if window.start_ns > 0:
            parts.append(f"s.end_ns >= {self.parameters.add(window.start_ns)}::BIGINT")
        overlap = " AND ".join(parts) or "TRUE"
        if not window.edges:
            return overlap

        traces = f"SELECT unnest({self.parameters.add(list(window.edges))}::UUID[])"
        first = f"{self.parameters.add(window.first_ns)}::BIGINT"
        last = f"{self.parameters.add(window.last_ns)}::BIGINT"
        return (
            f"s.start_ns BETWEEN {first} AND {last} AND (({overlap}) OR s.trace_id IN ({traces}))"
        )

    # -- pipelines

    def pipeline(self, pipeline: ast.Pipeline, inside: Relation | None = None) -> Relation:
        """Return the relation after the last stage.

        `inside` restricts the first stage, for a pipeline within a pipeline.
        """
        first, *others = pipeline.stages
        relation = self.stage(first, inside)
        for stage in others:
            relation = self.stage(stage, relation)
        return relation

    def stage(self, stage: ast.Node, before: Relation | None) -> Relation:
        """Return the relation after a stage."""
        match stage:
            case ast.Filter():
                return self._filter(stage, before)
            case ast.SpansetOp():
                return self._operator(stage, before)
            case ast.Pipeline():
                return self.pipeline(stage, before)
        everything = ast.Filter(ast.Static(ast.Type.BOOLEAN, True))
        before = before or self._filter(everything, None)
        match stage:
            case ast.ScalarFilter():
                return self._scalar_filter(stage, before)
            case ast.GroupBy():
                return self._group_by(stage, before)
            case ast.Coalesce():
                return Relation(f"SELECT DISTINCT {_KEYS} FROM ({before.sql})")
            case ast.Select():
                return before
        raise TypeError(stage)

    def _filter(self, stage: ast.Filter, before: Relation | None) -> Relation:
        compiler = self.fields()
        where = compiler.filter(stage)
        if before is None:
            columns = "s.trace_id, s.rowid AS rid, s.span_id, s.parent_id, s.start_ns"
            return Relation(
                f"SELECT {columns} FROM {self.source(compiler.needs)} "
                f"WHERE {self.in_window()} AND ({where})"
            )
        if where == "TRUE":
            return before
        return replace(before, sql=self._joined(before, compiler.needs, where))

    def _joined(self, before: Relation, needs: Needs, where: str, more: str = "") -> str:
        """Join the relation's spans with their rows again, for conditions and values."""
        columns = ", ".join(f"b.{c}" for c in [*_KEYS.split(", "), *before.extra_columns])
        joined = f"{self.source(needs)} JOIN ({before.sql}) b ON b.rid = s.rowid"
        return f"SELECT {columns}{more} FROM {joined} WHERE {where}"

    def _group_by(self, stage: ast.GroupBy, before: Relation) -> Relation:
        compiler = self.fields()
        key = group_key(compiler.group_slots(stage.operand))
        column = f"g{len(before.groups) + 1}"
        # Values found before are of the undivided spansets, but Tempo carries them on: so do we.
        sql = self._joined(before, compiler.needs, "TRUE", f", {key} AS {column}")
        return Relation(sql, (*before.groups, stage.operand), before.values)

    def _scalar_filter(self, stage: ast.ScalarFilter, before: Relation) -> Relation:
        aggregate = stage.left
        static = stage.right
        if not isinstance(aggregate, ast.Aggregate) or not isinstance(static, ast.Static):
            raise TypeError(stage)  # refused by `validate`

        keys = ["trace_id", *before.group_columns]
        column = f"v{len(before.values) + 1}"
        if aggregate.operand is None:
            rows = before.sql
            value = "count(*)"
        else:
            compiler = self.fields()
            number = _number(compiler.slots(aggregate.operand))
            rows = self._joined(before, compiler.needs, "TRUE", f", {number} AS operand")
            value = f"{aggregate.op}(operand)"
        compared = (
            f"{value} {'<>' if stage.op == '!=' else stage.op} {self.parameters.add(static.value)}"
        )
        listed = ", ".join(keys)
        sums = (
            f"SELECT {listed}, {value} AS {column} FROM ({rows}) "
            f"GROUP BY {listed} HAVING {compared}"
        )
        on = " AND ".join(f"a.{k} = b.{k}" for k in keys)
        columns = ", ".join(f"b.{c}" for c in [*_KEYS.split(", "), *before.extra_columns])
        sql = f"SELECT {columns}, a.{column} FROM ({before.sql}) b JOIN ({sums}) a ON {on}"
        return Relation(sql, before.groups, (*before.values, aggregate))

    # -- operators between spansets

    def _operator(self, node: ast.SpansetOp, before: Relation | None) -> Relation:
        base = (
            Relation(f"SELECT * FROM {self.name(before.sql)}", before.groups, before.values)
            if before
            else None
        )
        left = self.stage(node.left, base)
        right = self.stage(node.right, base)
        keys = ["trace_id", *(base.group_columns if base else [])]
        columns = ", ".join([*_KEYS.split(", "), *(base.extra_columns if base else [])])
        lname = self.name(f"SELECT {columns} FROM ({left.sql})")
        rname = self.name(f"SELECT {columns} FROM ({right.sql})")
        sql = self._combined(node.op, lname, rname, keys, columns)
        return Relation(sql, base.groups if base else (), base.values if base else ())

    def _combined(self, op: str, left: str, right: str, keys: list[str], columns: str) -> str:
        if op == "||":
            return f"SELECT {columns} FROM {left} UNION SELECT {columns} FROM {right}"
        if op == "&&":
            listed = ", ".join(keys)
            both = f"SELECT {listed} FROM {left} INTERSECT SELECT {listed} FROM {right}"
            on = " AND ".join(f"u.{k} = m.{k}" for k in keys)
            union = f"SELECT {columns} FROM {left} UNION SELECT {columns} FROM {right}"
            return f"SELECT u.* FROM ({union}) u SEMI JOIN ({both}) m ON {on}"
        assert op in STRUCTURAL
        return self._structural(op, left, right, keys, columns)

    def _structural(self, op: str, left: str, right: str, keys: list[str], columns: str) -> str:
        """Pairs (l, r) with the wanted kinship.

        The result is r, or both for &, or the r without a partner for !.
        """
        mark, kin = (op[0], op[1:]) if op[0] in "!&" else ("", op)
        same_group = "".join(f" AND l.{k} = r.{k}" for k in keys[1:])
        pairs = self.name(
            f"SELECT DISTINCT l.rid AS l, r.rid AS r FROM {self._kin(kin, left, right)}{same_group}"
        )
        if mark == "!":
            partner = f"SELECT 1 FROM {pairs} p WHERE p.r = r.rid"
            return f"SELECT {columns} FROM {right} r WHERE NOT EXISTS ({partner})"
        found = f"SELECT {columns} FROM {right} SEMI JOIN {pairs} p ON p.r = rid"
        if mark == "&":
            found = f"SELECT {columns} FROM {left} SEMI JOIN {pairs} p ON p.l = rid UNION {found}"
        return found

    def _kin(self, kin: str, left: str, right: str) -> str:
        """FROM ... ON ... of the pairs: l stands `kin` r, as in `l > r`: r is a child of l."""
        joined = f"{left} l JOIN {right} r ON l.trace_id = r.trace_id AND l.rid <> r.rid"
        if kin == ">":
            return f"{joined} AND r.parent_id = l.span_id"
        if kin == "<":
            return f"{joined} AND l.parent_id = r.span_id"
        if kin == "~":
            return f"{joined} AND l.parent_id = r.parent_id"
        above, below = (left, right) if kin == ">>" else (right, left)
        lines = self._ancestors(above, below)
        low, high = ("r", "l") if kin == ">>" else ("l", "r")
        return f"{joined} JOIN {lines} u ON u.rid = {low}.rid AND u.ancestor = {high}.span_id"

    def _ancestors(self, above: str, below: str) -> str:
        """(rid, ancestor) for every span of `below` in a trace that `above` has a span of.

        UNION ends at a cycle.
        """
        traces = self.name(
            f"SELECT DISTINCT trace_id FROM {above} INTERSECT SELECT DISTINCT trace_id FROM {below}"
        )
        edges = self.name(
            f"SELECT s.trace_id, s.span_id, s.parent_id FROM {self.window.source} s "
            f"SEMI JOIN {traces} m ON m.trace_id = s.trace_id WHERE s.parent_id <> 0"
        )
        self._names += 1
        name = f"q{self._names}"
        self.ctes.append(
            f"{name}(trace_id, rid, ancestor) AS ("
            f"SELECT b.trace_id, b.rid, b.parent_id FROM {below} b "
            f"SEMI JOIN {traces} m ON m.trace_id = b.trace_id WHERE b.parent_id <> 0 "
            f"UNION SELECT u.trace_id, u.rid, e.parent_id FROM {name} u "
            f"JOIN {edges} e ON e.trace_id = u.trace_id AND e.span_id = u.ancestor)"
        )
        return name


TRACES = (
    "SELECT trace_id, max(end_ns) - min(start_ns) AS trace_ns, min(start_ns) AS trace_start_ns, "
    "arg_min(name, start_ns) FILTER (parent_id = 0) AS root_name, "
    "arg_min(service, start_ns) FILTER (parent_id = 0) AS root_service "
    "FROM {source} GROUP BY trace_id"
)

_LETTER = {"str": "s", "int": "i", "dbl": "d", "bool": "b", "dur": "u", "status": "t", "kind": "k"}


def group_key(slots: Slots) -> str:
    """Return SQL of one text for a value of any type: its letter, then the value; `n` for nil.

    An array of one is its element; a longer one has a capital letter and JSON.
    """
    parts = [f"'{_LETTER[t]}' || ({sql})::VARCHAR" for t, sql in slots.items() if t in _LETTER]
    for slot, sql in slots.items():
        if slot.endswith("[]"):
            letter = _LETTER[slot[:-2]]
            element = f"'{letter}' || ({sql})[1]::VARCHAR"
            elements = f"'{letter.upper()}' || to_json({sql})::VARCHAR"
            parts.append(f"CASE len({sql}) WHEN 1 THEN {element} ELSE {elements} END")
    return f"coalesce({', '.join([*parts, chr(39) + 'n' + chr(39)])})"


def _number(slots: Slots) -> str:
    parts = [sql for t, sql in slots.items() if t in ("int", "dur")]
    doubles = [sql for t, sql in slots.items() if t == "dbl"]
    if doubles:
        parts = [f"({p})::DOUBLE" for p in parts] + doubles
    if not parts:
        return "NULL::DOUBLE"
    return parts[0] if len(parts) == 1 else f"coalesce({', '.join(parts)})"
