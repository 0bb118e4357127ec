"""The embedded Tempo: OTLP in, DuckDB underneath, TraceQL and Tempo's HTTP API out.

See README.md in this folder.

    payload -> ingest (decode, write-ahead log, acknowledge) -> store (DuckDB)
    query -> api (Tempo's shapes) -> traceql -> store

Run it alone with `python -m lab.tracestore --port 3200 --otlp-port 4318 --data DIR`.
"""
