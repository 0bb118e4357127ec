"""An investigation for people: three sentences, tables, figures, and queries by role."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.figures import signal_change
from lab.investigation.causes import NOTHING, UNKNOWN, Cause, Reason
from lab.investigation.investigating import Investigation
from lab.investigation.signals import Observed
from lab.stores.timestamps import utc

ROLES = {
    "developer": "For the developer of the agent and its tools",
    "sre": "For whoever runs the servers",
    "payer": "For whoever pays",
}
SHOWN_CAUSES = 3
SHOWN_REASONS = 4
DRAWN = 4
PROBABLE = 0.9  # of the belief: below it, the second cause is named, too


def headline(result: Investigation) -> str:
    """Return three sentences: what changed and since when, why, and what to do next."""
    if result.cause == NOTHING:
        return _nothing_certain(result)
    first = result.changed[0]
    others = sum(abs(each.state) == 1 for each in result.changed) - 1
    what = f"{title_of(first)} changed {change_text(first)}"
    more = f", and so did {others} other signals" if others > 0 else ""
    sentences = [f"Since {onset_text(result)}, {what}{more}."]
    if result.cause == UNKNOWN:
        sentences.append("No cause that this lab knows explains it.")
        sentences.append("Look at the signals below, the most certain first.")
        return " ".join(sentences)
    cause = result.causes[0]
    also = ""
    if cause.share < PROBABLE:
        also = f", or {result.causes[1].kind.title}"
    where = f" ({cause.where})" if cause.where else ""
    sentences.append(f"The likely cause: {cause.kind.title}{where}{also}.")
    sentences.append(f"What decides: {cause.kind.decide}; what helps: {cause.kind.fix}.")
    return " ".join(sentences)


def _nothing_certain(result: Investigation) -> str:
    """Return three sentences where nothing changed, or where too few values were there to tell."""
    start, end = map(utc, result.window)
    times = (
        f"from {start} to {end}, compared with the time from "
        f"{utc(result.baseline[0])} to {utc(result.baseline[1])}"
    )
    compared = (
        f"{len(result.observed)} signals were compared, and none differs by more than chance "
        "and by enough to matter."
    )
    if not result.undecided:
        return f"Nothing changed {times}. {compared} {_limits(result)}"
    each = result.undecided[0]
    effect = each.effect
    values = f"from {_number(effect.before)} to {_number(effect.after)} {each.signal.unit}"
    return (
        f"It cannot be told whether something changed {times}: {title_of(each)} went {values}, but "
        f"on too few values ({effect.n_before} before, {effect.n_after} after). {compared} "
        "A longer window or more requests would decide."
    )


def _limits(result: Investigation) -> str:
    return f"Mind the limits: {result.notes[0]}." if result.notes else "No limit is known."


def onset_text(result: Investigation) -> str:
    """Return when the change began, with its interval."""
    onset = result.onset
    if onset is None:
        return f"some time between {utc(result.baseline[1])} and {utc(result.window[1])}"
    text = f"{utc(onset.at)} (from {utc(onset.low)} to {utc(onset.high)})"
    if onset.ended < result.window[1] - 1:
        text += f" until {utc(onset.ended)}"
    return text


def title_of(observed: Observed) -> str:
    """Return a signal's name for people, with the tool, tenant or job."""
    where = f" ({observed.where})" if observed.key else ""
    return f"{observed.signal.title}{where}"


def change_text(observed: Observed) -> str:
    """Return a change with its interval: from, to, and how much."""
    effect = observed.effect
    unit = observed.signal.unit
    values = f"from {_number(effect.before)} to {_number(effect.after)} {unit}".rstrip()
    if observed.signal.scale == "ratio":
        size = f"x {effect.size:.3g} [{effect.low:.3g}, {effect.high:.3g}]"
    else:
        size = f"{effect.size:+.3g} [{effect.low:+.3g}, {effect.high:+.3g}]"
    return f"{values} ({size})"


def _number(value: float) -> str:
    return f"{value:.3g}"


CHANGE_COLUMNS = (
    *("signal", "where", "before", "after", "unit", "size", "low", "high"),
    *("as", "certain", "p_value", "from"),
)


def changes_table(result: Investigation) -> pd.DataFrame:
    """Return one row per changed signal: where, before, after, size with interval, certainty."""
    rows = [
        {
            "signal": each.signal.title,
            "where": each.where,
            "before": each.effect.before,
            "after": each.effect.after,
            "unit": each.signal.unit,
            "size": each.effect.size,
            "low": each.effect.low,
            "high": each.effect.high,
            "as": "times" if each.signal.scale == "ratio" else "more",
            "certain": abs(each.state) == 1,
            "p_value": each.p_value,
            "from": each.source,
        }
        for each in result.changed
    ]
    return pd.DataFrame(rows, columns=CHANGE_COLUMNS)


def causes_table(result: Investigation) -> pd.DataFrame:
    """Return one row per cause: its place, belief, and evidence for and against it."""
    rows = [
        {
            "cause": cause.name,
            "where": cause.where,
            "belief": cause.share,
            "for": _reasons(cause.evidence(1)),
            "against": _reasons(cause.evidence(-1)),
        }
        for cause in result.causes
    ]
    return pd.DataFrame(rows, columns=["cause", "where", "belief", "for", "against"])


def _reasons(reasons: Iterable[Reason]) -> str:
    return "; ".join(reason_text(reason) for reason in list(reasons)[:SHOWN_REASONS]) or "nothing"


def reason_text(reason: Reason) -> str:
    """Return what was expected of a signal, and what was seen."""
    observed = reason.observed
    seen = {1: "up", -1: "down", 0.5: "perhaps up", -0.5: "perhaps down"}
    state = seen.get(observed.state, "unchanged")
    where = f" ({observed.where})" if observed.key and observed.state else ""
    return f"{observed.signal.title}{where}: {state} (expected: {reason.expected})"


def draw_changes(result: Investigation, ax: Axes | None = None) -> Axes:
    """Draw the signals that changed most clearly, with the window and the onset.

    Raises FrameError where nothing changed.
    """
    chosen = [each for each in result.changed if len(each.points)][:DRAWN]
    points = {title_of(each): each.points for each in chosen}
    onset = (result.onset.low, result.onset.high) if result.onset else None
    return signal_change(points, window=result.window, onset=onset, ax=ax)


def as_markdown(result: Investigation, figure: str = "") -> str:
    """Return the report as Markdown; `figure` is the address of the figure, if there is one."""
    start, end = map(utc, result.window)
    parts = [
        "# What changed",
        headline(result),
        f"Window {start} to {end}; "
        f"baseline {utc(result.baseline[0])} to {utc(result.baseline[1])}.",
    ]
    if figure:
        parts.append(f"![Signals over time]({figure})")
    if result.cause != NOTHING:
        parts += _changes(result)
        for number, cause in enumerate(result.causes[:SHOWN_CAUSES], 1):
            parts += _cause(number, cause)
        parts += _queries(result)
    if result.notes:
        parts += ["## What is not known", "\n".join(f"- {note}" for note in result.notes)]
    return "\n\n".join(parts) + "\n"


def _changes(result: Investigation) -> list[str]:
    lines = ["| signal | change | certain | from |", "|---|---|---|---|"]
    for each in result.changed:
        certain = "yes" if abs(each.state) == 1 else "likely"
        lines.append(f"| {title_of(each)} | {change_text(each)} | {certain} | {each.source} |")
    return ["## Signals", "\n".join(lines)]


def _cause(number: int, cause: Cause) -> list[str]:
    lines = [f"- for: {reason_text(reason)}" for reason in cause.evidence(1)[:SHOWN_REASONS]]
    lines += [f"- against: {reason_text(reason)}" for reason in cause.evidence(-1)[:SHOWN_REASONS]]
    if cause.unseen:
        lines.append(f"- not known here: {', '.join(cause.unseen)}")
    lines += [f"- what would decide: {cause.kind.decide}", f"- what helps: {cause.kind.fix}"]
    title = f"## Cause {number}: {cause.kind.title} ({cause.where}), belief {cause.share:.0%}"
    return [title, "\n".join(lines)]


def _queries(result: Investigation) -> list[str]:
    parts = ["## Queries to paste into Grafana (Explore)"]
    for role, title in ROLES.items():
        chosen = {each.signal.name: each.signal for each in result.changed}
        lines = []
        for signal in chosen.values():
            if signal.role != role:
                continue
            for store, query in (("Prometheus", signal.promql), ("Tempo", signal.traceql)):
                if query:
                    lines.append(f"{signal.title} ({store}):\n\n```\n{query}\n```")
        if lines:
            parts += [f"### {title}", "\n\n".join(lines)]
    return parts


def as_html(result: Investigation) -> str:
    """Return the report as one HTML page, with its figure."""
    from nbconvert.filters import markdown2html  # half a second, which few calls need

    figure = ""
    if result.cause != NOTHING and not all(math.isnan(each.state) for each in result.observed):
        canvas = Figure(figsize=(9, 4))
        draw_changes(result, ax=canvas.subplots())
        content = io.BytesIO()
        canvas.savefig(content, format="png", dpi=110, bbox_inches="tight")
        figure = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    # The report quotes names of tenants and tools, which anyone may choose.
    body = markdown2html(html.escape(as_markdown(result), quote=False))
    image = f'<p><img src="{figure}" alt="Signals over time"></p>' if figure else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>What changed</title>'
        "<style>body{font-family:sans-serif;max-width:60em;margin:2em auto;line-height:1.5}"
        "td,th{text-align:left;padding:.2em .8em .2em 0}pre{background:#f5f5f5;padding:.5em}"
        f"img{{max-width:100%}}</style>{image}{body}</html>\n"
    )
