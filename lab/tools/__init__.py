"""The help desk's tools as an MCP server over SQLite, with traces, metrics and faults.

`python -m lab.tools --port 8200 --db .lab/world.sqlite --otlp-endpoint http://127.0.0.1:4318`
serves MCP's streamable HTTP at `/mcp`, `/healthz`, Prometheus' `/metrics`, and, for users of this
machine, `/admin/faults`.
"""
