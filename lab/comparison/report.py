"""A comparison as text, Markdown (a job summary, a comment on a pull request) and JUnit XML."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pandas as pd

from lab.comparison.comparing import EQUAL, SHARES, UNCLEAR, WORSE, Comparison, Phase

NAMES = {
    "e2e_s": "E2E",
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "cached_ratio": "cached share of the prompt",
    "cost_usd": "cost",
    "failed": "failures",
    "right": "right answers",
}
HEADINGS = ("measure", "a", "b", "difference", "of it mix", "system", "interval", "verdict")


def name_of(measure: str) -> str:
    """Return a measure's name for people."""
    return NAMES.get(measure, measure.removesuffix("_s").replace("_", " "))


def value_text(measure: str, value: float, *, signed: bool = False) -> str:
    """Return a measure's value with its unit."""
    if math.isnan(value):
        return "-"
    value = round(value, 12)  # a sum of parts that is zero but for rounding
    sign = "+" if signed else ""
    if measure.endswith("_s"):
        return f"{value * 1e3:{sign},.4g} ms" if abs(value) < 1 else f"{value:{sign},.3f} s"
    if measure.endswith("_usd"):
        return f"{value * 1e6:{sign},.4g} µUSD"
    if measure.endswith("_ratio") or measure in SHARES:
        return f"{value * 100:{sign}.3g} %"
    return f"{value:{sign},.4g}"


def headline(result: Comparison) -> str:
    """Return one sentence that answers whether b is worse than a."""
    worse = [name_of(measure) for measure in result.measures(WORSE)]
    texts = {
        WORSE: f"b is worse: {', '.join(worse)}",
        EQUAL: f"b equals a within {result.margin:.0%} of E2E, and no measure is worse",
        UNCLEAR: "cannot tell whether b equals a",
    }
    text = texts.get(result.verdict, "b is better, and in no measure worse")
    return f"{text}{_phase_text(result.phase)}."


def as_text(result: Comparison) -> str:
    """Return the comparison for a terminal."""
    table = pd.DataFrame(_cells(result), columns=list(HEADINGS)).set_index("measure")
    lines = [headline(result), "", table.rename_axis(None).to_string(), "", *_footnotes(result)]
    return "\n".join(lines)


def as_markdown(result: Comparison) -> str:
    """Return the comparison as Markdown."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *_cells(result)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    notes = "\n".join(f"- {line}" for line in _footnotes(result))
    return f"## {headline(result)}\n\n{table}\n\n{notes}\n"


def as_junit(result: Comparison) -> str:
    """Return the comparison as JUnit XML: one test per measure.

    A worse measure is a failure, and one that cannot be told is skipped.
    """
    table = result.table
    counts = table["verdict"].value_counts()
    suite = ElementTree.Element(
        "testsuite",
        name="lab compare",
        tests=str(len(table)),
        failures=str(counts.get(WORSE, 0)),
        skipped=str(counts.get(UNCLEAR, 0)),
    )
    for cells, measure, verdict in zip(_cells(result), table.index, table["verdict"], strict=True):
        case = ElementTree.SubElement(suite, "testcase", classname="lab.compare", name=measure)
        message = "; ".join(f"{h} {c}" for h, c in zip(HEADINGS[1:], cells[1:], strict=True))
        if verdict in (WORSE, UNCLEAR):
            tag = "failure" if verdict == WORSE else "skipped"
            ElementTree.SubElement(case, tag, message=message)
    ElementTree.SubElement(suite, "system-out").text = as_text(result)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def _cells(result: Comparison) -> list[list[str]]:
    """Return one list of texts per measure."""
    rows = []
    for row in result.table.itertuples():
        measure = str(row.Index)
        verdict = row.verdict
        if not math.isnan(row.n_more):
            verdict += f"; {row.n_more:,.0f} more requests of each would be enough"
        low = value_text(measure, row.low, signed=True)
        high = value_text(measure, row.high, signed=True)
        rows.append(
            [
                name_of(measure),
                value_text(measure, row.a),
                value_text(measure, row.b),
                value_text(measure, row.difference, signed=True),
                value_text(measure, row.mix, signed=True),
                value_text(measure, row.system, signed=True),
                f"{low} to {high}",
                verdict,
            ]
        )
    return rows


def _phase_text(phase: Phase | None) -> str:
    if phase is None:
        return ""
    name = name_of(phase.name)
    seconds = value_text(phase.name, phase.seconds, signed=True)
    return f"; the phase responsible is {name} ({seconds} per request)"


def _footnotes(result: Comparison) -> list[str]:
    n_a, n_b = len(result.a), len(result.b)
    lines = [
        f"a: {result.a.label}, {n_a} requests; b: {result.b.label}, {n_b} requests",
        f"means, in blocks of {result.block_length} requests ({result.blocks[0]} and "
        f"{result.blocks[1]}); intervals hold for all measures at once at {result.confidence:.0%}; "
        f"equal within {result.margin:.0%}; cost at the list price of {result.price}",
    ]
    if result.phase is None and len(result.candidates) > 1:
        names = " or ".join(name_of(phase) for phase in result.candidates)
        lines.append(f"the phase responsible is {names}: the data does not decide which")
    e2e = result.mix.loc["e2e_s"].dropna() if "e2e_s" in result.mix.index else pd.Series()
    if len(e2e):
        parts = [f"{group} {value_text('e2e_s', e2e[group], signed=True)}" for group in e2e.index]
        lines.append(f"mix in E2E: {', '.join(parts)}")
    return [*lines, *result.notes]
