"""The cost dashboard: what the tokens cost on our machines, and what they would cost by an API's price list."""

from __future__ import annotations

from lab.dashboards.model import Dashboard, Panel, Query, Row, Variable
from lab.dashboards.promql import VLLM, rate, ratio
from lab.dashboards.vllm import VARIABLES
from lab.schema import Metric as M

MACHINE_USD_PER_HOUR = Variable("usd_per_hour", "USD an hour for one replica's machine", "2.50")
API = (
    Variable("api_input_usd", "API: USD for a million input tokens", "0.15"),
    Variable("api_cached_usd", "API: USD for a million cached input tokens", "0.075"),
    Variable("api_output_usd", "API: USD for a million output tokens", "0.60"),
)
REPLICAS = f"count({M.RUNNING}{{{VLLM}}})"
ASSUMED = "Prices are the variables above; put your own there (data/prices has some with their sources)."


def usd_per_million_generated() -> str:
    """Machine cost a second by generated tokens a second, for a million."""
    return ratio(f"1e6 * $usd_per_hour / 3600 * {REPLICAS}", rate(M.GENERATION_TOKENS))


_API = (
    f"($api_input_usd * ({rate(M.PROMPT_TOKENS)} - {rate(M.CACHED_TOKENS)}) + "
    f"$api_cached_usd * {rate(M.CACHED_TOKENS)} + $api_output_usd * {rate(M.GENERATION_TOKENS)}) / 1e6"
)

MACHINE = Row(
    "Own machines",
    (
        Panel("USD an hour", f"Replicas by the price of a machine. Paid also when nothing runs. {ASSUMED}",
              (Query(f"$usd_per_hour * {REPLICAS}", "machines"),), unit="currencyUSD"),
        Panel("USD for a million generated tokens",
              f"All cost on generated tokens. Falls with load, rises without bound when idle. {ASSUMED}",
              (Query(usd_per_million_generated(), "generated"),), unit="currencyUSD"),
        Panel("USD for a million tokens of both kinds",
              "All cost on prompt and generated tokens alike, which flatters workloads of long prompts.",
              (Query(ratio(f"1e6 * $usd_per_hour / 3600 * {REPLICAS}",
                           f"({rate(M.PROMPT_TOKENS)} + {rate(M.GENERATION_TOKENS)})"), "all tokens"),),
              unit="currencyUSD"),
        Panel("USD for one model call", "Machine cost by finished calls. An agent's request makes several calls.",
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
              f"What this traffic would cost elsewhere, with cached tokens at their price. {ASSUMED}",
              (Query(f"3600 * {_API}", "price list"), Query(f"$usd_per_hour * {REPLICAS}", "own machines")),
              unit="currencyUSD"),
        Panel("Own machines by price list",
              "Below 1 the own machines are cheaper at this moment's load. Engineering time is in neither.",
              (Query(ratio(f"$usd_per_hour * {REPLICAS}", f"(3600 * {_API})"), "ratio"),)),
        Panel("Spared by the prefix cache",
              "Price-list USD an hour that cached tokens did not cost. On own machines the gain is time, not an "
              "invoice.",
              (Query(f"3600 * ($api_input_usd - $api_cached_usd) * {rate(M.CACHED_TOKENS)} / 1e6", "spared"),),
              unit="currencyUSD"),
        Panel("Tokens, all in all", "Over the whole time range; a restart of vLLM in it is allowed for.",
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
    (*VARIABLES, MACHINE_USD_PER_HOUR, *API),
)
