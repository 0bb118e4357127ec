"""How much of a difference is mix, and how much the system (Kitagawa-Oaxaca-Blinder).

Two-fold decomposition with the coefficients of a pooled regression that has an indicator of the
side (Fortin 2008; Jann 2008), as statsmodels' `OaxacaBlinder(...).two_fold(type="pooled")`, which
the tests compare it with. Here it is evaluated for many measures and many resamplings at once, and
the part of the mix is divided among its groups of covariates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

MIN_OF_KIND = 10  # requests; rarer kinds are one kind
_RIDGE = 1e-9


@dataclass(frozen=True)
class Parts:
    """Differences b - a: row 0 is the estimate, the others are resamplings.

    `a`, `b`, `total` and `system` are (rows, measures); `mix` has one such array per group.
    """

    a: np.ndarray
    b: np.ndarray
    total: np.ndarray
    system: np.ndarray
    mix: dict[str, np.ndarray]
    coefficients: np.ndarray  # (covariates, measures) of the estimate


def covariates(requests: pd.DataFrame, groups: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
    """Return the standardised covariates of requests, and the group of each column.

    `requests` has `kind`, `turns`, `tool_runs`, the tokens and `load`. Columns that do not vary
    are left out.
    """
    columns: list[pd.Series] = []
    names: list[str] = []
    if "kinds" in groups:
        kind = requests["kind"]
        common = kind.map(kind.value_counts()) >= MIN_OF_KIND
        dummies = pd.get_dummies(kind.where(common, "(rare)"), dtype=float)
        columns += [dummies[name] for name in dummies.columns[1:]]
        names += ["kinds"] * (dummies.shape[1] - 1)
    for group, members in (
        ("calls", ("turns", "tool_runs")),
        ("lengths", ("prompt_tokens", "completion_tokens")),
        ("cache", ("cached_tokens",)),
        ("concurrency", ("load",)),
    ):
        if group in groups:
            columns += [requests[name] for name in members]
            names += [group] * len(members)

    if not columns:
        return np.empty((len(requests), 0)), []
    values = np.column_stack([column.to_numpy(float) for column in columns])
    spread = values.std(axis=0)
    kept = spread > 1e-12
    scaled = (values[:, kept] - values[:, kept].mean(axis=0)) / spread[kept]
    return scaled, [name for name, keep in zip(names, kept, strict=True) if keep]


def decompose(
    x: np.ndarray,
    groups: list[str],
    is_b: np.ndarray,
    y: np.ndarray,
    block: np.ndarray,
    weights: np.ndarray,
) -> Parts:
    """Return the parts of the difference of each column of y.

    `x` (requests, covariates) with the group of each column, `is_b` and `block` of each request in
    order of blocks, `weights` (replicates, blocks).
    """
    n, width = x.shape
    design = np.column_stack([np.ones(n), is_b.astype(float), x])
    blocks = weights.shape[1]
    moments = np.zeros((blocks, width + 2, width + 2))
    products = np.zeros((blocks, width + 2, y.shape[1]))
    bounds = np.searchsorted(block, np.arange(blocks + 1))
    for number in range(blocks):
        rows = slice(bounds[number], bounds[number + 1])
        moments[number] = design[rows].T @ design[rows]
        products[number] = design[rows].T @ y[rows]

    draws = np.vstack([np.ones(blocks), weights])
    xx = np.tensordot(draws, moments, axes=1)
    xy = np.tensordot(draws, products, axes=1)
    ridge = _RIDGE * np.trace(xx, axis1=1, axis2=2)[:, None, None] * np.eye(width + 2)
    beta = np.linalg.solve(xx + ridge, xy)

    # The first two rows of the moments hold the sums over all requests, and over those of b.
    n_b = xx[:, 1, 1]
    n_a = xx[:, 0, 0] - n_b
    b_mean = xy[:, 1] / n_b[:, None]
    a_mean = (xy[:, 0] - xy[:, 1]) / n_a[:, None]
    shift = xx[:, 1] / n_b[:, None] - (xx[:, 0] - xx[:, 1]) / n_a[:, None]
    contributions = shift[:, :, None] * beta
    total = b_mean - a_mean
    mix = {
        group: contributions[:, 2:][:, [name == group for name in groups]].sum(axis=1)
        for group in dict.fromkeys(groups)
    }
    system = total - sum(mix.values(), np.zeros_like(total))
    return Parts(a_mean, b_mean, total, system, mix, beta[0, 2:])
