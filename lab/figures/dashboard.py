"""Dashboards in a notebook: the panels of Grafana's dashboards, drawn from any Prometheus."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from lab.errors import FrameError
from lab.figures.style import STYLE

COLUMNS = 3
# Grafana's unit -> (factor, what the axis says)
UNITS = {
    "s": (1.0, "s"), "percentunit": (100.0, "%"), "reqps": (1.0, "requests/s"), "ops": (1.0, "1/s"),
    "currencyUSD": (1.0, "USD"), "bytes": (2.0**-20, "MiB"), "Bps": (2.0**-20, "MiB/s"), "watt": (1.0, "W"),
    "celsius": (1.0, "°C"), "hertz": (1e-6, "MHz"),
}  # fmt: skip
MAX_LEGEND = 8


class Query(Protocol):
    """What a panel asks: plain PromQL, and the legend of its series."""

    expr: str
    legend: str


class Panel(Protocol):
    """What is drawn; `lab.dashboards.panels` makes them."""

    title: str
    queries: Sequence[Any]
    unit: str
    kind: str
    stacked: bool
    needs: str
    quiet: str


def dashboard(
    panels: Sequence[Panel],
    query: Callable[[str, float, float], Any],
    start: float,
    end: float,
    *,
    place: str = "local",
) -> Figure:
    """All panels as one figure, three in a row. A panel without data says so, and why if it is known.

    panels: of `lab.dashboards.panels(name, range_s=...)`. query(promql, start, end): `Prometheus(...).range`, or any
    function whose answer has `metrics` (or is) a list of {"metric": labels, "values": [[seconds, "value"], ...]}.
    start, end: seconds since the epoch. place: panels that need another place (a GPU, a cluster) are left out.
    Raises FrameError if no panel is left.
    """
    shown = [p for p in panels if p.needs in ("", place) or place == "all"]
    if not shown:
        raise FrameError(
            "no panel of this dashboard can be drawn here", fix="open it in Grafana on a cluster"
        )
    rows = math.ceil(len(shown) / COLUMNS)
    with plt.style.context(STYLE):
        size = (5 * COLUMNS, 3.1 * rows)
        figure, axs = plt.subplots(rows, COLUMNS, figsize=size, squeeze=False, layout="constrained")
        for ax, panel in zip(axs.flat, shown, strict=False):
            draw(panel, [_series(query(q.expr, start, end)) for q in panel.queries], ax=ax)
            if ax.has_data():
                ax.set_xlim(datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC))
        for ax in list(axs.flat)[len(shown) :]:
            ax.set_axis_off()
    return figure


def draw(panel: Panel, answers: Sequence[list[dict[str, Any]]], *, ax: Axes) -> Axes:
    """One panel. `answers` has for each of its queries a list of {"metric": labels, "values": [[s, "value"], ...]}."""
    factor, unit = UNITS.get(panel.unit, (1.0, ""))
    ax.set_title(panel.title, fontsize=10)
    ax.set_ylabel(unit)
    found = [
        (q, s)
        for q, series in zip(panel.queries, answers, strict=True)
        for s in series
        if _has_value(s)
    ]
    if not found:
        ax.text(
            0.5,
            0.5,
            f"no data\n{panel.quiet}".strip(),
            ha="center",
            va="center",
            transform=ax.transAxes,
        )
        ax.set_xticks([], [])
        ax.set_yticks([], [])
        return ax
    if panel.kind == "heatmap":
        return _heat(panel, [s for _, s in found], ax)
    lines = [(_label(q.legend, s["metric"]), *_points(s, factor)) for q, s in found]
    if panel.stacked:
        lines = [line for line in lines if np.nansum(line[2]) > 0] or lines[:1]
        _stack(lines, ax)
    else:
        for label, times, values in lines:
            ax.plot(times, values, label=label, linewidth=1.2)
    _value_axis(ax, panel.stacked)
    _time_axis(ax)
    _legend(ax, lines)
    return ax


def _series(answer: Any) -> list[dict[str, Any]]:
    return getattr(answer, "metrics", answer)


def _has_value(series: dict[str, Any]) -> bool:
    return any(math.isfinite(float(v)) for _, v in series["values"])


def _points(series: dict[str, Any], factor: float) -> tuple[list[datetime], np.ndarray]:
    times = [datetime.fromtimestamp(float(t), UTC) for t, _ in series["values"]]
    return times, np.array([float(v) for _, v in series["values"]]) * factor


def _label(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda m: labels.get(m[1], ""), legend).strip() or ", ".join(
        labels.values()
    )


def _stack(lines: list[tuple[str, list[datetime], np.ndarray]], ax: Axes) -> None:
    times = sorted({t for _, moments, _ in lines for t in moments})
    rows = []
    for _, moments, values in lines:
        at = dict(zip(moments, values, strict=True))
        rows.append([v if math.isfinite(v := float(at.get(t, 0.0))) else 0.0 for t in times])
    ax.stackplot(times, *rows, labels=[label for label, _, _ in lines], alpha=0.8)


def _heat(panel: Panel, series: list[dict[str, Any]], ax: Axes) -> Axes:
    """Observations a second in each bucket; buckets are cumulative, so each gives up what is below it."""
    series = sorted(series, key=lambda s: float(s["metric"]["le"]))
    bounds = [float(s["metric"]["le"]) for s in series]
    times = sorted({float(t) for s in series for t, _ in s["values"]})
    at = {t: i for i, t in enumerate(times)}
    cumulative = np.zeros((len(series), len(times)))
    for row, s in enumerate(series):
        for t, v in s["values"]:
            cumulative[row, at[float(t)]] = float(v) if math.isfinite(float(v)) else 0.0
    counts = np.diff(cumulative, axis=0, prepend=0.0).clip(min=0)
    used = np.flatnonzero(counts.sum(axis=1))
    if not len(used):
        ax.text(0.5, 0.5, "no observation", ha="center", va="center", transform=ax.transAxes)
        return ax
    first, last = used[0], used[-1]
    ax.pcolormesh(
        [datetime.fromtimestamp(t, UTC) for t in times],
        np.arange(last - first + 1),
        np.ma.masked_equal(counts[first : last + 1], 0),
        shading="nearest",
    )
    ticks = np.unique(np.linspace(0, last - first, min(6, last - first + 1)).astype(int))
    ax.set_yticks(ticks, [f"≤ {bounds[first + i]:g}" for i in ticks])
    ax.grid(visible=False)
    _time_axis(ax)
    return ax


def _value_axis(ax: Axes, stacked: bool) -> None:
    """From zero (or the lowest value below it), with air above and below the lines; no offset in the corner."""
    low, high = ax.dataLim.y0, ax.dataLim.y1
    if not (math.isfinite(low) and math.isfinite(high)):
        return
    low = min(0.0, low)
    span = high - low if high > low else 1.0
    ax.set_ylim(low - (0.0 if stacked else 0.03 * span), low + 1.12 * span)
    ax.yaxis.set_major_formatter(
        FuncFormatter(lambda v, _: f"{v:,.6g}" if v == 0 or abs(v) >= 1e-4 else f"{v:.1g}")
    )


def _legend(ax: Axes, lines: Sequence[tuple[str, list[datetime], np.ndarray]]) -> None:
    """The largest MAX_LEGEND series by name, and how many there are besides."""
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) != len(lines):  # matplotlib leaves out a series without a name
        return
    by_size = sorted(range(len(labels)), key=lambda i: -np.nansum(np.abs(lines[i][2])))
    shown = sorted(by_size[:MAX_LEGEND])
    more = f"and {len(labels) - len(shown)} more" if len(labels) > len(shown) else None
    where = [handles[i] for i in shown], [labels[i] for i in shown]
    ax.legend(*where, title=more, title_fontsize=7, fontsize=7, loc="upper left", frameon=True, framealpha=0.7,
              edgecolor="none", borderpad=0.2, labelspacing=0.25)  # fmt: skip


def _time_axis(ax: Axes) -> None:
    locator = AutoDateLocator(maxticks=5)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
