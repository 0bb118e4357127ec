"""The columns of the span table in Arrow's types, in which batches come to the database.

pyarrow and numpy take longer to import than all the rest together, so only what meets a batch
imports this.
"""

from __future__ import annotations

import pyarrow as pa

from lab.tracestore.columns import OWNER_COLUMNS, SPAN_COLUMNS, Column

ARROW_OF = {
    "str": pa.string(),
    "int": pa.int64(),
    "dbl": pa.float64(),
    "bool": pa.bool_(),
    "json": pa.string(),
}

_OF_DUCK = {
    "UUID": pa.uuid(),
    "UBIGINT": pa.uint64(),
    "BIGINT": pa.int64(),
    "UINTEGER": pa.uint32(),
    "UTINYINT": pa.uint8(),
    "VARCHAR": pa.string(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "BLOB": pa.binary(),
}


def _type(duck: str) -> pa.DataType:
    if duck.startswith("MAP("):
        key, value = duck[len("MAP(") : -1].split(", ")
        return pa.map_(_OF_DUCK[key], _OF_DUCK[value])
    return _OF_DUCK[duck]


def _schema(columns: tuple[Column, ...]) -> pa.Schema:
    return pa.schema([(c.name, _type(c.duck)) for c in columns])


SPAN_SCHEMA = _schema(SPAN_COLUMNS)
OWNER_SCHEMA = _schema(OWNER_COLUMNS)
