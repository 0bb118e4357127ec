"""Tokens by every source side by side, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from lab.errors import FrameError

KINDS = ("prompt", "cached", "completion")


class TokenPrice(Protocol):
    """A price list of tokens, as `lab.prices.ApiPrice`."""

    def cost_usd(
        self, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0
    ) -> float: ...


def token_totals(
    frame: pd.DataFrame, prometheus: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Totals of one run: rows prompt, cached, completion; columns `client`, `spans` and, where given, `prometheus`.

    `frame` is a request frame; `prometheus` the exact increases of vLLM's counters over the same run
    (`lab.frames.increase_exact`), by the same three names. The client's -1 (the API did not say) counts as nothing and
    is counted in `attrs["client_silent"]`. A total that a source does not have is NaN.
    """
    columns: dict[str, dict[str, float]] = {"client": {}, "spans": {}}
    silent = 0
    for kind in KINDS:
        said = frame[f"{kind}_tokens"]
        silent = max(silent, int((said < 0).sum()))
        columns["client"][kind] = float(said.clip(lower=0).sum())
        columns["spans"][kind] = float(frame[f"span_{kind}_tokens"].sum())
    if prometheus is not None:
        if unknown := set(prometheus) - set(KINDS):
            raise FrameError(
                f"these are not kinds of tokens: {', '.join(sorted(unknown))}",
                fix=f"use {', '.join(KINDS)}",
            )
        columns["prometheus"] = {kind: float(prometheus.get(kind, float("nan"))) for kind in KINDS}
    table = pd.DataFrame(columns, index=pd.Index(KINDS, name="tokens"))
    table.attrs["client_silent"] = silent
    return table


def reconcile_totals(totals: pd.DataFrame, *, against: str = "client") -> pd.DataFrame:
    """Do the books balance? The totals, and for every other source its difference to `against`, as tokens.

    Adds `<source>_less_<against>` a source, and `balanced`: every difference that is known is exactly 0.
    """
    others = [name for name in totals.columns if name != against]
    table = totals.copy()
    differences = [f"{name}_less_{against}" for name in others]
    for name, difference in zip(others, differences, strict=True):
        table[difference] = totals[name] - totals[against]
    table["balanced"] = (table[differences].fillna(0) == 0).all(axis=1)
    return table


def cost_by(
    frame: pd.DataFrame, price: TokenPrice, *, by: Sequence[str] = ("kind",)
) -> pd.DataFrame:
    """What the requests of each group would cost at an API with this price list. One row a group.

    Columns: those of `by`, `requests`, `failed_requests`, `prompt_tokens`, `cached_tokens`, `completion_tokens`, `usd`,
    `failed_usd` (the part of `usd` that went into requests that failed) and `usd_per_request`. Prompt and completion
    tokens are the client's; where it has none (-1) those of vLLM's spans, since a failed request has cost its tokens all
    the same. Cached tokens are the engine's, by the spans of its calls: Llama Stack 0.7 reports only those of a
    request's last call. A trace that has not arrived whole has too few, so the larger of both is used.
    """
    table = frame[[*by, "status"]].copy()
    for kind in KINDS:
        client = frame[f"{kind}_tokens"]
        spans = frame[f"span_{kind}_tokens"]
        known = np.fmax(client, spans) if kind == "cached" else client.where(client >= 0, spans)
        table[f"{kind}_tokens"] = known.clip(lower=0)
    table["usd"] = [
        price.cost_usd(p, c, k)
        for p, c, k in zip(
            table["prompt_tokens"], table["completion_tokens"], table["cached_tokens"], strict=True
        )
    ]
    failed = table["status"] != "ok"
    table["requests"], table["failed_requests"], table["failed_usd"] = (
        1,
        failed.astype(int),
        table["usd"].where(failed, 0.0),
    )
    sums = [
        "requests",
        "failed_requests",
        *(f"{kind}_tokens" for kind in KINDS),
        "usd",
        "failed_usd",
    ]
    result = table.groupby(list(by), observed=True)[sums].sum().reset_index()
    result["usd_per_request"] = result["usd"] / result["requests"]
    return result


def machine_usd_per_mtok(usd_per_hour: float, wall_s: float, tokens: float) -> float:
    """USD for a million tokens on a machine that is paid by the hour: price * time / tokens. NaN where there are none.

    It is the price at the load that was measured: half the load doubles it, since an idle machine costs the same.
    """
    return usd_per_hour * (wall_s / 3600) / (tokens / 1e6) if tokens > 0 else float("nan")
