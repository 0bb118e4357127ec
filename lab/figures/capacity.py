"""What a server can take: levels, sweeps, backlogs, and predictions beside measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lab.figures.style import PHASE_COLOURS, figure, legend_above, log_axis, need_rows, spread
from lab.headlines import LAGGED

VERDICT_COLOURS = {"keeps up": "#0072B2", "cannot tell": "#E69F00", "saturated": "#D55E00"}
_GOOD = "#009E73"
_PREDICTED = "#56B4E9"
_GREY = "#bbbbbb"
_PARTS = {
    "queue_s": "queue",
    "prefill_s": "prefill",
    "decode_s": "decode",
    "outside_s": "outside the engine",
}


@figure
def service_line(
    levels: pd.DataFrame, lines: Sequence[tuple[float, float]] = (), *, ax: Axes
) -> None:
    """Draw the mean time of a request by how many are under way, with fitted lines.

    One point per level and round. `levels` has `users`, `round`, `e2e_mean_s`; each line is
    (seconds alone, seconds more for every other). Raises FrameError without rows.
    """
    need_rows(levels, "levels")
    for name, part in levels.groupby("round"):
        ms = part["e2e_mean_s"] * 1e3
        ax.plot(part["users"], ms, "o", markersize=5, alpha=0.8, label=f"round {name}")
    n = np.array([1, levels["users"].max()])
    label: str | None = "fitted, one line per round"
    for alone, slot in lines:
        ms = (alone + slot * (n - 1)) * 1e3
        ax.plot(n, ms, color="#666666", linewidth=1, zorder=1, label=label)
        label = None
    ax.set(
        xlim=(0, None),
        ylim=(0, None),
        xlabel="requests under way (closed-loop users)",
        ylabel="mean time of a request, ms",
    )
    legend_above(ax, ncols=6)


@figure
def engine_parts(parts: pd.DataFrame, *, ax: Axes) -> None:
    """Draw where the time of a request goes, by how many are under way: one stacked bar per level.

    `parts` has `users`, `queue_s`, `prefill_s`, `decode_s`, `outside_s`; rounds are averaged.
    Raises FrameError without rows.
    """
    need_rows(parts, "levels")
    means = parts.groupby("users")[list(_PARTS)].mean() * 1e3
    bottom = np.zeros(len(means))
    for name, label in _PARTS.items():
        height = means[name].clip(lower=0).to_numpy()
        colour = PHASE_COLOURS.get(name, "#999999")
        ax.bar(range(len(means)), height, bottom=bottom, color=colour, label=label, width=0.7)
        bottom += height
    ax.set_xticks(range(len(means)), means.index)
    ax.set(xlabel="requests under way (closed-loop users)", ylabel="mean time of a request, ms")
    ax.grid(axis="x", visible=False)
    ax.legend(loc="upper left", fontsize=9)


@figure
def load_latency(steps: pd.DataFrame, predicted: pd.DataFrame | None = None, *, ax: Axes) -> None:
    """Draw latency by offered load on a log axis, coloured by the verdict, with the predicted band.

    The mean of each step with its interval, p95 as a tick; steps in which the driver lagged are
    ringed. `predicted` has `offered_per_s`, `value_s`, `low_s`, `high_s`. Raises FrameError without
    rows.
    """
    need_rows(steps, "steps")
    top = steps["e2e_p95_s"].max() * 1.6
    if predicted is not None:
        band = predicted[np.isfinite(predicted["value_s"])]
        ax.fill_between(
            band["offered_per_s"],
            band["low_s"],
            band["high_s"].clip(upper=top),
            color=_PREDICTED,
            alpha=0.3,
            linewidth=0,
            label="predicted (mean of one more run, 95 %)",
        )
        ax.plot(band["offered_per_s"], band["value_s"], color=_PREDICTED, linewidth=1.2)
    for verdict, part in steps.groupby("verdict"):
        mean = part["e2e_mean_s"]
        below = (mean - part["e2e_low_s"]).fillna(0).clip(0, mean * 0.9)  # a log axis has no zero
        above = (part["e2e_high_s"] - mean).fillna(0).clip(lower=0)
        ax.errorbar(
            part["offered_per_s"],
            mean,
            yerr=[below, above],
            fmt="o",
            capsize=4,
            color=VERDICT_COLOURS[str(verdict)],
            label=f"measured mean: {verdict}",
        )
    p95 = steps["e2e_p95_s"]
    ax.plot(steps["offered_per_s"], p95, "_", color="black", markersize=10, label="measured p95")
    _mark_lagged(ax, steps, "offered_per_s", "e2e_mean_s")
    log_axis(ax, "y")
    ax.set(
        xlim=(0, None),
        ylim=(steps["e2e_mean_s"].min() * 0.4, top),
        xlabel="offered requests per second (open loop)",
        ylabel="seconds, from when the request was due",
    )
    ax.legend(loc="upper left", fontsize=8)


@figure
def throughput_goodput(steps: pd.DataFrame, *, slo: str = "", ax: Axes) -> None:
    """Draw answered and good requests per second by offered load.

    Where the first leaves the diagonal the server is full; where the second leaves the first its
    users are not content. Raises FrameError without rows.
    """
    need_rows(steps, "steps")
    steps = steps.sort_values("arrived_per_s")
    x = steps["arrived_per_s"]
    answered = steps["answered_per_s"]
    spread = [answered - steps["answered_low"], steps["answered_high"] - answered]
    _diagonal(ax, x.max(), "all that was offered")
    blue = VERDICT_COLOURS["keeps up"]
    ax.errorbar(x, answered, yerr=spread, fmt="o-", capsize=4, color=blue, label="answered")
    label = f"good: {slo}" if slo else "good"
    ax.plot(x, steps["goodput_per_s"], "s-", color=_GOOD, label=label)
    _mark_lagged(ax, steps, "arrived_per_s", "answered_per_s")
    ax.set(
        xlim=(0, None),
        ylim=(0, None),
        xlabel="requests per second that came",
        ylabel="requests per second",
    )
    ax.legend(loc="upper left", fontsize=9)


@figure
def backlogs(lines: Sequence[tuple[str, str, np.ndarray, np.ndarray]], *, ax: Axes) -> None:
    """Draw how many requests were under way through each step, on one time axis.

    Each line is (label, verdict, seconds since the step began, number). The labels stand right of
    all lines, so that none covers one. Raises FrameError without lines.
    """
    need_rows(lines, "steps")
    ends = [float(running[-1]) for _, _, _, running in lines]
    right = max(float(seconds[-1]) for _, _, seconds, _ in lines)
    highest = max(float(np.max(running)) for _, _, _, running in lines)
    places = spread(ends, 0.045 * max(1.0, highest))
    shades = np.linspace(0.45, 1.0, len(lines))
    for (label, verdict, seconds, running), place, alpha in zip(lines, places, shades, strict=True):
        colour = VERDICT_COLOURS[verdict]
        ax.step(seconds, running, where="post", color=colour, alpha=alpha, linewidth=1.3)
        ax.annotate(
            label,
            (seconds[-1], running[-1]),
            xytext=(right * 1.03, place),
            fontsize=8,
            va="center",
            color=colour,
            arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.6},
        )
    ax.set(
        xlim=(0, right * 1.12),
        ylim=(0, None),
        xlabel="seconds since the step began",
        ylabel="requests under way",
    )
    for verdict in dict.fromkeys(verdict for _, verdict, _, _ in lines):
        ax.plot([], [], color=VERDICT_COLOURS[verdict], label=verdict)
    legend_above(ax, ncols=3)


@figure
def gauge_against_truth(samples: pd.DataFrame, *, ax: Axes) -> None:
    """Draw a gauge's samples (`value`) against the requests under way at those instants (`true`).

    On the diagonal both agree. Raises FrameError without rows.
    """
    need_rows(samples, "samples")
    highest = float(max(samples["value"].max(), samples["true"].max(), 1))
    _diagonal(ax, highest, "equal")
    ax.plot(
        samples["true"],
        samples["value"],
        "o",
        markersize=4,
        alpha=0.6,
        label=f"scrapes (n={len(samples)})",
    )
    if highest > 30:
        ax.set_xscale("symlog", linthresh=10)
        ax.set_yscale("symlog", linthresh=10)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set(
        xlim=(-0.5, None),
        ylim=(-0.5, None),
        xlabel="under way by the client's records",
        ylabel="running + waiting by vLLM's gauges",
    )
    ax.legend(loc="upper left", fontsize=9)


def _diagonal(ax: Axes, end: float, label: str) -> None:
    ax.plot([0, end], [0, end], color=_GREY, linewidth=1, linestyle="--", label=label)


def _mark_lagged(ax: Axes, steps: pd.DataFrame, x: str, y: str) -> None:
    """Ring the steps in which the driver was late (`lagged`): the figure carries the warning."""
    lagged = steps[steps["lagged"].astype(bool)] if "lagged" in steps else steps[:0]
    if len(lagged):
        ax.plot(
            lagged[x],
            lagged[y],
            "o",
            color="black",
            fillstyle="none",
            ms=12,
            label=f"{LAGGED}: its own delay is in the times",
        )
