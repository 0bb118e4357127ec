"""Field expressions -> SQL over one row of spans.

TraceQL is typed when the span is seen: `span.foo` may be a string here and a number there. So an
expression compiles to `Slots`: one SQL expression for each type that it may have, of which at most
one is not NULL on any row. `a = b` is then the OR over the types that can be compared. A comparison
with nothing, or across types, is false, never an error. All values are bound parameters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from uuid import UUID

from lab.tracestore.catalogue import Catalogue
from lab.tracestore.columns import DUCK_OF, PROMOTED, quote
from lab.tracestore.traceql import ast, fetch
from lab.tracestore.traceql.ast import Type

# Slot names: scalars, then lists of them (`[]`) for arrays and for events and links, of which a
# span has several.
SCALARS = ("str", "int", "dbl", "bool")
_NUMERIC = ("int", "dur", "dbl")
_TYPE_SLOT = {
    Type.STRING: "str",
    Type.INT: "int",
    Type.FLOAT: "dbl",
    Type.BOOLEAN: "bool",
    Type.DURATION: "dur",
    Type.STATUS: "status",
    Type.KIND: "kind",
}
_JSON_FIELD = {"str": "stringValue", "int": "intValue", "dbl": "doubleValue", "bool": "boolValue"}
_FLIP = {">": "<", ">=": "<=", "<": ">", "<=": ">="}
_ARITHMETIC = ("+", "-", "*", "/", "%", "^")
_ID_COLUMNS = {"span:id": "s.span_id", "span:parentID": "s.parent_id"}
_SQL_OP = {"=": "=", "!=": "<>", ">": ">", ">=": ">=", "<": "<", "<=": "<="}
_REGEX_SQL = {"=~": "regexp_full_match", "!~": "NOT regexp_full_match"}

Slots = dict[str, str]
_PARAMETER = re.compile(r"\$(p\d+)")


class Parameters:
    """Values that a statement binds, by name."""

    def __init__(self) -> None:
        """Begin without values."""
        self.values: dict[str, object] = {}

    def add(self, value: object) -> str:
        """Bind a value; the same value twice is one parameter."""
        for name, known in self.values.items():
            if type(known) is type(value) and known == value:
                return f"${name}"
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"${name}"

    def of(self, sql: str) -> dict[str, object]:
        """Return the values that this statement names: DuckDB refuses to bind others."""
        return {name: self.values[name] for name in set(_PARAMETER.findall(sql))}


@dataclass
class Needs:
    """What beside the span's own row an expression looks at; becomes joins."""

    resources: bool = False
    scopes: bool = False
    trace: bool = False
    children: bool = False
    nested_sets: bool = False


@dataclass
class FieldCompiler:
    """Compiles field expressions.

    The aliases are `s` for spans, `r` resources, `c` scopes, `t` traces, `k` children and `n`
    nested sets.

    With the plan of the whole query, attributes are read as Tempo reads them (see `fetch`); without
    it, always.
    """

    catalogue: Catalogue
    parameters: Parameters
    needs: Needs = field(default_factory=Needs)
    plan: fetch.FetchPlan | None = None

    # -- booleans

    def filter(self, stage: ast.Filter) -> str:
        """Return the condition of a span filter, restricted to the spans that Tempo evaluates.

        That matters only where a negation could be true of a span that none of the query's
        conditions selects.
        """
        condition = self.condition(stage.condition)
        if self.plan is None or not _negates(stage.condition):
            return condition

        read = [self._is_read(c) for c in self.plan.conditions]
        if not read:
            return condition
        word = " AND " if self.plan.requires_all else " OR "
        return f"({word.join(read)}) AND ({condition})"

    def _is_read(self, condition: fetch.Condition) -> str:
        """Whether a span has a value that meets a condition of the plan."""
        if condition.op == fetch.ABSENT:
            return self._absent(condition.attribute)
        if condition.operand is None:  # ANY or EXISTS
            return f"coalesce({self._exists(condition.attribute)}, FALSE)"
        node = ast.Binary(condition.op, condition.attribute, condition.operand)
        return f"coalesce({self._comparison(node)}, FALSE)"

    def condition(self, node: ast.FieldExpression) -> str:
        """Return a boolean for WHERE: NULL counts as false."""
        match node:
            case ast.Static():
                return "TRUE" if node.value is True else "FALSE"
            case ast.Attribute() | ast.Intrinsic():
                return self.slots(node).get("bool", "NULL::BOOLEAN")
            case ast.Exists():
                return self._absent(node.operand) if node.negated else self._exists(node.operand)
            case ast.Unary(op="!"):
                return self._not(node.operand)
            case ast.Binary():
                return self._binary_condition(node)
        return "FALSE"

    def _not(self, node: ast.FieldExpression) -> str:
        """Negate a condition. A value that is not a boolean has no negation: NULL stays NULL."""
        may_be_null = isinstance(node, ast.Attribute | ast.Intrinsic | ast.Unary)
        return f"NOT {self.condition(node) if may_be_null else self.strict(node)}"

    def _binary_condition(self, node: ast.Binary) -> str:
        if node.op in _ARITHMETIC:
            return "FALSE"  # a number is not true
        if node.op not in ("&&", "||"):
            return self._comparison(node)
        word = " AND " if node.op == "&&" else " OR "
        return "(" + word.join(self.condition(n) for n in _chain(node)) + ")"

    def strict(self, node: ast.FieldExpression) -> str:
        """Return a boolean that is never NULL, for NOT and for values."""
        return f"coalesce({self.condition(node)}, FALSE)"

    def _exists(self, node: ast.FieldExpression) -> str:
        if isinstance(node, ast.Attribute):
            return self._attribute_exists(node)
        if isinstance(node, ast.Intrinsic):
            listed = [
                sql for slot, sql in self._intrinsic(node.name).items() if slot.endswith("[]")
            ]
            return f"coalesce(len({listed[0]}) > 0, FALSE)" if listed else "TRUE"
        parts = [f"{sql} IS NOT NULL" for sql in self.slots(node).values()]
        return "(" + " OR ".join(parts) + ")" if parts else "FALSE"

    def _absent(self, node: ast.FieldExpression) -> str:
        """Whether a value is missing.

        Of events and links, whether any of them lacks it, or there is none.
        """
        if isinstance(node, ast.Attribute) and node.scope in ("event", "link"):
            if not self.catalogue.types(node.scope, node.name):
                return "TRUE"
            column = f"s.{node.scope}s"
            with_key = f"len({self._bags_with(column, node.name)})"
            every = f"json_array_length({column})"
            return f"({column} IS NULL OR {with_key} < {every})"
        return f"NOT coalesce({self._exists(node)}, FALSE)"

    def _comparison(self, node: ast.Binary) -> str:
        shortcut = _root_shortcut(node) or self._id_shortcut(node)
        if shortcut:
            return shortcut
        left = self._operand(node.left, node.right)
        right = self._operand(node.right, node.left)
        parts = []
        for ls, lsql in left.items():
            for rs, rsql in right.items():
                sql = self._compare(node.op, ls, lsql, rs, rsql)
                if sql:
                    parts.append(sql)
        if not parts:
            return "FALSE"
        return parts[0] if len(parts) == 1 else "(" + " OR ".join(parts) + ")"

    def _operand(self, node: ast.FieldExpression, other: ast.FieldExpression) -> Slots:
        """Return the slots of one side of a comparison.

        An attribute beside a literal is read in the literal's type only, unless the query reads it
        without a condition.
        """
        slots = self.slots(node)
        if (
            self.plan is None
            or not isinstance(node, ast.Attribute)
            or not isinstance(other, ast.Static)
            or not other.type.is_numeric
        ):
            return slots

        scopes = [node.scope] if node.scope else ["span", "resource"]
        if any(self.plan.is_open(scope) for scope in scopes):
            return slots
        kind = _TYPE_SLOT[other.type]
        return {slot: sql for slot, sql in slots.items() if slot.removesuffix("[]") == kind}

    def _compare(self, op: str, ls: str, left: str, rs: str, right: str) -> str | None:
        """Return one pair of types; None where TraceQL does not compare them."""
        if ls.endswith("[]") and rs.endswith("[]"):
            return None
        if ls.endswith("[]"):
            return self._compare_list(op, ls[:-2], left, rs, right)
        if rs.endswith("[]"):
            return self._compare_list(_FLIP.get(op, op), rs[:-2], right, ls, left)
        return _compare_scalars(op, ls, left, rs, right)

    def _compare_list(self, op: str, ls: str, left: str, rs: str, right: str) -> str | None:
        """Return an array matches where any element does; != and !~ where every element does."""
        element = _compare_scalars(op, ls, "x", rs, right)
        if element is None:
            return None
        some = f"len(list_filter({left}, lambda x: {element}))"
        return f"({some} = len({left}))" if op in ("!=", "!~") else f"({some} > 0)"

    def _id_shortcut(self, node: ast.Binary) -> str | None:
        """Ids are compared as numbers, not as text, where the query gives a whole one."""
        if (
            not isinstance(node.left, ast.Intrinsic)
            or not isinstance(node.right, ast.Static)
            or node.op not in ("=", "!=")
        ):
            return None
        text = str(node.right.value)
        op = _SQL_OP[node.op]
        name = node.left.name
        if name == "trace:id" and re.fullmatch(r"[0-9a-fA-F]{1,32}", text):
            trace = str(UUID(hex=text.rjust(32, "0")))
            return f"s.trace_id {op} {self.parameters.add(trace)}::UUID"
        if name in _ID_COLUMNS and re.fullmatch(r"[0-9a-f]{16}", text):
            return f"{_ID_COLUMNS[name]} {op} {self.parameters.add(int(text, 16))}::UBIGINT"
        return None

    # -- values

    def slots(self, node: ast.FieldExpression) -> Slots:
        """Return SQL for each type that the expression may have."""
        match node:
            case ast.Static():
                return self._static(node)
            case ast.Intrinsic():
                return self._intrinsic(node.name)
            case ast.Attribute():
                return self._attribute(node)
            case ast.Unary(op="-"):
                # TRY: -2^63 has no counterpart.
                operand = self.slots(node.operand)
                return {t: f"TRY(-{sql})" for t, sql in operand.items() if t in _NUMERIC}
            case ast.Binary() if node.op in ("+", "-", "*", "/", "%", "^"):
                return self._arithmetic(node)
        return {"bool": self.condition(node) if isinstance(node, ast.Unary) else self.strict(node)}

    def group_slots(self, node: ast.FieldExpression) -> Slots:
        """Return the slots of an expression that spans are grouped by.

        Of several events or links the first counts; without any, their intrinsics are the zero of
        their type.
        """
        slots = self.slots(node)
        if isinstance(node, ast.Attribute) and node.scope in ("event", "link"):
            return {slot.removesuffix("[]"): f"({sql})[1]" for slot, sql in slots.items()}
        if not isinstance(node, ast.Intrinsic) or not node.name.startswith(("event:", "link:")):
            return slots

        ((slot, sql),) = slots.items()
        zero = "''" if slot == "str[]" else "0::BIGINT"
        return {slot.removesuffix("[]"): f"coalesce(({sql})[1], {zero})"}

    def _static(self, node: ast.Static) -> Slots:
        slot = _TYPE_SLOT[node.type]
        if slot == "bool":
            return {slot: "TRUE" if node.value else "FALSE"}
        cast = {"str": "VARCHAR", "dbl": "DOUBLE"}.get(slot, "BIGINT")
        return {slot: f"{self.parameters.add(node.value)}::{cast}"}

    def _arithmetic(self, node: ast.Binary) -> Slots:
        left = self.slots(node.left)
        right = self.slots(node.right)
        numeric = {slot for slot in (*left, *right) if slot in _NUMERIC}
        left_double = _as_double(left)
        right_double = _as_double(right)
        if left_double is None or right_double is None:
            return {}

        result: Slots = {}
        if "int" in left and "int" in right:
            result["int"] = _int_arithmetic(node.op, left["int"], right["int"])
        if numeric != {"int"}:
            sql = _double_arithmetic(node.op, left_double, right_double)
            if result:
                sql = f"CASE WHEN {left['int']} IS NULL OR {right['int']} IS NULL THEN {sql} END"
            result["dbl"] = sql
        return result

    # -- intrinsics

    def _intrinsic(self, name: str) -> Slots:
        if name.startswith("trace:") and name != "trace:id":
            self.needs.trace = True
        if name == "span:childCount":
            self.needs.children = True
        if name.startswith("nestedSet"):
            self.needs.nested_sets = True
        if name.startswith("instrumentation:"):
            self.needs.scopes = True
        return dict(_INTRINSICS[name])

    # -- attributes

    def _attribute(self, node: ast.Attribute) -> Slots:
        scopes = self._scopes_of(node)
        if not scopes:
            return {}
        result = self._scoped(scopes[0], node.name)
        for scope in scopes[1:]:
            absent = " AND ".join(
                f"NOT {self._scoped_exists(s, node.name)}" for s in scopes[: scopes.index(scope)]
            )
            for slot, sql in self._scoped(scope, node.name).items():
                other = f"CASE WHEN {absent} THEN {sql} END"
                result[slot] = f"coalesce({result[slot]}, {other})" if slot in result else other
        return result

    def _attribute_exists(self, node: ast.Attribute) -> str:
        parts = [self._scoped_exists(scope, node.name) for scope in self._scopes_of(node)]
        return "(" + " OR ".join(parts) + ")" if parts else "FALSE"

    def _scopes_of(self, node: ast.Attribute) -> list[str]:
        """Return where to look: an unscoped attribute is the span's, else the resource's."""
        scopes = [node.scope] if node.scope else ["span", "resource"]
        return [s for s in scopes if self.catalogue.types(s, node.name)]

    def _scoped(self, scope: str, name: str) -> Slots:
        if scope == "resource" and name == "service.name":
            return {"str": "s.service"}
        types = self.catalogue.types(scope, name)
        if scope in ("event", "link"):
            return {f"{t}[]": self._in_list(f"s.{scope}s", name, t) for t in SCALARS if t in types}
        alias = self._alias(scope)
        key = self.parameters.add(name)
        slots: Slots = {}
        for t in SCALARS:
            if t in types:
                own = scope == "span" and PROMOTED.get(name) == t
                slots[t] = f"s.{quote(name)}" if own else f"{alias}.a_{t}[{key}]"
        if "json" in types:
            for t in SCALARS:
                slots[f"{t}[]"] = _array_of(f"{alias}.a_json[{key}]", t)
        return slots

    def _scoped_exists(self, scope: str, name: str) -> str:
        if scope == "resource" and name == "service.name":
            return "(s.service IS NOT NULL)"
        types = self.catalogue.types(scope, name)
        key = self.parameters.add(name)
        if scope in ("event", "link"):
            return f"(len({self._bags_with(f's.{scope}s', name)}) > 0)"
        alias = self._alias(scope)
        parts = []
        for t in (*SCALARS, "json"):
            if t in types:
                own = scope == "span" and PROMOTED.get(name) == t
                parts.append(
                    f"s.{quote(name)} IS NOT NULL" if own else f"{alias}.a_{t}[{key}] IS NOT NULL"
                )
        return "(" + " OR ".join(parts) + ")"

    def _alias(self, scope: str) -> str:
        if scope == "resource":
            self.needs.resources = True
        elif scope == "instrumentation":
            self.needs.scopes = True
        return {"span": "s", "resource": "r", "instrumentation": "c"}[scope]

    def _bags_with(self, column: str, name: str) -> str:
        """Return SQL of the attribute objects, of events or links, that have a key."""
        has = f"list_contains(json_keys(b), {self.parameters.add(name)})"
        return f"list_filter({_bags(column)}, lambda b: {has})"

    def _in_list(self, column: str, name: str, type_name: str) -> str:
        """Return the values that the events or links of a span give to an attribute.

        NULL where none has it.
        """
        pointer = self.parameters.add(
            "/" + name.replace("~", "~0").replace("/", "~1") + "/" + _JSON_FIELD[type_name]
        )
        value = f"json_extract_string(b, {pointer})"
        values = f"list_transform({_bags(column)}, lambda b: {value})"
        found = f"list_filter({values}, lambda v: v IS NOT NULL)"
        return (
            f"CASE WHEN {column} IS NOT NULL THEN nullif({found}::{DUCK_OF[type_name]}[], []) END"
        )


def _negates(node: ast.FieldExpression) -> bool:
    """Whether an expression contains `!`."""
    match node:
        case ast.Unary():
            return node.op == "!" or _negates(node.operand)
        case ast.Exists():
            return _negates(node.operand)
        case ast.Binary():
            return _negates(node.left) or _negates(node.right)
    return False


def _root_shortcut(node: ast.Binary) -> str | None:
    """Return SQL of a comparison of nestedSetParent that tells roots from other spans only.

    A root has -1, any other span 0 or more. Returns None for other comparisons.
    """
    if node.left != ast.Intrinsic("nestedSetParent") or not isinstance(node.right, ast.Static):
        return None

    limit = node.right.value
    if node.right.type not in (Type.INT, Type.FLOAT) or node.op not in _SQL_OP:
        return None
    if limit > 0 or (limit == 0 and node.op not in ("<", ">=")):
        return None
    of_root = _holds(node.op, -1, limit)
    of_others = _holds(node.op, 0, limit)
    if of_root == of_others:
        return "TRUE" if of_root else "FALSE"
    return "(s.parent_id = 0)" if of_root else "(s.parent_id <> 0)"


def _holds(op: str, value: int, limit: float) -> bool:
    compare = {
        "=": value == limit,
        "!=": value != limit,
        ">": value > limit,
        ">=": value >= limit,
        "<": value < limit,
        "<=": value <= limit,
    }
    return compare[op]


def _bags(column: str) -> str:
    """Return the attribute objects of a JSON list of events or links."""
    return f"json_extract({column}, '$[*].a')"


def _chain(node: ast.Binary) -> list[ast.FieldExpression]:
    """Return operands of a chain of one and the same operator."""
    operands: list[ast.FieldExpression] = []
    current: ast.FieldExpression = node
    while isinstance(current, ast.Binary) and current.op == node.op:
        operands.append(current.right)
        current = current.left
    operands.append(current)
    return operands[::-1]


def _array_of(json_text: str, type_name: str) -> str:
    """Return the elements of one type of an array attribute.

    NULL where the attribute is no array of that type.
    """
    found = f"json_extract_string({json_text}, '$.arrayValue.values[*].{_JSON_FIELD[type_name]}')"
    return f"CASE WHEN {json_text} IS NOT NULL THEN nullif({found}::{DUCK_OF[type_name]}[], []) END"


def _compare_scalars(op: str, ls: str, left: str, rs: str, right: str) -> str | None:
    """Return a comparison of two types; None where TraceQL does not compare them."""
    if op in _REGEX_SQL:
        return f"{_REGEX_SQL[op]}({left}, {right}, 's')" if ls == rs == "str" else None
    if op not in _SQL_OP:
        return None
    if ls in _NUMERIC and rs in _NUMERIC:
        return _compare_numbers(op, ls, left, rs, right)
    if ls != rs or (op not in ("=", "!=") and ls != "str"):
        return None
    return f"{left} {_SQL_OP[op]} {right}"


def _compare_numbers(op: str, ls: str, left: str, rs: str, right: str) -> str:
    """Return a comparison of two numbers, as doubles if either is one."""
    if "dbl" not in (ls, rs):
        return f"{left} {_SQL_OP[op]} {right}"

    doubles = [sql for slot, sql in ((ls, left), (rs, right)) if slot == "dbl"]
    left = left if ls == "dbl" else f"{left}::DOUBLE"
    right = right if rs == "dbl" else f"{right}::DOUBLE"
    return _guard_nan(op, doubles, f"{left} {_SQL_OP[op]} {right}")


def _guard_nan(op: str, doubles: list[str], comparison: str) -> str:
    """DuckDB takes NaN for equal to itself and greater than all.

    In TraceQL, as in Go, it is unequal to everything.
    """
    able = [sql for sql in doubles if not sql.startswith("$")]
    if not able:
        return comparison
    if op == "!=":
        return comparison if len(able) < 2 else f"({comparison} OR isnan({able[0]}))"
    return f"({comparison} AND " + " AND ".join(f"NOT isnan({sql})" for sql in able) + ")"


def _as_double(slots: Slots) -> str | None:
    parts = [sql if t == "dbl" else f"{sql}::DOUBLE" for t, sql in slots.items() if t in _NUMERIC]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else f"coalesce({', '.join(parts)})"


def _int_arithmetic(op: str, left: str, right: str) -> str:
    if op == "^":
        return f"TRY(CAST(trunc(pow({left}, {right})) AS BIGINT))"
    return f"TRY({left} {'//' if op == '/' else op} {right})"


def _double_arithmetic(op: str, left: str, right: str) -> str:
    return f"TRY(pow({left}, {right}))" if op == "^" else f"TRY({left} {op} {right})"


_EVENT_OFFSETS = (
    "list_transform(json_extract_string(s.events, '$[*].t'), "
    "lambda v: TRY_CAST(v AS BIGINT) - s.start_ns)"
)
_INTRINSICS: dict[str, Slots] = {
    "span:duration": {"dur": "s.dur_ns"},
    "span:name": {"str": "s.name"},
    "span:status": {"status": "s.status"},
    "span:statusMessage": {"str": "coalesce(s.status_message, '')"},
    "span:kind": {"kind": "s.kind"},
    "span:id": {"str": "printf('%016x', s.span_id)"},
    "span:parentID": {"str": "printf('%016x', s.parent_id)"},
    "span:childCount": {"int": "coalesce(k.children, 0)"},
    "trace:duration": {"dur": "t.trace_ns"},
    "trace:rootName": {"str": "coalesce(t.root_name, '')"},
    "trace:rootService": {"str": "coalesce(t.root_service, '')"},
    "trace:id": {"str": "ltrim(replace(s.trace_id::VARCHAR, '-', ''), '0')"},
    "event:name": {"str[]": "json_extract_string(s.events, '$[*].n')"},
    "event:timeSinceStart": {"dur[]": _EVENT_OFFSETS},
    "link:traceID": {"str[]": "json_extract_string(s.links, '$[*].t')"},
    "link:spanID": {"str[]": "json_extract_string(s.links, '$[*].s')"},
    "instrumentation:name": {"str": "c.name"},
    "instrumentation:version": {"str": "c.version"},
    "nestedSetLeft": {"int": "coalesce(n.n_left, 0)"},
    "nestedSetRight": {"int": "coalesce(n.n_right, 0)"},
    "nestedSetParent": {"int": "coalesce(n.n_parent, 0)"},
}
