"""Tokens by every source side by side, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from lab.errors import FrameError

KINDS = ("prompt", "cached", "completion")


TRANSFER = ("external_kv_transfer",)  # label `source` of vLLM's prompt_tokens_by_source
TIERS = ("host", "disk")  # of prompt_tokens_cached_by_source: an own cache, not another engine


class TokenPrice(Protocol):
    """A price list of tokens, as `lab.prices.ApiPrice`; its sums work on columns, too."""

    def cost_usd(
        self, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0
    ) -> float:
        """Return the USD of these tokens; the cached ones are part of the prompt's."""


def token_totals(
    frame: pd.DataFrame, prometheus: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Return the totals of one run: rows prompt, cached, completion, and one column per source.

    The columns are `client`, `spans` and, where given, `prometheus`. `frame` is a request frame;
    `prometheus` the exact increases of vLLM's counters over the same run
    (`lab.frames.increase_exact`), by the same three names. The client's -1 (the API did not report
    it) counts as nothing and is counted in `attrs["client_silent"]`. A total that a source does not
    have is NaN. Raises FrameError for other kinds of tokens.
    """
    client = frame[[f"{kind}_tokens" for kind in KINDS]]
    spans = frame[[f"span_{kind}_tokens" for kind in KINDS]]
    table = pd.DataFrame(index=pd.Index(KINDS, name="tokens"))
    table["client"] = client.clip(lower=0).sum().to_numpy(float)
    table["spans"] = spans.sum().to_numpy(float)
    if prometheus is not None:
        if unknown := set(prometheus) - set(KINDS):
            raise FrameError(
                f"these are not kinds of tokens: {', '.join(sorted(unknown))}",
                fix=f"use {', '.join(KINDS)}",
            )
        table["prometheus"] = pd.Series(prometheus, dtype=float)
    table.attrs["client_silent"] = int((client < 0).sum().max())
    return table


def reconcile_totals(totals: pd.DataFrame, *, against: str = "client") -> pd.DataFrame:
    """Return the totals with every other source's difference to `against`, in tokens.

    Adds `<source>_less_<against>` per source, and `balanced`: every known difference is exactly 0.
    """
    others = totals.drop(columns=against)
    differences = others.sub(totals[against], axis=0).add_suffix(f"_less_{against}")
    return totals.join(differences).assign(balanced=(differences.fillna(0) == 0).all(axis=1))


def cache_tokens(
    cached: pd.Series, external: pd.Series, by_source: pd.Series, tiers: pd.Series
) -> pd.DataFrame:
    """Return per engine the prompt tokens that caching saved, and those that were transferred.

    - `cached`: what the engine counts as cached, transfers included;
    - `external`: hits of its connector to other engines or stores;
    - `by_source`: prompt tokens, with `source` as the last level of the index;
    - `tiers`: cached tokens by `source`: an engine's own host memory or disk is a cache, so it is
      not a transfer.

    In a prefill/decode pair the decoding engine has the whole prompt 'cached': the other engine
    computed it, so nothing was saved.
    """
    transferred = external.copy()
    if len(by_source):
        of_transfer = by_source[by_source.index.get_level_values("source").isin(TRANSFER)]
        exact = of_transfer.groupby(level=list(range(by_source.index.nlevels - 1))).sum()
        transferred = exact.combine_first(transferred) if len(transferred) else exact
    if len(tiers) and len(transferred):
        own = tiers[tiers.index.get_level_values("source").isin(TIERS)]
        own = own.groupby(level=list(range(tiers.index.nlevels - 1))).sum()
        transferred = (transferred - own.reindex(transferred.index).fillna(0.0)).clip(lower=0.0)
    if not len(transferred):
        return pd.DataFrame({"cached": cached, "transferred": np.nan}, index=cached.index)
    if not len(cached):
        return pd.DataFrame({"cached": np.nan, "transferred": transferred})
    moved = transferred.reindex(cached.index).fillna(0.0)
    saved = (cached - moved).clip(lower=0.0)
    return pd.DataFrame({"cached": saved, "transferred": transferred})


def cost_by(
    frame: pd.DataFrame, price: TokenPrice, *, by: Sequence[str] = ("kind",)
) -> pd.DataFrame:
    """Return what the requests of each group would cost at an API with this price list.

    One row per group: the columns of `by`, `requests`, `failed_requests`, `prompt_tokens`,
    `cached_tokens`, `completion_tokens`, `usd`, `failed_usd` (the part of `usd` that went into
    requests that failed) and `usd_per_request`.

    Prompt and completion tokens are the client's; where it has none (-1) those of vLLM's spans,
    since a failed request has cost its tokens all the same. Cached tokens are the engine's, by the
    spans of its calls: Llama Stack 0.7 reports only those of a request's last call. A trace that
    has not arrived whole has too few, so the larger of both is used.
    """
    table = frame[[*by]].copy()
    table["requests"] = 1
    table["failed_requests"] = (frame["status"] != "ok").astype(int)
    for kind in KINDS:
        client = frame[f"{kind}_tokens"]
        spans = frame[f"span_{kind}_tokens"]
        known = np.fmax(client, spans) if kind == "cached" else client.where(client >= 0, spans)
        table[f"{kind}_tokens"] = known.clip(lower=0)

    tokens = table[["prompt_tokens", "completion_tokens", "cached_tokens"]]
    table["usd"] = [price.cost_usd(*row) for row in tokens.itertuples(index=False)]
    table["failed_usd"] = table["usd"] * table["failed_requests"]
    result = table.groupby(list(by), observed=True).sum().reset_index()
    result["usd_per_request"] = result["usd"] / result["requests"]
    return result


def machine_usd_per_mtok(usd_per_hour: float, wall_s: float, tokens: float) -> float:
    """Return USD per million tokens on a machine that is paid by the hour: price * time / tokens.

    NaN where there are no tokens. It is the price at the load that was measured: half the load
    doubles it, since an idle machine costs the same.
    """
    return usd_per_hour * (wall_s / 3600) / (tokens / 1e6) if tokens > 0 else float("nan")
