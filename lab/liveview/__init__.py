"""The live view: one page with the lab's components, dashboards, alerts, traces and queries.

`python -m lab.liveview --port 19001` serves it on loopback. The page (`page/`) draws the panels of
Grafana's JSON (lab/dashboards) from Prometheus, and shows traces from Tempo or the trace store.
It reads through this server, which forwards read-only queries and changes nothing.
"""
