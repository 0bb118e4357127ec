"""`lab fleet`: model servers side by side, from the metrics of a Prometheus alone."""

import json
from typing import Annotated, Any

import pandas as pd
import typer

from lab.command_line import Json, PrometheusUrl, as_main
from lab.fleet import QUANTILES, Fleet, look
from lab.measures import machine_usd_per_mtok
from lab.settings import load_settings
from lab.stores.timestamps import utc

UNKNOWN = "-"
MANY = 12  # engines: of more, latency is printed for all together and for outliers; --json has all
COLUMNS = {  # of Fleet.engines: heading, format
    "server": ("server", "{}"),
    "model": ("model", "{}"),
    "running_mean": ("running", "{:,.1f}"),
    "waiting_mean": ("waiting", "{:,.1f}"),
    "kv_mean": ("KV mean", "{:.0%}"),
    "kv_max": ("KV max", "{:.0%}"),
    "prompt_tokens": ("prompt tokens", "{:,.0f}"),
    "cached_tokens": ("cached", "{:,.0f}"),
    "transferred_tokens": ("transferred", "{:,.0f}"),
    "generation_tokens": ("generated", "{:,.0f}"),
    "hit_ratio": ("hit ratio", "{:.0%}"),
    "requests": ("finished", "{:,.0f}"),
    "preemptions": ("preempted", "{:,.0f}"),
}


def fleet(
    prometheus: PrometheusUrl = "",
    window: Annotated[
        str, typer.Option(help="START/END in ISO 8601 with a time zone, or 'last 15m'.")
    ] = "last 15m",
    job: Annotated[str, typer.Option(help="Only this scrape job.")] = "",
    usd_per_hour: Annotated[
        float | None, typer.Option(min=0.0, help="What all these machines cost, for USD per token.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show load, latency, tokens and cache of every model server, from metrics only.

    No traces are needed, and nothing is sent or started. Quantiles are given as the bucket in which
    they lie; what the engines do not report is listed with the reason.
    """
    given: dict[str, Any] = {"prometheus_url": prometheus} if prometheus else {}
    settings = load_settings(**given)
    shown = look(settings, window, job=job)
    if as_json:
        print(json.dumps(_as_json(shown), indent=1))
        return
    for section in _sections(shown, usd_per_hour):
        print(section, end="\n\n")


def _as_json(shown: Fleet) -> dict[str, object]:
    return {
        "window": shown.window,
        "engines": _records(shown.engines),
        "latency": _records(shown.latency),
        "finished": _records(shown.finished),
        "unknown": _records(shown.unknown),
        "remarks": [vars(remark) for remark in shown.remarks],
    }


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    return json.loads(table.to_json(orient="records"))


def _sections(shown: Fleet, usd_per_hour: float | None) -> list[str]:
    start, end = shown.window
    kinds = "\n".join(
        f"  {dialect}: {(shown.engines['stem'] == dialect.stem).sum()} engines"
        for dialect in shown.dialects
    )
    sections = [f"From {utc(start)} to {utc(end)} ({end - start:,.0f} s)\n{kinds}"]
    sections.append(f"Engines\n{_engines(shown)}")
    if len(shown.latency):
        sections.append(f"Latency in seconds; a quantile lies in its bucket\n{_latency(shown)}")
    if len(shown.finished):
        by_reason = shown.finished.groupby("finished_reason")["requests"].sum()
        texts = [f"{reason or 'any reason'} {n:,.0f}" for reason, n in by_reason.items()]
        sections.append(f"Finished requests\n  {', '.join(texts)}")
    if usd_per_hour is not None:
        sections.append(_cost(shown, usd_per_hour))
    if shown.remarks:
        lines = "\n".join(f"  ! {remark}" for remark in shown.remarks)
        sections.append(f"What these numbers do not say by themselves\n{lines}")
    if len(shown.unknown):
        sections.append(f"Not known\n{_unknown(shown)}")
    return sections


def _unknown(shown: Fleet) -> str:
    """Return a line per reason; the questions whose metric is simply absent share one."""
    lines = []
    for server, rows in shown.unknown.groupby("server", sort=False):
        absent = rows["why"].str.startswith(("no metric ", f"{server} exports no such"))
        for row in rows[~absent].itertuples():
            lines.append(f"  {server}: {row.question}: {row.why}")
        if absent.any():
            lines.append(f"  {server}: no metric of {', '.join(rows.loc[absent, 'question'])}")
    return "\n".join(lines)


def _engines(shown: Fleet) -> str:
    """Return the table of engines, without columns of which nothing is known."""
    table = shown.engines.set_index("engine")
    text = pd.DataFrame(index=table.index)
    for column, (heading, form) in COLUMNS.items():
        if table[column].notna().any() and table[column].astype(str).ne("").any():
            text[heading] = [_text(value, form) for value in table[column]]
    return _indented(text.rename_axis(None))


def _latency(shown: Fleet) -> str:
    table = shown.latency
    outliers = [remark.where for remark in shown.remarks if remark.kind == "outlier"]
    many = table.groupby(["server", "what"])["engine"].transform("size") > MANY
    table = table[~many | (table["engine"] == "all") | table["engine"].isin(outliers)]
    text = pd.DataFrame({"engine": table["engine"], "what": table["what"]})
    text["n"] = [_text(value, "{:,.0f}") for value in table["n"]]
    text["mean"] = [_text(value, "{:.4g}") for value in table["mean_s"]]
    for q in QUANTILES:
        name = f"p{q * 100:g}"
        bounds = zip(table[f"{name}_low_s"], table[f"{name}_high_s"], strict=True)
        text[name] = [UNKNOWN if pd.isna(low) else f"({low:g}, {high:g}]" for low, high in bounds]
    text["note"] = table["why_not"]
    return _indented(text.set_index("engine").rename_axis(None))


def _cost(shown: Fleet, usd_per_hour: float) -> str:
    """Return what a million tokens cost, by kind of server: kinds count the same tokens again."""
    start, end = shown.window
    lines = []
    for server, row in shown.totals().iterrows():
        tokens = row[["prompt_tokens", "generation_tokens"]].sum(min_count=2)
        if tokens > 0:
            price = machine_usd_per_mtok(usd_per_hour, end - start, tokens)
            lines.append(f"  {server}: {price:,.4g} USD per million tokens (prompt and generated)")
        else:
            lines.append(f"  {server}: not known, since its tokens are not")
    return f"Cost at {usd_per_hour:g} USD per hour for all machines\n" + "\n".join(lines)


def _text(value: object, form: str) -> str:
    return UNKNOWN if pd.isna(value) else form.format(value)


def _indented(table: pd.DataFrame) -> str:
    return "\n".join(f"  {line}" for line in table.to_string().splitlines())


main = as_main(fleet, "lab fleet")
