"""What a server can take: levels, sweeps, backlogs, and what was foretold beside what came."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from lab.figures.style import figure, need_rows

KEEPS_UP, UNCLEAR, SATURATED = "#0072B2", "#E69F00", "#D55E00"
_COLOUR = {"keeps up": KEEPS_UP, "cannot tell": UNCLEAR, "saturated": SATURATED}
_PARTS = {
    "queue_s": "#F0E442",
    "prefill_s": "#E69F00",
    "decode_s": "#D55E00",
    "outside_s": "#999999",
}
_CALLED = {"outside_s": "outside the engine"}


@figure
def service_line(
    levels: pd.DataFrame, lines: Sequence[tuple[float, float]] = (), *, ax: Axes
) -> Axes:
    """Mean time of a request by how many are under way, a point a level and round, and fitted lines.

    `levels` has `users`, `round`, `e2e_mean_s`; each line is (seconds alone, seconds more for every other). Raises
    FrameError without rows.
    """
    need_rows(levels, "levels")
    for name, part in levels.groupby("round"):
        ax.plot(
            part["users"],
            part["e2e_mean_s"] * 1e3,
            "o",
            markersize=5,
            alpha=0.8,
            label=f"round {name}",
        )
    n = np.linspace(1, levels["users"].max(), 50)
    for at, (alone, slot) in enumerate(lines):
        label = "fitted, a line a round" if at == 0 else None
        ax.plot(
            n, (alone + slot * (n - 1)) * 1e3, color="#666666", linewidth=1, zorder=1, label=label
        )
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("requests under way (closed-loop users)")
    ax.set_ylabel("mean time of a request, ms")
    ax.legend(ncols=6, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=9)
    return ax


@figure
def engine_parts(parts: pd.DataFrame, *, ax: Axes) -> Axes:
    """Where the time of a request goes, by how many are under way: mean ms in each part, stacked, one bar a level.

    `parts` has `users`, `queue_s`, `prefill_s`, `decode_s`, `outside_s`; rounds are averaged. Raises FrameError without
    rows.
    """
    need_rows(parts, "levels")
    means = parts.groupby("users")[list(_PARTS)].mean() * 1e3
    bottom = np.zeros(len(means))
    for name, colour in _PARTS.items():
        height = means[name].clip(lower=0).to_numpy()
        label = _CALLED.get(name, name.removesuffix("_s"))
        ax.bar(range(len(means)), height, bottom=bottom, color=colour, label=label, width=0.7)
        bottom += height
    ax.set_xticks(range(len(means)), means.index)
    ax.set_xlabel("requests under way (closed-loop users)")
    ax.set_ylabel("mean time of a request, ms")
    ax.grid(axis="x", visible=False)
    ax.legend(loc="upper left", fontsize=9)
    return ax


@figure
def load_latency(steps: pd.DataFrame, predicted: pd.DataFrame | None = None, *, ax: Axes) -> Axes:
    """Latency by offered load: the mean of each step with its interval, p95 as a mark, coloured by the verdict; and the
    band that was foretold, where given (`offered_per_s`, `value_s`, `low_s`, `high_s`). The time is logarithmic.

    Raises FrameError without rows.
    """
    need_rows(steps, "steps")
    top = steps["e2e_p95_s"].max() * 1.6
    if predicted is not None:
        inside = predicted[np.isfinite(predicted["value_s"])]
        high = np.minimum(inside["high_s"], top)
        ax.fill_between(inside["offered_per_s"], inside["low_s"], high, color="#56B4E9", alpha=0.3, linewidth=0,
                        label="foretold (mean of one more run, 95 %)")  # fmt: skip
        ax.plot(inside["offered_per_s"], inside["value_s"], color="#56B4E9", linewidth=1.2)
    for verdict, part in steps.groupby("verdict"):
        spread = [part["e2e_mean_s"] - part["e2e_low_s"], part["e2e_high_s"] - part["e2e_mean_s"]]
        spread = np.clip(np.nan_to_num(spread), 0, None)
        spread[0] = np.minimum(spread[0], part["e2e_mean_s"] * 0.9)  # the axis has no zero
        ax.errorbar(part["offered_per_s"], part["e2e_mean_s"], yerr=spread, fmt="o", capsize=4,
                    color=_COLOUR[str(verdict)], label=f"measured mean: {verdict}")  # fmt: skip
    ax.plot(
        steps["offered_per_s"],
        steps["e2e_p95_s"],
        "_",
        color="#000000",
        markersize=10,
        label="measured p95",
    )
    _mark_lagged(ax, steps, "offered_per_s", "e2e_mean_s")
    ax.set_yscale("log")
    ax.set_ylim(steps["e2e_mean_s"].min() * 0.4, top)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(left=0)
    ax.set_xlabel("offered requests a second (open loop)")
    ax.set_ylabel("seconds, from when the request was due")
    ax.legend(loc="upper left", fontsize=8)
    return ax


@figure
def throughput_goodput(steps: pd.DataFrame, *, slo: str = "", ax: Axes) -> Axes:
    """Answered and good requests a second by offered load: where the first leaves the diagonal the server is full,
    where the second leaves the first its users are not content. Raises FrameError without rows."""
    need_rows(steps, "steps")
    steps = steps.sort_values("arrived_per_s")
    x = steps["arrived_per_s"]
    ax.plot(
        [0, x.max()],
        [0, x.max()],
        color="#bbbbbb",
        linewidth=1,
        linestyle="--",
        label="all that was offered",
    )
    spread = [
        steps["answered_per_s"] - steps["answered_low"],
        steps["answered_high"] - steps["answered_per_s"],
    ]
    ax.errorbar(
        x,
        steps["answered_per_s"],
        yerr=spread,
        fmt="o-",
        capsize=4,
        color=KEEPS_UP,
        label="answered",
    )
    ax.plot(
        x, steps["goodput_per_s"], "s-", color="#009E73", label=f"good{': ' if slo else ''}{slo}"
    )
    _mark_lagged(ax, steps, "arrived_per_s", "answered_per_s")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("requests a second that came")
    ax.set_ylabel("requests a second")
    ax.legend(loc="upper left", fontsize=9)
    return ax


@figure
def backlogs(lines: Sequence[tuple[str, str, np.ndarray, np.ndarray]], *, ax: Axes) -> Axes:
    """How many requests were under way through each step, on one time axis: (label, verdict, seconds since the step
    began, number). Raises FrameError without lines."""
    need_rows(lines, "steps")
    shades = np.linspace(0.45, 1.0, len(lines))
    for (_, verdict, at, running), alpha in zip(lines, shades, strict=True):
        ax.step(at, running, where="post", color=_COLOUR[verdict], alpha=alpha, linewidth=1.3)
    ends = [float(running[-1]) for _, _, _, running in lines]
    right = max(float(at[-1]) for _, _, at, _ in lines)
    places = _apart(
        ends, 0.045 * max(1.0, max(float(np.max(running)) for _, _, _, running in lines))
    )
    for (label, verdict, at, _), end, place in zip(lines, ends, places, strict=True):
        line = {"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.6}
        ax.annotate(
            label, (at[-1], end), xytext=(at[-1] + right * 0.03, place), fontsize=8, va="center",
            color=_COLOUR[verdict], arrowprops=line,
        )  # fmt: skip
    ax.set_xlim(0, right * 1.1)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("seconds since the step began")
    ax.set_ylabel("requests under way")
    for verdict in dict.fromkeys(v for _, v, _, _ in lines):
        ax.plot([], [], color=_COLOUR[verdict], label=verdict)
    ax.legend(loc="upper left", fontsize=9)
    return ax


@figure
def gauge_against_truth(samples: pd.DataFrame, *, ax: Axes) -> Axes:
    """A gauge's samples (`value`) against the requests that were really under way at the same instants (`true`). On the
    diagonal both agree. Raises FrameError without rows."""
    need_rows(samples, "samples")
    most = float(max(samples["value"].max(), samples["true"].max(), 1))
    ax.plot([0, most], [0, most], color="#bbbbbb", linewidth=1, linestyle="--", label="equal")
    ax.plot(
        samples["true"],
        samples["value"],
        "o",
        markersize=4,
        alpha=0.6,
        label=f"scrapes (n={len(samples)})",
    )
    if most > 30:
        ax.set_xscale("symlog", linthresh=10)
        ax.set_yscale("symlog", linthresh=10)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlim(left=-0.5)
    ax.set_ylim(bottom=-0.5)
    ax.set_xlabel("under way by the client's records")
    ax.set_ylabel("running + waiting by vLLM's gauges")
    ax.legend(loc="upper left", fontsize=9)
    return ax


def _mark_lagged(ax: Axes, steps: pd.DataFrame, x: str, y: str) -> None:
    """Ring the steps in which the load driver itself was late (`lagged`), so that the figure carries the warning."""
    if "lagged" not in steps:
        return

    lagged = steps[steps["lagged"].astype(bool)]
    if len(lagged):
        ax.plot(
            lagged[x],
            lagged[y],
            "o",
            markersize=12,
            markerfacecolor="none",
            markeredgecolor="#000000",
            label="the driver lagged: its own delay is in the times",
        )


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Places for labels near these values, none closer than `gap` to another, in the values' order of size."""
    places, at = [0.0] * len(values), -np.inf
    for index in np.argsort(values):
        at = max(values[index], at + gap)
        places[index] = float(at)
    return places
