"""What a machine that is paid by the hour costs, told apart by what it did and for whom."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lab.errors import FrameError
from lab.measures.tokens import TokenPrice

IDLE = "idle"
_NEEDED = (
    "prefill_share_s",
    "decode_share_s",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
)


def machine_bill(
    turns: pd.DataFrame, window: tuple[float, float], usd_per_hour: float
) -> pd.DataFrame:
    """Where the hours went: rows prefill, decode and idle, which add up to the window, and their USD to its price.

    Columns: `seconds`, `share_ratio`, `usd`, `tokens` (computed ones: fresh prompt tokens, generated tokens) and
    `usd_per_mtok` (NaN for idle). USD = seconds / 3600 * price. `turns` is `with_shares(turn_frame, window)`.
    Raises FrameError for turns without shares, and for more busy time than there is time.
    """
    _check(turns)
    wall_s = window[1] - window[0]
    prefill_s, decode_s = (
        float(turns["prefill_share_s"].sum()),
        float(turns["decode_share_s"].sum()),
    )
    idle_s = wall_s - prefill_s - decode_s
    if idle_s < -1e-6 * max(wall_s, 1.0):
        got = f"{prefill_s + decode_s:.3f} s busy in {wall_s:.3f} s"
        raise FrameError(
            "the engine was busy longer than the window is",
            got=got,
            fix="give both the same window",
        )
    fresh = float((turns["prompt_tokens"] - turns["cached_tokens"]).sum())
    table = pd.DataFrame(
        {
            "seconds": [prefill_s, decode_s, max(0.0, idle_s)],
            "tokens": [fresh, float(turns["completion_tokens"].sum()), float("nan")],
        },
        index=pd.Index(["prefill", "decode", IDLE], name="what"),
    )
    table.insert(1, "share_ratio", table["seconds"] / wall_s)
    table.insert(2, "usd", table["seconds"] / 3600 * usd_per_hour)
    table["usd_per_mtok"] = (table["usd"] / table["tokens"] * 1e6).where(table["tokens"] > 0)
    return table


def bill_by(
    turns: pd.DataFrame,
    by: Sequence[str],
    *,
    window: tuple[float, float],
    usd_per_hour: float,
    price: TokenPrice | None = None,
) -> pd.DataFrame:
    """Every group's tokens and its part of the machine's price, dearest first. One row a group.

    Columns: those of `by`; `requests` (traces), `turns`, `prompt_tokens`, `cached_tokens`, `completion_tokens`;
    `prefill_usd`, `decode_usd` and `idle_usd` (the idle time's price, divided as the busy time is), which over all rows
    add up to the price of the window; `machine_usd`, their sum; and with a price list `api_usd`, what it would have
    charged.
    Raises FrameError for turns without shares or without a column of `by`.
    """
    _check(turns, [*by, "trace_id"])
    bill = machine_bill(turns, window, usd_per_hour)
    table = turns[[*by, "trace_id", *_NEEDED]].copy()
    table["turns"] = 1
    if price is not None:
        table["api_usd"] = price.cost_usd(
            table["prompt_tokens"], table["completion_tokens"], table["cached_tokens"]
        )
    groups = table.groupby(list(by), observed=True)
    sums = groups[[c for c in ("turns", *_NEEDED, "api_usd") if c in table]].sum()
    sums.insert(0, "requests", groups["trace_id"].nunique())
    shares = sums.pop("prefill_share_s"), sums.pop("decode_share_s")
    busy_s = float(shares[0].sum() + shares[1].sum())
    usd_per_s = usd_per_hour / 3600
    sums["prefill_usd"], sums["decode_usd"] = (share * usd_per_s for share in shares)
    sums["idle_usd"] = (shares[0] + shares[1]) / busy_s * bill.usd[IDLE] if busy_s else 0.0
    sums["machine_usd"] = sums["prefill_usd"] + sums["decode_usd"] + sums["idle_usd"]
    return sums.sort_values("machine_usd", ascending=False).reset_index()


def scaled(bill: pd.DataFrame, factor: float) -> pd.DataFrame:
    """The same bill for `factor` times as many requests like these: every `_usd` column times the factor.

    Sums of a minute's run are too small to be read. Tokens and counts stay what was measured, and the load stays, too:
    more requests on the same machine would be cheaper each.
    """
    return bill.assign(**{name: bill[name] * factor for name in bill if str(name).endswith("usd")})


def reconcile_money(
    bill: pd.DataFrame, window: tuple[float, float], usd_per_hour: float
) -> pd.Series:
    """Does the bill add up? `allocated_usd` (all rows), `paid_usd` (the window by the price) and their difference."""
    allocated, paid = float(bill["usd"].sum()), (window[1] - window[0]) / 3600 * usd_per_hour
    return pd.Series(
        {"allocated_usd": allocated, "paid_usd": paid, "difference_usd": allocated - paid}
    )


def _check(turns: pd.DataFrame, by: Sequence[str] = ()) -> None:
    if missing := [c for c in (*_NEEDED, *by) if c not in turns]:
        fix = "make the turns with lab.frames.turn_frame and lab.measures.with_shares"
        raise FrameError(f"the turns lack {', '.join(missing)}", fix=fix)
