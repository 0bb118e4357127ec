"""The cost dashboard: what the tokens cost on the user's machines, and by an API's price list."""

from __future__ import annotations

from collections.abc import Callable

from lab.dashboards.model import Dashboard, Panel, Query, Row, Variable
from lab.dashboards.promql import VLLM, increase, rate, ratio
from lab.dashboards.vllm import VARIABLES
from lab.prices import ApiPrice, api_prices, machine_prices
from lab.schema import Metric as M
from lab.settings import REPO

_DATA = REPO / "data"
MACHINES = machine_prices(_DATA)
APIS = api_prices(_DATA)
MACHINE_USD_PER_HOUR = Variable(
    "usd_per_hour",
    "Machine of one instance",
    f"{MACHINES['aws-m7g-large'].usd_per_hour:g}",
    options=tuple(
        (f"{m.name}, {m.usd_per_hour:g} USD/h, {m.read_on}", f"{m.usd_per_hour:g}")
        for m in MACHINES.values()
    ),
)
INSTANCES = f"count(count by (job,instance) ({M.RUNNING}{{{VLLM}}}))"
MACHINES_USD_PER_HOUR = f"$usd_per_hour * {INSTANCES}"
MACHINE_PRICE = (
    "The price of a machine is a variable of this dashboard, taken from data/prices; enter your "
    "own if it differs."
)
LIST_PRICES = (
    "List prices from data/prices, each with its date and source there; negotiated prices differ."
)


def usd_per_million_generated() -> str:
    """Return machine cost per second divided by generated tokens per second, times a million."""
    return ratio(f"1e6 / 3600 * {MACHINES_USD_PER_HOUR}", rate(M.GENERATION_TOKENS))


def by_api(expr: Callable[[str, ApiPrice], str]) -> tuple[Query, ...]:
    """Return one query per API of the price list.

    `expr` receives what the tokens would cost there (USD per second) and the API's prices.
    """
    return tuple(Query(expr(_usd_per_s(price), price), name) for name, price in APIS.items())


def _usd_per_s(price: ApiPrice) -> str:
    uncached = f"({rate(M.PROMPT_TOKENS)} - {rate(M.CACHED_TOKENS)})"
    return (
        f"({price.input_usd_per_mtok:g} * {uncached} "
        f"+ {_cached_usd_per_mtok(price):g} * {rate(M.CACHED_TOKENS)} "
        f"+ {price.output_usd_per_mtok:g} * {rate(M.GENERATION_TOKENS)}) / 1e6"
    )


def _cached_usd_per_mtok(price: ApiPrice) -> float:
    if price.cached_input_usd_per_mtok is None:
        return price.input_usd_per_mtok
    return price.cached_input_usd_per_mtok


def _saved_by_cache(_usd_per_s: str, price: ApiPrice) -> str:
    discount = price.input_usd_per_mtok - _cached_usd_per_mtok(price)
    return f"{3600 * discount / 1e6:g} * {rate(M.CACHED_TOKENS)}"


MACHINE = Row(
    "Your machines",
    (
        Panel(
            "USD per hour",
            "Instances times the price of a machine, which is paid also while nothing runs. "
            f"{MACHINE_PRICE}",
            (Query(MACHINES_USD_PER_HOUR, "machines"),),
            unit="currencyUSD",
        ),
        Panel(
            "USD per million generated tokens",
            "Generated tokens carry the whole cost. Falls with load and grows without bound while "
            f"idle. {MACHINE_PRICE}",
            (Query(usd_per_million_generated(), "generated"),),
            unit="currencyUSD",
        ),
        Panel(
            "USD per million tokens of both kinds",
            "Prompt and generated tokens carry the cost alike, which flatters workloads with long "
            "prompts. Cached prompt tokens count in full.",
            (
                Query(
                    ratio(
                        f"1e6 / 3600 * {MACHINES_USD_PER_HOUR}",
                        f"({rate(M.PROMPT_TOKENS)} + {rate(M.GENERATION_TOKENS)})",
                    ),
                    "all tokens",
                ),
            ),
            unit="currencyUSD",
        ),
        Panel(
            "USD per model call",
            "Machine cost divided by finished calls. An agent's request makes several calls. "
            "Aborted calls are counted: they are paid for as well.",
            (Query(ratio(f"{MACHINES_USD_PER_HOUR} / 3600", rate(M.REQUESTS)), "per call"),),
            unit="currencyUSD",
        ),
        Panel(
            "Share of time idle",
            "Share of time in which an engine had nothing to run, sampled at scrapes. Its cost "
            "bought nothing.",
            (
                Query(
                    f"1 - avg(avg_over_time(({M.RUNNING}{{{VLLM}}} > bool 0)[$__rate_interval:]))",
                    "idle",
                ),
            ),
            unit="percentunit",
        ),
    ),
)

BY_API = Row(
    "The same tokens by an API's price list",
    (
        Panel(
            "USD per hour by price list",
            "What this traffic would cost elsewhere, with cached tokens at their own price. "
            f"{LIST_PRICES} {MACHINE_PRICE}",
            (
                *by_api(lambda usd_per_s, _: f"3600 * {usd_per_s}"),
                Query(MACHINES_USD_PER_HOUR, "own machines"),
            ),
            unit="currencyUSD",
        ),
        Panel(
            "Own machines relative to the price list",
            "Below 1 your machines are cheaper at the current load. Engineering time is not "
            "included, and another model would use other numbers of tokens for the same text. "
            f"{LIST_PRICES}",
            by_api(lambda usd_per_s, _: ratio(MACHINES_USD_PER_HOUR, f"(3600 * {usd_per_s})")),
        ),
        Panel(
            "USD per hour saved by the prefix cache",
            "List price that cached tokens did not cost. On your own machines the gain is time "
            "rather than money.",
            by_api(_saved_by_cache),
            unit="currencyUSD",
        ),
        Panel(
            "Total tokens",
            "Over the dashboard's time range; restarts of vLLM are taken into account. Prometheus "
            "extrapolates to the ends of the range.",
            (
                Query(increase(M.PROMPT_TOKENS), "prompt"),
                Query(increase(M.GENERATION_TOKENS), "generated"),
            ),
            kind="stat",
        ),
    ),
)

ENERGY = Row(
    "Energy",
    (
        Panel(
            "Energy per generated token",
            "GPU power divided by generated tokens per second, without processor, memory and "
            "cooling. GPUs on the same nodes that serve other workloads are included.",
            (
                Query(
                    ratio("sum(DCGM_FI_DEV_POWER_USAGE)", rate(M.GENERATION_TOKENS)),
                    "per token",
                ),
            ),
            unit="joule",
            needs="gpu",
        ),
    ),
)

DASHBOARD = Dashboard(
    "cost",
    "Cost",
    "What tokens cost: on your machines, by an API's price list, and in energy.",
    (MACHINE, BY_API, ENERGY),
    (*VARIABLES, MACHINE_USD_PER_HOUR),
)
