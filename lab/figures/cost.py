"""Bills of a machine that is paid by the hour, tokens, and prices side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lab.figures.style import (
    PHASE_COLOURS,
    annotate_end,
    figure,
    legend_above,
    log_axis,
    need_columns,
    need_rows,
)

IDLE_COLOUR = "#e4e4e4"
_ROOM = 1.22  # of the longest bar: for the text at its end
# Units in which small sums are still readable.
_UNITS = (
    (1.0, "USD"),
    (1e-3, "mUSD (thousandths of a dollar)"),
    (1e-6, "µUSD (millionths of a dollar)"),
)


@dataclass(frozen=True)
class _Part:
    """One colour of the bars: its name in the legend, and one value per bar."""

    name: str
    colour: str
    values: pd.Series
    hatch: str | None = None


@figure
def machine_costs(bill: pd.DataFrame, *, by: str, max_rows: int = 12, ax: Axes) -> None:
    """Draw each group's part of the machine's price, the most expensive on top.

    The parts are prefill, decode, and the group's part of the idle time. `bill` is
    `lab.measures.bill_by(..., [by])`; beyond `max_rows` rows the cheapest are drawn as one. Raises
    FrameError without rows or where a column is missing.
    """
    need_rows(bill, "groups with a cost")
    usd = ["prefill_usd", "decode_usd", "idle_usd"]
    need_columns(bill, [by, "requests", *usd], "lab.measures.bill_by")
    table = _with_rest(bill[[by, "requests", *usd]], by, max_rows).iloc[::-1]
    total = table[usd].sum(axis=1)
    scale, unit = next((each for each in _UNITS if total.max() >= each[0]), _UNITS[-1])
    parts = [
        _Part("prefill", PHASE_COLOURS["prefill_s"], table["prefill_usd"] / scale),
        _Part("decode", PHASE_COLOURS["decode_s"], table["decode_usd"] / scale),
        _Part("its part of the idle time", IDLE_COLOUR, table["idle_usd"] / scale, "////"),
    ]
    ends = [f"{share:.0%}" for share in total / total.sum()]
    _stacked(ax, table, by, parts, ends, f"{unit} (number of requests in brackets)")


def _with_rest(bill: pd.DataFrame, by: str, max_rows: int) -> pd.DataFrame:
    bill = bill.astype({by: str})
    if len(bill) <= max_rows:
        return bill
    rest = bill.iloc[max_rows - 1 :]
    sums = rest.drop(columns=by).sum().to_frame().T.assign(**{by: f"{len(rest)} others"})
    table = pd.concat([bill.iloc[: max_rows - 1], sums], ignore_index=True)
    return table.astype({"requests": int})


@figure
def tokens_cost(bill: pd.DataFrame, *, by: str, usd: str = "usd", ax: Axes) -> None:
    """Draw each group's tokens, stacked by what they are, with its cost at the end of its bar.

    The cost is column `usd`. `bill` is `lab.measures.cost_by(..., by=[by])`, or `bill_by` with
    `usd="api_usd"`. Raises FrameError without rows or where a column is missing.
    """
    need_rows(bill, "groups with tokens")
    tokens = ["prompt_tokens", "cached_tokens", "completion_tokens"]
    need_columns(bill, [by, "requests", *tokens, usd], "lab.measures.cost_by")
    total = bill["prompt_tokens"] + bill["completion_tokens"]
    table = bill.loc[total.sort_values().index]
    parts = [
        _Part("fresh prompt", "#E69F00", table["prompt_tokens"] - table["cached_tokens"]),
        _Part("prompt from the cache", "#F0E442", table["cached_tokens"]),
        _Part("generated", "#D55E00", table["completion_tokens"]),
    ]
    ends = [f"{cost:.3g} USD" for cost in table[usd]]
    _stacked(ax, table, by, parts, ends, "tokens (number of requests in brackets)")
    ax.xaxis.set_major_formatter(lambda tokens, _: f"{tokens:,.0f}")


@figure
def prices(usd_per_mtok: Mapping[str, tuple[float, str]], *, ax: Axes) -> None:
    """Draw USD per million tokens, one row per price: {name: (USD, group)}.

    A group has one colour. The scale is logarithmic, because an idle machine and a busy one lie
    orders of magnitude apart. Raises FrameError where no price is positive.
    """
    table = pd.DataFrame.from_dict(dict(usd_per_mtok), orient="index", columns=["usd", "group"])
    table = table[table["usd"] > 0]
    need_rows(table, "price is positive")

    rows = pd.Series(range(len(table)), index=table.index)
    for group, part in table.groupby("group", sort=False):
        ax.plot(part["usd"], rows[part.index], "o", markersize=8, label=group)
    for usd, row in zip(table["usd"], rows, strict=True):
        annotate_end(ax, f"{usd:.3g}", usd, row)
    log_axis(ax, "x")
    ax.set_yticks(rows, table.index)
    ax.set(
        xlim=(table["usd"].min() / 1.5, table["usd"].max() * 2),
        ylim=(len(table) - 0.5, -0.5),
        xlabel="USD per million tokens (log scale)",
    )
    legend_above(ax, ncols=table["group"].nunique())


def _stacked(
    ax: Axes,
    table: pd.DataFrame,
    by: str,
    parts: Sequence[_Part],
    ends: Sequence[str],
    xlabel: str,
) -> None:
    """Draw one bar per row of a table, the first at the bottom, with `ends` at the bars' ends."""
    y = np.arange(len(table))
    left = np.zeros(len(table))
    for part in parts:
        ax.barh(
            y,
            part.values,
            left=left,
            facecolor=part.colour,
            edgecolor="#888888",
            hatch=part.hatch,
            linewidth=0,
            label=part.name,
        )
        left = left + part.values.to_numpy(float)
    for row, text in enumerate(ends):
        annotate_end(ax, text, left[row], row)
    names = zip(table[by], table["requests"], strict=True)
    ax.set_yticks(y, [f"{name}  ({n})" for name, n in names])
    ax.set(xlim=(0, left.max() * _ROOM), xlabel=xlabel)
    ax.grid(axis="y", visible=False)
    legend_above(ax, ncols=4)
