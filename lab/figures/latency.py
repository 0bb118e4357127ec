"""Latency: one trace, where the time went, how it is distributed by each source, how it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from lab.figures.style import (
    OTHER_SERVICE,
    PHASE_COLOURS,
    SERVICE_COLOURS,
    annotate_end,
    figure,
    legend_above,
    log_axis,
    name_rows,
    need_columns,
    need_rows,
)
from lab.schema import Attr, Service, Span

_NOISE = 1e-6  # of the whole: less than that is rounding, not a phase
_KINDS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")
_BUCKET, _SAMPLE = "#CC79A7", "#0072B2"


@figure
def phases(frame: pd.DataFrame, *, by: str = "kind", ax: Axes) -> None:
    """Draw the mean seconds of each phase, stacked, one bar per value of column `by`.

    `frame` is a request frame; requests with an unknown `by` are one bar. Only requests whose trace
    is complete are drawn; how many is in the labels. Raises FrameError if there is none.
    """
    whole = frame[frame["trace_complete"].astype(bool)]
    need_rows(whole, "request with a complete trace")
    names = [name for name in PHASE_COLOURS if name in whole]
    totals = whole[names].fillna(0).abs().sum()
    drawn = totals.index[totals > _NOISE * totals.sum()]

    groups = whole.groupby(whole[by].astype(object).fillna("(unknown)"))
    means = groups[list(drawn)].mean().fillna(0.0)
    means = means.loc[means.sum(axis=1).sort_values().index]
    left = np.zeros(len(means))
    for name in drawn:
        ax.barh(
            range(len(means)),
            means[name],
            left=left,
            color=PHASE_COLOURS[name],
            edgecolor="#555555" if name == "unexplained_s" else "none",
            label=name.removesuffix("_s").replace("_", " "),
        )
        left += means[name].to_numpy()
    sizes = groups.size()
    ax.set_yticks(range(len(means)), [f"{group}  ({sizes[group]})" for group in means.index])
    ax.set_xlabel("mean seconds per request (complete traces; their number in brackets)")
    ax.grid(axis="y", visible=False)
    legend_above(ax, ncols=5, fontsize=8)


@figure
def ecdf(
    sources: Mapping[str, Sequence[float]] | pd.DataFrame,
    *,
    unit: str = "seconds",
    ax: Axes,
) -> None:
    """Draw the share of requests that took at most so long, one curve per source.

    Missing values are left out and counted. Raises FrameError if no source has a value.
    """
    for name in sources:
        values = np.sort(pd.Series(sources[name], dtype="float64").dropna())
        n = len(values)
        if n:
            ax.step(values, np.arange(1, n + 1) / n, where="post", label=f"{name} (n={n})")
    need_rows(ax.lines, "source has a value")
    log_axis(ax, "x")
    ax.set(ylim=(0, 1.02), xlabel=unit, ylabel="share of requests")
    ax.legend(loc="lower right", fontsize=9)


@figure
def quantile_intervals(table: pd.DataFrame, *, unit: str = "seconds", ax: Axes) -> None:
    """Draw the same quantiles from several sources, one row per quantile and source.

    A point with its bootstrap interval for samples; for histograms the bucket as a band, in which
    the interpolated value is a mere tick, hatched where one bucket holds everything. `table` is
    `lab.measures.quantiles_by_source(...)`. Raises FrameError without rows.
    """
    need_rows(table, "quantiles")
    needed = ["source", "q", "value", "low", "high", "interval"]
    need_columns(table, needed, "lab.measures.quantiles_by_source")
    right = table.loc[table["high"] < float("inf"), "high"].max() * 1.1
    for y, row in enumerate(table.itertuples()):
        if row.n == 0:
            annotate_end(ax, "no data", 0, y)
        elif row.interval.startswith("bootstrap"):
            spread = [[row.value - row.low], [row.high - row.value]]
            ax.errorbar(row.value, y, xerr=spread, fmt="o", color=_SAMPLE, capsize=4)
        else:
            width = min(row.high, right) - row.low
            hatch = None if row.interval == "bucket" else "////"
            band = ax.barh(y, width, left=row.low, height=0.5, color=_BUCKET, alpha=0.35)
            plt.setp(band.patches, edgecolor=_BUCKET, hatch=hatch)
            ax.plot(row.value, y, marker="|", markersize=12, color=_BUCKET, markeredgewidth=2)
    name_rows(ax, [f"p{r.q * 100:g}  {r.source}  (n={r.n:,.0f})" for r in table.itertuples()])
    note = "line: bootstrap 95 %; band: the histogram's bucket, hatched where it holds all"
    ax.set(xlim=(0, None), xlabel=f"{unit}\n{note}")


@figure
def bucketed_against_exact(table: pd.DataFrame, *, ax: Axes) -> None:
    """Draw what default buckets would have shown beside the exact quantiles, on a log axis.

    One row per quantity and quantile; `table` is `lab.measures.quantiles_by_bucketing(...)`. The
    band is the bucket, all that the histogram knows. Raises FrameError without rows.
    """
    need_rows(table, "quantiles")
    left = min(table["exact_low_s"].min(), table["bucketed_s"].min()) * 0.5
    for y, row in enumerate(table.itertuples()):
        low = max(row.low_s, left)
        high = row.high_s if np.isfinite(row.high_s) else row.bucketed_s * 3
        ax.barh(y, high - low, left=low, height=0.55, color=_BUCKET, alpha=0.25, linewidth=0)
        ax.plot([row.exact_s, row.bucketed_s], [y, y], color="#bbbbbb", linewidth=1, zorder=1)
        spread = [[row.exact_s - row.exact_low_s], [row.exact_high_s - row.exact_s]]
        ax.errorbar(row.exact_s, y, xerr=spread, fmt="o", color=_SAMPLE, capsize=3)
        ax.plot(row.bucketed_s, y, "D", color=_BUCKET, markersize=6)
        ratio = f"{row.bucketed_s / row.exact_s:.1f}x"
        annotate_end(ax, ratio, max(row.bucketed_s, row.exact_s), y)
    log_axis(ax, "x")
    ax.set_xlim(left, ax.get_xlim()[1] * 1.4)
    name_rows(ax, [f"{row.what}  p{row.q * 100:g}" for row in table.itertuples()])
    ax.set_xlabel(
        "seconds\ncircle: exact, with its interval; diamond: what the dashboard shows; "
        "band: the bucket"
    )


@figure
def growth(
    points: Mapping[str, tuple[Any, Any]],
    lines: Mapping[str, Any] | None = None,
    *,
    xlabel: str,
    ylabel: str,
    ax: Axes,
) -> None:
    """Draw points (x, seconds) of one or more kinds in milliseconds, with their fitted lines.

    A line is a `lab.measures.Slope`; it is drawn over the range of its points, where it is above 0.
    A kind may have several (`lab.measures.slopes_by_half`). Raises FrameError without a point.
    """
    need_rows([x for xs, _ in points.values() for x in xs], "points")
    for colour, (name, (x, y)) in zip(_KINDS, points.items(), strict=False):
        values = pd.DataFrame({"x": np.asarray(x, float), "y": np.asarray(y, float) * 1e3}).dropna()
        fits = (lines or {}).get(name, ())
        slopes = []
        for line in fits if isinstance(fits, tuple) else (fits,):
            xs = np.linspace(line.x_low, line.x_high, 200)
            above = xs[line.at(xs) >= 0]
            ax.plot(above, line.at(above) * 1e3, color=colour, linewidth=1.4)
            slopes.append(_per_token(line))
        text = f": {'; then '.join(slopes)} per token" if slopes else ""
        ax.plot(
            values["x"],
            values["y"],
            "o",
            markersize=4,
            alpha=0.5,
            color=colour,
            markeredgewidth=0,
            label=f"{name} (n={len(values)}){text}",
        )
    ax.set(xlim=(0, None), ylim=(0, None), xlabel=xlabel, ylabel=ylabel)
    legend_above(ax)


def _per_token(line: Any) -> str:
    """Return a slope with its interval, in ms or µs, whichever is readable."""
    factor, unit = (1e3, "ms") if abs(line.per_x) >= 1e-3 else (1e6, "µs")
    interval = f"[{line.low * factor:.2f}, {line.high * factor:.2f}]"
    return f"{line.per_x * factor:.2f} {unit} {interval}"


@figure
def critical_bars(table: pd.DataFrame, *, rows: int = 12, ax: Axes) -> None:
    """Draw the share of the critical path by span, the longest first.

    `table` is `lab.measures.critical_path(...)`. What is not among the first `rows` is one bar of
    its own. Raises FrameError without rows.
    """
    need_rows(table, "spans on a critical path")
    shown = table.head(rows)
    rest = table.iloc[rows:]
    names = (shown["service"] + ": " + shown["name"]).tolist()
    colours = [SERVICE_COLOURS.get(service, "#cccccc") for service in shown["service"]]
    percent = (shown["share_ratio"] * 100).tolist()
    if len(rest):
        names.append(f"{len(rest)} others")
        colours.append("#cccccc")
        percent.append(float(rest["share_ratio"].sum()) * 100)
    bars = ax.barh(range(len(names)), percent, color=colours)
    ax.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    name_rows(ax, names)
    ax.set_xlabel("percent of the time on the critical path")


# vLLM's own division of its span, in the order in which it happens.
_INSIDE = {
    "queue_s": Attr.VLLM_QUEUE_S,
    "prefill_s": Attr.VLLM_PREFILL_S,
    "decode_s": Attr.VLLM_DECODE_S,
}
_HEIGHT = 0.62  # of a bar, in rows
_REST = "engine_other_s"  # of vLLM's spans: tokenising before the queue, output handling
_ERROR: dict[str, Any] = {"fill": False, "edgecolor": "black", "hatch": "////"}
_LONGEST_LABEL = 44
_LABEL_POINTS = 8
_CHARACTER_WIDTH = 0.61  # of a monospaced font, as a share of its size


@figure
def waterfall(tree: pd.DataFrame, *, ax: Axes) -> None:
    """Draw the spans of one trace, top to bottom in the order of `tree`, in milliseconds.

    `tree` is `lab.frames.trace_tree(...)`: one row per span with depth and offset_s. vLLM's spans
    are divided into queue, prefill and decode by their attributes; what is left of them has the
    colour that `phases` gives it. Raises FrameError for an empty tree, or spans that are not a
    tree.
    """
    need_rows(tree, "spans")
    need_columns(tree, ["depth", "offset_s", "duration_s", "name", "service"], "trace_tree")
    end_ms = (tree["offset_s"] + tree["duration_s"]) * 1e3
    total_ms = float(end_ms.max())
    for y, (_, span) in enumerate(tree.iterrows()):
        _draw_span(ax, y, span)
        text = f"{span['duration_s'] * 1e3:,.1f}"
        right = end_ms.iloc[y] + total_ms * 0.008
        ax.text(right, y, text, va="center", fontsize=7, color="#444444")

    # Names left of the axis, flush left, so that the indentation shows what is inside what.
    labels = [_label(span) for _, span in tree.iterrows()]
    name_rows(ax, labels)
    for label in ax.get_yticklabels():
        label.set(fontsize=_LABEL_POINTS, family="monospace", ha="left")
    ax.tick_params(axis="y", length=0, pad=max(map(len, labels)) * _LABEL_POINTS * _CHARACTER_WIDTH)
    ax.set(xlim=(0, total_ms * 1.12), xlabel="milliseconds since the request was due")
    legend_above(ax, handles=_handles(tree), ncols=4, fontsize=8)


def _draw_span(ax: Axes, y: int, span: pd.Series) -> None:
    """Draw one span: in its service's colour, or divided into vLLM's phases and the rest."""
    divided = _is_divided(span)
    colour = SERVICE_COLOURS.get(str(span["service"]), OTHER_SERVICE)
    if divided:
        colour = PHASE_COLOURS[_REST]
    start_ms = span["offset_s"] * 1e3
    place = (y, span["duration_s"] * 1e3, _HEIGHT, start_ms)
    # The edge has a width in print, so that no span is too short to be seen.
    ax.barh(*place, color=colour, edgecolor=colour, linewidth=0 if divided else 0.7)
    if span.get("status") == "error":
        ax.barh(*place, linewidth=0.8, **_ERROR)
    if divided:
        start_ms += _before_queue_s(span) * 1e3
        for phase, attribute in _INSIDE.items():
            length_ms = float(span[attribute]) * 1e3
            ax.barh(y, length_ms, _HEIGHT, start_ms, color=PHASE_COLOURS[phase], linewidth=0)
            start_ms += length_ms


def _is_divided(span: pd.Series) -> bool:
    known = [pd.notna(span.get(attribute)) for attribute in _INSIDE.values()]
    return span["name"] == Span.VLLM and all(known)


def _before_queue_s(span: pd.Series) -> float:
    """Return seconds from the start of vLLM's span to its queue, so that the TTFT fits.

    0 where vLLM reports no time to first token.
    """
    until_first_token = span.get(Attr.VLLM_TTFT_S, float("nan"))
    before = until_first_token - span[Attr.VLLM_QUEUE_S] - span[Attr.VLLM_PREFILL_S]
    return float(before) if before > 0 else 0.0


def _label(span: pd.Series) -> str:
    text = "  " * int(span["depth"]) + str(span["name"])
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"


def _handles(tree: pd.DataFrame) -> list[Patch]:
    """Return the legend: services, vLLM's phases and the rest of its spans, and errors."""
    divided = any(_is_divided(span) for _, span in tree.iterrows())
    services = set(tree["service"].astype(str))
    handles = []
    for service, colour in SERVICE_COLOURS.items():
        if service in services and not (divided and service == Service.VLLM):
            handles.append(Patch(color=colour, label=service))
    if divided:
        for phase in (*_INSIDE, _REST):
            name = phase.removesuffix("_s").replace("_", " ")
            handles.append(Patch(color=PHASE_COLOURS[phase], label=f"vllm: {name}"))
    if (tree.get("status") == "error").any():
        handles.append(Patch(label="error", **_ERROR))
    return handles
