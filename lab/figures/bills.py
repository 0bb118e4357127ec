"""Bills of a machine that is paid by the hour, and prices of a million tokens side by side."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from lab.errors import FrameError
from lab.figures.stacked import Part, stacked
from lab.figures.style import PHASE_COLOURS, figure, need_rows

IDLE_COLOUR = "#e4e4e4"
_PARTS = (
    ("prefill_usd", "prefill", PHASE_COLOURS["prefill_s"], ""),
    ("decode_usd", "decode", PHASE_COLOURS["decode_s"], ""),
    ("idle_usd", "its part of the idle time", IDLE_COLOUR, "////"),
)
# Steps in which small sums are still read: of a cent's thousandth one says microdollars.
_UNITS = (
    (1.0, "USD"),
    (1e-3, "mUSD (thousandths of a dollar)"),
    (1e-6, "µUSD (millionths of a dollar)"),
)


@figure
def machine_costs(bill: pd.DataFrame, *, by: str, most: int = 12, ax: Axes) -> Axes:
    """Each group's part of the machine's price: prefill, decode, and its part of the idle time. Dearest on top.

    `bill` is `lab.measures.bill_by(..., [by])`; beyond `most` rows the cheapest are drawn as one. Raises FrameError
    without rows or where a column is missing.
    """
    need_rows(bill, "groups with a cost")
    if missing := {by, "requests", *(name for name, *_ in _PARTS)} - set(bill):
        raise FrameError(
            f"the bill lacks {', '.join(sorted(missing))}", fix="make it with lab.measures.bill_by"
        )
    table = _with_rest(bill, by, most).iloc[::-1]
    total = table[[name for name, *_ in _PARTS]].sum(axis=1)
    scale, unit = next(((s, u) for s, u in _UNITS if total.max() >= s), _UNITS[-1])
    parts = [
        Part(name, colour, table[column] / scale, hatch) for column, name, colour, hatch in _PARTS
    ]
    labels = [f"{name}  ({n})" for name, n in zip(table[by], table["requests"], strict=True)]
    ends = [f"{share:.0%}" for share in total / total.sum()]
    return stacked(ax, labels, parts, ends, xlabel=f"{unit} (number of requests in brackets)")


def _with_rest(bill: pd.DataFrame, by: str, most: int) -> pd.DataFrame:
    bill = bill.astype({by: str})
    if len(bill) <= most:
        return bill
    rest = bill.iloc[most - 1 :]
    sums = rest.select_dtypes("number").sum().to_frame().T
    return pd.concat(
        [bill.iloc[: most - 1], sums.assign(**{by: f"{len(rest)} others"})], ignore_index=True
    ).astype({"requests": int})


@figure
def prices(usd_per_mtok: Mapping[str, tuple[float, str]], *, ax: Axes) -> Axes:
    """USD of a million tokens, one row a price: {name: (USD, group)}; a group has one colour. On a log scale, because
    an idle machine and a busy one lie orders of magnitude apart. Raises FrameError where no price is positive."""
    shown = {name: (usd, group) for name, (usd, group) in usd_per_mtok.items() if usd > 0}
    if not shown:
        raise FrameError(
            "there is nothing to draw: no price is positive",
            got=", ".join(usd_per_mtok) or "no price",
        )
    groups = list(dict.fromkeys(group for _, group in shown.values()))
    for group in groups:
        rows = [(i, usd) for i, (usd, of) in enumerate(shown.values()) if of == group]
        ax.plot([usd for _, usd in rows], [i for i, _ in rows], "o", markersize=8, label=group)
    for i, (usd, _) in enumerate(shown.values()):
        ax.annotate(
            f"{usd:.3g}",
            (usd, i),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    ax.set_xscale("log")
    low, high = min(u for u, _ in shown.values()), max(u for u, _ in shown.values())
    ax.set_xlim(low / 1.5, high * 2)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(lambda usd, _: f"{usd:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yticks(range(len(shown)), list(shown))
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set_xlabel("USD for a million tokens (log scale)")
    ax.legend(ncols=len(groups), loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=9)
    return ax
