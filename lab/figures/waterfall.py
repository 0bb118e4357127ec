"""One trace as a waterfall: what happened inside what, and for how long."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from lab.figures.style import (
    OTHER_SERVICE,
    PHASE_COLOURS,
    SERVICE_COLOURS,
    figure,
    legend_above,
    name_rows,
    need_columns,
    need_rows,
)
from lab.schema import Attr, Service, Span

# vLLM's own division of its span, in the order in which it happens.
_INSIDE = {
    "queue_s": Attr.VLLM_QUEUE_S,
    "prefill_s": Attr.VLLM_PREFILL_S,
    "decode_s": Attr.VLLM_DECODE_S,
}
_HEIGHT = 0.62  # of a bar, in rows
_PALE = 0.35
_ERROR: dict[str, Any] = {"fill": False, "edgecolor": "black", "hatch": "////"}
_LONGEST_LABEL = 44
_LABEL_POINTS = 8
_CHARACTER_WIDTH = 0.61  # of a monospaced font, as a share of its size


@figure
def waterfall(tree: pd.DataFrame, *, ax: Axes) -> Axes:
    """Draw the spans of one trace, top to bottom in the order of `tree`, in milliseconds.

    `tree` is `lab.frames.trace_tree(...)`: one row per span with depth and offset_s. vLLM's spans
    are divided into queue, prefill and decode by their attributes; what is left of them (tokenising
    before the queue, output handling) is pale. Raises FrameError for an empty tree, or spans that
    are not a tree.
    """
    need_rows(tree, "spans")
    need_columns(tree, ["depth", "offset_s", "duration_s", "name", "service"], "trace_tree")
    total_ms = float((tree["offset_s"] + tree["duration_s"]).max()) * 1e3
    for y, (_, span) in enumerate(tree.iterrows()):
        end_ms = _draw_span(ax, y, span)
        text = f"{span['duration_s'] * 1e3:,.1f}"
        ax.text(end_ms + total_ms * 0.008, y, text, va="center", fontsize=7, color="#444444")

    # Names left of the axis, flush left, so that the indentation shows what is inside what.
    labels = [_label(span) for _, span in tree.iterrows()]
    name_rows(ax, labels)
    for label in ax.get_yticklabels():
        label.set(fontsize=_LABEL_POINTS, family="monospace", ha="left")
    ax.tick_params(axis="y", length=0, pad=max(map(len, labels)) * _LABEL_POINTS * _CHARACTER_WIDTH)
    ax.set_xlim(0, total_ms * 1.12)
    ax.set_xlabel("milliseconds since the request was due")
    legend_above(ax, handles=_handles(tree), ncols=4, fontsize=8)
    return ax


def _draw_span(ax: Axes, y: int, span: pd.Series) -> float:
    """Draw one span with its phases; return its end in milliseconds."""
    start_ms = span["offset_s"] * 1e3
    length_ms = span["duration_s"] * 1e3
    colour = SERVICE_COLOURS.get(str(span["service"]), OTHER_SERVICE)
    divided = _is_divided(span)
    # The edge has a width in print, so that no span is too short to be seen.
    bar = ax.barh(
        y,
        length_ms,
        left=start_ms,
        height=_HEIGHT,
        facecolor=colour,
        edgecolor="none" if divided else colour,
        alpha=_PALE if divided else 0.9,
        linewidth=0.7,
    )
    if span.get("status") == "error":
        ax.barh(y, length_ms, left=start_ms, height=_HEIGHT, linewidth=0.8, **_ERROR)
    if divided:
        left_ms = start_ms + _before_queue_s(span) * 1e3
        for phase, attribute in _INSIDE.items():
            width_ms = float(span[attribute]) * 1e3
            ax.barh(y, width_ms, left=left_ms, height=_HEIGHT, color=PHASE_COLOURS[phase])
            left_ms += width_ms
    return float(bar.patches[0].get_x() + length_ms)


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
        for phase in _INSIDE:
            name = phase.removesuffix("_s")
            handles.append(Patch(color=PHASE_COLOURS[phase], label=f"vllm: {name}"))
        rest = "vllm: the rest (tokenising, output)"
        colour = SERVICE_COLOURS[Service.VLLM]
        handles.append(Patch(facecolor=colour, alpha=_PALE, label=rest))
    if (tree.get("status") == "error").any():
        handles.append(Patch(label="error", **_ERROR))
    return handles
