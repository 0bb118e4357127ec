"""What the user really waited for: the spans on the critical path of many requests."""

from __future__ import annotations

import pandas as pd

from lab.errors import FrameError


def critical_path(trees: pd.DataFrame) -> pd.DataFrame:
    """Who holds the critical path, over all traces: one row a service and span name, the longest first.

    `trees` holds the rows of `lab.frames.trace_tree` of any number of traces (`critical_s`: the time that a span itself
    spends on its trace's critical path). Columns: `service`, `name`, `critical_s` (sum), `share_ratio` (of the sum over
    all), `traces` (in which it is on the path at all), `duration_s` (sum of the spans' whole durations: what is long
    but not critical could be removed without anybody noticing). `attrs['root_s']` is the sum of the roots' durations,
    which `critical_s` adds up to where children lie inside their parents.
    """
    if missing := {"trace_id", "service", "name", "critical_s", "duration_s", "depth"} - set(trees):
        raise FrameError(
            f"these are no trees: {', '.join(sorted(missing))} missing",
            fix="make them with trace_tree",
        )
    on_path = trees["critical_s"] > 0
    keys = [trees["service"].astype(str), trees["name"].astype(str)]
    table = (
        trees.groupby(keys)
        .agg(critical_s=("critical_s", "sum"), duration_s=("duration_s", "sum"))
        .reset_index()
    )
    counted = (
        trees[on_path]
        .groupby([k[on_path] for k in keys])["trace_id"]
        .nunique()
        .rename("traces")
        .reset_index()
    )
    table = (
        table.merge(counted, on=["service", "name"], how="left")
        .fillna({"traces": 0})
        .astype({"traces": "int64"})
    )
    table["share_ratio"] = table["critical_s"] / table["critical_s"].sum()
    table = table.sort_values("critical_s", ascending=False, ignore_index=True)
    table.attrs["root_s"] = float(trees.loc[trees["depth"] == 0, "duration_s"].sum())
    return table[["service", "name", "critical_s", "share_ratio", "traces", "duration_s"]]
