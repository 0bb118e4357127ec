"""Tokens by every source side by side, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import pandas as pd

from lab.errors import FrameError

KINDS = ("prompt", "cached", "completion")


class HourPrice(Protocol):
    """The price of a machine, as `lab.prices.MachinePrice`."""

    @property
    def name(self) -> str: ...
    @property
    def usd_per_hour(self) -> float: ...


class TokenPrice(Protocol):
    """A price list of tokens, as `lab.prices.ApiPrice`."""

    def cost_usd(self, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0) -> float: ...


def token_totals(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Totals of a request frame by source, for `books`: {'client': {kind: tokens}, 'spans': ...}, kinds as in KINDS.

    The client's -1 (the API did not say) counts as nothing.
    """
    return {
        "client": {kind: float(frame[f"{kind}_tokens"].clip(lower=0).sum()) for kind in KINDS},
        "spans": {kind: float(frame[f"span_{kind}_tokens"].sum()) for kind in KINDS},
    }


def books(sources: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Do the books balance? Totals of the same tokens by several sources, side by side.

    `sources` is {source: {kind of tokens: total}}. One row a kind, one column a source (NaN where it has none),
    and `difference_tokens`: the largest total less the smallest. Raises FrameError for fewer than two sources.
    """
    if len(sources) < 2:
        raise FrameError("books are balanced between at least two sources", had=", ".join(sources) or "none")
    table = pd.DataFrame({name: pd.Series(dict(totals), dtype="float64") for name, totals in sources.items()})
    table["difference_tokens"] = table.max(axis=1) - table.min(axis=1)
    table.index.name = "tokens"
    return table


def cost_table(
    prompt_tokens: float,
    cached_tokens: float,
    completion_tokens: float,
    requests: int,
    *,
    seconds: float,
    busy_s: float,
    machine: HourPrice,
    apis: Mapping[str, TokenPrice],
) -> pd.DataFrame:
    """What a run cost: on a machine for its whole time, for its busy time alone, and at APIs for the same tokens.

    One row a way to pay; columns `cost_usd`, `usd_per_mtok` (prompt and completion tokens together) and
    `usd_per_1000_requests`. The two rows of the machine are the ends of what it can cost: alone on an idle machine, and
    on one that others keep busy as well. `cached_tokens` are a part of the prompt tokens. Raises FrameError for a run
    without tokens or requests.
    """
    tokens = prompt_tokens + completion_tokens
    if not (tokens > 0 and requests > 0):
        raise FrameError("there is nothing to pay for", had=f"{tokens:g} tokens in {requests} requests")
    hourly = machine.usd_per_hour / 3600
    costs = {f"{machine.name}, the whole time": hourly * seconds, f"{machine.name}, busy time": hourly * busy_s}
    costs |= {name: api.cost_usd(prompt_tokens, completion_tokens, cached_tokens) for name, api in apis.items()}
    table = pd.DataFrame({"cost_usd": costs})
    table["usd_per_mtok"] = table["cost_usd"] / tokens * 1e6
    table["usd_per_1000_requests"] = table["cost_usd"] / requests * 1000
    return table


def cost_by(frame: pd.DataFrame, price: TokenPrice, *, by: Sequence[str] = ("kind",)) -> pd.DataFrame:
    """What the requests of each group would cost at an API with this price list. One row a group.

    Columns: those of `by`, `requests`, `failed_requests`, `prompt_tokens`, `cached_tokens`, `completion_tokens`, `usd`,
    `failed_usd` (the part of `usd` that went into requests that failed) and `usd_per_request`. Tokens are the client's;
    where it has none (-1) those of vLLM's spans, since a failed request has cost its tokens all the same.
    """
    table = frame[[*by, "status"]].copy()
    for kind in KINDS:
        said, seen = frame[f"{kind}_tokens"], frame[f"span_{kind}_tokens"]
        table[f"{kind}_tokens"] = said.where(said >= 0, seen).clip(lower=0)
    table["usd"] = [
        price.cost_usd(p, c, k)
        for p, c, k in zip(table["prompt_tokens"], table["completion_tokens"], table["cached_tokens"], strict=True)
    ]
    failed = table["status"] != "ok"
    table["requests"], table["failed_requests"], table["failed_usd"] = (
        1,
        failed.astype(int),
        table["usd"].where(failed, 0.0),
    )
    sums = ["requests", "failed_requests", *(f"{kind}_tokens" for kind in KINDS), "usd", "failed_usd"]
    result = table.groupby(list(by), observed=True)[sums].sum().reset_index()
    result["usd_per_request"] = result["usd"] / result["requests"]
    return result


def machine_usd_per_mtok(usd_per_hour: float, wall_s: float, tokens: float) -> float:
    """USD for a million tokens on a machine that is paid by the hour: price * time / tokens. NaN where there are none.

    It is the price at the load that was measured: half the load doubles it, since an idle machine costs the same.
    """
    return usd_per_hour * (wall_s / 3600) / (tokens / 1e6) if tokens > 0 else float("nan")
