"""How often `lab.measures.blame` is right: real culprits against runs of the same plan without.

The truth is the counterfactual: what the same requests took more in the run with the culprit's long
prompts than in the run without them (`live.py`, part tenants).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmarks.diagnosis.live import CULPRIT, DATA
from lab.measures import blame

TOLERANCE = 0.2  # of the counterfactual


def culprits(folder: Path = DATA) -> pd.DataFrame:
    """Return one row per pair of runs.

    `first` (the culprit is ranked first), `blamed`, `lost_s` with its interval, `true_s` (the
    counterfactual), `ratio`, and `falsely`: who is blamed in the run without a culprit.
    """
    requests = pd.read_parquet(folder / "tenants-requests.parquet")
    turns = pd.read_parquet(folder / "tenants-turns.parquet")
    rows = []
    for seed, of_seed in turns.groupby("seed"):
        answer = blame(of_seed[of_seed["stage"] == "with"], by="tenant")
        culprit = answer.culprits.set_index("culprit").loc[CULPRIT]
        of_others = requests[(requests["seed"] == seed) & (requests["tenant"] != CULPRIT)]
        e2e_s = of_others.pivot(index="request_id", columns="stage", values="e2e_s")
        true_s = float((e2e_s["with"] - e2e_s["without"]).sum())
        rows.append(
            {
                "seed": seed,
                "first": answer.culprits["culprit"].iloc[0] == CULPRIT,
                "blamed": CULPRIT in answer.blamed,
                "lost_s": culprit["lost_s"],
                "low_s": culprit["low_s"],
                "high_s": culprit["high_s"],
                "true_s": true_s,
                "ratio": culprit["lost_s"] / true_s,
                "falsely": _falsely(of_seed[of_seed["stage"] == "without"]),
            }
        )
    return pd.DataFrame(rows)


def _falsely(turns: pd.DataFrame) -> int:
    """Return how many tenants and requests are blamed where nobody is a culprit."""
    return sum(len(blame(turns, by=by).blamed) for by in ("tenant", "request_id"))


def rows(folder: Path = DATA) -> list[dict]:
    """Return the rows for `lab bench`."""
    table = culprits(folder)
    print(table.round(2).to_string(index=False), flush=True)
    n = len(table)
    within = (table["ratio"] - 1).abs() <= TOLERANCE
    note = f"{n} real culprits: a tenant of long prompts, against the same plan without it"
    worst = f"lost / counterfactual from {table['ratio'].min():.2f} to {table['ratio'].max():.2f}"
    values = (
        ("blame_first_ratio", table["first"].mean(), "higher", 1.0, note),
        ("blame_within_20_percent_ratio", within.mean(), "higher", 1.0, worst),
        ("blame_false", table["falsely"].sum(), "lower", 0.0, f"{n} runs without a culprit"),
    )
    return [
        {"subject": "lab", "metric": m, "value": float(v), "better": b, "bound": bound, "note": n_}
        for m, v, b, bound, n_ in values
    ]
