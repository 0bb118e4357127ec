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
