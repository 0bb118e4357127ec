"""Colours with a meaning that stays the same in every figure, and the checks that no figure is drawn of nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from lab.errors import FrameError
from lab.schema import Service

STYLE = Path(__file__).with_name("lab.mplstyle")

SERVICE_COLOURS = {
    Service.CLIENT: "#999999",
    Service.LLAMA_STACK: "#0072B2",
    Service.VLLM: "#D55E00",
    Service.VLLM_EMBED: "#CC79A7",
    Service.VLLM_CANARY: "#E69F00",
    Service.TOOLS: "#009E73",
}
OTHER_SERVICE = "#56B4E9"

PHASE_COLOURS = {
    "lag_s": "#000000",
    "network_s": "#999999",
    "stack_s": "#0072B2",
    "tool_list_s": "#56B4E9",
    "model_http_s": "#CC79A7",
    "queue_s": "#F0E442",
    "prefill_s": "#E69F00",
    "decode_s": "#D55E00",
    "engine_other_s": "#8c510a",
    "tool_s": "#009E73",
    "unexplained_s": "#ffffff",
}


def figure(draw: Callable[..., Axes]) -> Callable[..., Axes]:
    """Make `draw(data, ..., ax=None)` use the lab's style, and make its own axes where none are given."""

    @wraps(draw)
    def styled(*args: Any, ax: Axes | None = None, **kwargs: Any) -> Axes:
        with plt.style.context(STYLE):
            if ax is None:
                _, ax = plt.subplots()
            return draw(*args, ax=ax, **kwargs)

    return styled


def need_rows(data: Any, what: str) -> None:
    """Raises FrameError where there is nothing to draw: an empty figure would look like a result."""
    if len(data) == 0:
        raise FrameError(
            f"there is nothing to draw: no {what}",
            fix="look at what the query or the run returned first",
        )
