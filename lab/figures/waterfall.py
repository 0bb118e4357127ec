"""One trace as a waterfall: what happened inside what, and for how long."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from lab.errors import FrameError
from lab.figures.style import OTHER_SERVICE, PHASE_COLOURS, SERVICE_COLOURS, figure, need_rows
from lab.schema import Attr, Service, Span

# vLLM's own division of its span, in the order in which it happens
_INSIDE = (
    ("queue_s", Attr.VLLM_QUEUE_S),
    ("prefill_s", Attr.VLLM_PREFILL_S),
    ("decode_s", Attr.VLLM_DECODE_S),
)
_LONGEST_LABEL = 44
_LABEL_POINTS, _CHARACTER_WIDTH = (
    8,
    0.61,
)  # of a monospaced font, in points and as a share of its size


@figure
def waterfall(tree: pd.DataFrame, *, ax: Axes) -> Axes:
    """Draw the spans of one trace, top to bottom in the order of `tree`, left to right in milliseconds.

    `tree` is `lab.frames.trace_tree(...)`: one row a span with depth and offset_s. vLLM's spans are divided into queue,
    prefill and decode by their attributes. Raises FrameError for an empty tree, or spans that are not a tree.
    """
    need_rows(tree, "spans")
    if missing := {"depth", "offset_s", "duration_s", "name", "service"} - set(tree):
        raise FrameError(
            f"these spans are not a tree: {', '.join(sorted(missing))} missing",
            fix="use trace_tree first",
        )
    total_ms = float((tree["offset_s"] + tree["duration_s"]).max()) * 1e3
    for y, (_, span) in enumerate(tree.iterrows()):
        _bar(ax, y, span)
        _note(ax, y, span, total_ms)
    _name_rows(ax, tree)
    ax.set_ylim(len(tree) - 0.4, -0.6)
    ax.set_xlim(0, total_ms * 1.12)
    ax.set_xlabel("milliseconds since the request was due")
    ax.grid(axis="y", visible=False)
    _legend(ax, tree)
    return ax


def _bar(ax: Axes, y: int, span: pd.Series) -> None:
    start_ms, long_ms = span["offset_s"] * 1e3, span["duration_s"] * 1e3
    colour = SERVICE_COLOURS.get(str(span["service"]), OTHER_SERVICE)
    divided = span["name"] == Span.VLLM and all(
        pd.notna(span.get(attribute)) for _, attribute in _INSIDE
    )
    # The edge has a width in print, so that no span is too short to be seen.
    edge = {} if divided else {"edgecolor": colour}
    ax.barh(
        y,
        long_ms,
        left=start_ms,
        height=0.62,
        color=colour,
        alpha=0.35 if divided else 0.9,
        linewidth=0 if divided else 0.7,
        **edge,
    )
    if span.get("status") == "error":
        ax.barh(
            y,
            long_ms,
            left=start_ms,
            height=0.62,
            fill=False,
            edgecolor="black",
            hatch="////",
            linewidth=0.8,
        )
    if divided:
        start_ms += _before_queue_s(span) * 1e3
        for phase, attribute in _INSIDE:
            width_ms = float(span[attribute]) * 1e3
            ax.barh(
                y, width_ms, left=start_ms, height=0.62, color=PHASE_COLOURS[phase], linewidth=0
            )
            start_ms += width_ms


def _before_queue_s(span: pd.Series) -> float:
    """Seconds from the start of vLLM's span to its queue, so that the first token stands at the TTFT."""
    until_first_token = span.get(Attr.VLLM_TTFT_S, float("nan"))
    before = until_first_token - span[Attr.VLLM_QUEUE_S] - span[Attr.VLLM_PREFILL_S]
    return (
        float(before) if before > 0 else 0.0
    )  # NaN, where the attribute is missing, is not above 0 either


def _note(ax: Axes, y: int, span: pd.Series, total_ms: float) -> None:
    end_ms = (span["offset_s"] + span["duration_s"]) * 1e3
    ax.text(
        end_ms + total_ms * 0.008,
        y,
        f"{span['duration_s'] * 1e3:,.1f}",
        va="center",
        fontsize=7,
        color="#444444",
    )


def _name_rows(ax: Axes, tree: pd.DataFrame) -> None:
    """Names left of the axis, flush left, so that the indentation shows what is inside what."""
    labels = [_label(span) for _, span in tree.iterrows()]
    ax.set_yticks(range(len(tree)), labels, fontsize=_LABEL_POINTS, family="monospace", ha="left")
    ax.tick_params(axis="y", length=0, pad=max(map(len, labels)) * _LABEL_POINTS * _CHARACTER_WIDTH)


def _label(span: pd.Series) -> str:
    text = "  " * int(span["depth"]) + str(span["name"])
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"


def _legend(ax: Axes, tree: pd.DataFrame) -> None:
    divided = (tree["name"] == Span.VLLM).any()
    services = [s for s in SERVICE_COLOURS if s in set(tree["service"].astype(str))]
    handles = [
        Patch(color=SERVICE_COLOURS[s], label=s)
        for s in services
        if not (divided and s == Service.VLLM)
    ]
    if divided:
        handles += [
            Patch(color=PHASE_COLOURS[p], label=f"vllm: {p.removesuffix('_s')}") for p, _ in _INSIDE
        ]
    if (tree.get("status") == "error").any():
        handles.append(Patch(fill=False, edgecolor="black", hatch="////", label="error"))
    ax.legend(handles=handles, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=8)
