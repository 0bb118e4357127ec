"""The cost dashboard: what the tokens cost on our machines, and what they would cost by an API's price list."""

from __future__ import annotations

from collections.abc import Callable

from lab.dashboards.model import Dashboard, Panel, Query, Row, Variable
from lab.dashboards.promql import VLLM, rate, ratio
from lab.dashboards.vllm import VARIABLES
from lab.prices import ApiPrice, api_prices, machine_prices
from lab.schema import Metric as M
from lab.settings import REPO

_DATA = REPO / "data"
MACHINES, APIS = machine_prices(_DATA), api_prices(_DATA)
MACHINE_USD_PER_HOUR = Variable(
    "usd_per_hour",
    "Machine of one replica",
    f"{MACHINES['aws-m7g-large'].usd_per_hour:g}",
    options=tuple(
        (f"{m.name}, {m.usd_per_hour:g} USD/h, {m.read_on}", f"{m.usd_per_hour:g}")
        for m in MACHINES.values()
    ),
)
REPLICAS = f"count({M.RUNNING}{{{VLLM}}})"
ASSUMED = "The price of a machine is the variable above, from data/prices; type your own if it is another."
LISTED = "List prices of data/prices, each with its day and source there; yours may be negotiated."


def usd_per_million_generated() -> str:
    """Machine cost a second by generated tokens a second, for a million."""
    return ratio(f"1e6 * $usd_per_hour / 3600 * {REPLICAS}", rate(M.GENERATION_TOKENS))


def by_api(expr: Callable[[str, ApiPrice], str]) -> tuple[Query, ...]:
    """One query for each API of the price list, of what its tokens would cost there (USD a second)."""
    return tuple(Query(expr(_usd_per_s(price), price), name) for name, price in APIS.items())


def _usd_per_s(price: ApiPrice) -> str:
    fresh = f"({rate(M.PROMPT_TOKENS)} - {rate(M.CACHED_TOKENS)})"
    return (
        f"({price.input_usd_per_mtok:g} * {fresh} + {_cached(price):g} * {rate(M.CACHED_TOKENS)} + "
        f"{price.output_usd_per_mtok:g} * {rate(M.GENERATION_TOKENS)}) / 1e6"
    )


def _cached(price: ApiPrice) -> float:
    listed = price.cached_input_usd_per_mtok
    return price.input_usd_per_mtok if listed is None else listed


MACHINE = Row(
    "Own machines",
    (
        Panel("USD an hour", f"Replicas by the price of a machine. Paid also when nothing runs. {ASSUMED}",
              (Query(f"$usd_per_hour * {REPLICAS}", "machines"),), unit="currencyUSD"),
        Panel("USD for a million generated tokens",
              f"All cost on generated tokens. Falls with load, rises without bound when idle. {ASSUMED}",
              (Query(usd_per_million_generated(), "generated"),), unit="currencyUSD"),
        Panel("USD for a million tokens of both kinds",
              "All cost on prompt and generated tokens alike, which flatters workloads of long prompts. Cached prompt "
              "tokens count in full.",
              (Query(ratio(f"1e6 * $usd_per_hour / 3600 * {REPLICAS}",
                           f"({rate(M.PROMPT_TOKENS)} + {rate(M.GENERATION_TOKENS)})"), "all tokens"),),
              unit="currencyUSD"),
        Panel("USD for one model call", "Machine cost by finished calls. An agent's request makes several calls. "
                                        "Calls that were aborted are paid for and counted.",
              (Query(ratio(f"$usd_per_hour / 3600 * {REPLICAS}", rate(M.REQUESTS)), "a call"),), unit="currencyUSD"),
        Panel("Paid for idle time",
              "Share of time in which a replica had nothing to run, sampled at scrapes: its cost bought nothing.",
              (Query(f"1 - avg(avg_over_time(({M.RUNNING}{{{VLLM}}} > bool 0)[$__rate_interval:]))", "idle"),),
              unit="percentunit"),
    ),
)  # fmt: skip

BY_API = Row(
    "The same tokens by an API's price list",
    (
        Panel("USD an hour, by the price list",
              f"What this traffic would cost elsewhere, with cached tokens at their price. {LISTED} {ASSUMED}",
              (*by_api(lambda usd, _: f"3600 * {usd}"), Query(f"$usd_per_hour * {REPLICAS}", "own machines")),
              unit="currencyUSD"),
        Panel("Own machines by price list",
              "Below 1 the own machines are cheaper at this moment's load. Engineering time is in neither. Another "
              f"model answers there, with other tokens for the same text. {LISTED}",
              by_api(lambda usd, _: ratio(f"$usd_per_hour * {REPLICAS}", f"(3600 * {usd})"))),
        Panel("Spared by the prefix cache",
              "Price-list USD an hour that cached tokens did not cost. On own machines the gain is time, not an "
              "invoice.",
              by_api(lambda _, p: f"{3600 * (p.input_usd_per_mtok - _cached(p)) / 1e6:g} * {rate(M.CACHED_TOKENS)}"),
              unit="currencyUSD"),
        Panel("Tokens, all in all", "Over the whole time range; a restart of vLLM in it is allowed for. Extrapolated "
                                    "to the ends of the range.",
              (Query(f"sum(increase({M.PROMPT_TOKENS}{{{VLLM}}}[$__range]))", "prompt"),
               Query(f"sum(increase({M.GENERATION_TOKENS}{{{VLLM}}}[$__range]))", "generated")), kind="stat"),
    ),
)  # fmt: skip

ENERGY = Row(
    "Energy",
    (
        Panel("Joules for a generated token",
              "GPU power by tokens. Without processor, memory and cooling; GPUs of others on the node are in it.",
              (Query(ratio("sum(DCGM_FI_DEV_POWER_USAGE)", rate(M.GENERATION_TOKENS)), "J/token"),), needs="gpu"),
    ),
)  # fmt: skip

DASHBOARD = Dashboard(
    "cost",
    "Cost",
    "What tokens cost: own machines, an API's price list, energy.",
    (MACHINE, BY_API, ENERGY),
    (*VARIABLES, MACHINE_USD_PER_HOUR),
)
