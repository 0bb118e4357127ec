"""Tokens by every source side by side, and what they cost: on price lists, and on a machine.

Of a machine that is paid by the hour: who kept it busy, what was saved and what was wasted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lab.errors import FrameError, require_columns
from lab.measures.capacity import poisson_interval
from lab.measures.latency import Slope, slope
from lab.prices import ApiPrice

IDLE = "idle"
PHASES = {"prefill": ("scheduled_at", "first_token_at"), "decode": ("first_token_at", "ended_at")}
MIN_CALLS = 8  # fewer give a slope without meaning
MAX_CALLS = 1_000  # the slope takes all pairs; more calls would take longer and be little sharper
WORK = (
    "useful",
    "more calls than needed",
    "wrong answer",
    "failed request",
    "not known",
    "others",
)
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens")
_SHARES = ("prefill_share_s", "decode_share_s")


def fair_shares(start: np.ndarray, end: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Return each interval's share of the time that is covered: of k at once, each counts 1/k.

    The shares sum up to the length of the intervals' union inside the window (all in seconds), so
    nothing is paid for twice, and a request that ran alone pays alone. (Equal division of a joint
    cost, which for a cost that is the same for one as for many, a busy machine, is the Shapley
    value.) Intervals with a NaN, or that end before they start, have no share. Raises FrameError
    for a window that ends before it starts.
    """
    first, last = window
    if not last >= first:
        raise FrameError("the window ends before it starts", got=f"{first} to {last}")

    edges = np.array([start, end], dtype=float)
    begin, until = np.clip(np.nan_to_num(edges - first), 0, last - first)
    real = (until > begin) & np.isfinite(edges).all(axis=0)
    instants, places = np.unique([begin[real], until[real]], return_inverse=True)
    opened, closed = places.reshape(2, -1)
    size = len(instants)
    change = np.bincount(opened, minlength=size) - np.bincount(closed, minlength=size)
    running = np.cumsum(change)[:-1]
    # How much an interval has received by each instant that runs all the time.
    each = np.diff(instants) / np.maximum(1, running)
    received = np.concatenate(([0.0], np.cumsum(each)))
    shares = np.zeros(len(begin))
    shares[real] = received[closed] - received[opened]
    return shares


def with_shares(turns: pd.DataFrame, window: tuple[float, float]) -> pd.DataFrame:
    """Return a turn frame with each phase's share of the engine's busy seconds.

    Adds `prefill_share_s` and `decode_share_s`. Prefill and decode of different requests overlap in
    one batch, so this is an allocation, not a measurement: a step that works on three requests is
    counted a third to each, though a long prompt may have taken most of it. The sum of both columns
    is the union of all phases, which is measured. `window` is (start, end) in seconds since the
    epoch.
    """
    start = np.concatenate([turns[begin].to_numpy(float) for begin, _ in PHASES.values()])
    end = np.concatenate([turns[until].to_numpy(float) for _, until in PHASES.values()])
    shares = fair_shares(start, end, window).reshape(len(PHASES), len(turns))
    return turns.assign(**dict(zip(_SHARES, shares, strict=True)))


def by_tokens(turns: pd.DataFrame) -> dict[str, float]:
    """Divide the same busy seconds by computed tokens: fresh prompt against generated.

    A token costs a transformer's forward pass about the same arithmetic, 2 FLOPs per parameter,
    whether read or written (Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section
    2.1); what takes the time is that generated ones come one step at a time. Where both divisions
    agree the machine is short of arithmetic; where decode costs far more by time than by tokens,
    larger batches would be nearly free. {prefill, decode} in seconds, NaN of no tokens.
    """
    busy_s = float(turns[list(_SHARES)].sum().sum())
    fresh = float((turns["prompt_tokens"] - turns["cached_tokens"]).sum())
    generated = float(turns["completion_tokens"].sum())
    per_token = busy_s / (fresh + generated) if fresh + generated else math.nan
    return {"prefill": fresh * per_token, "decode": generated * per_token}


def machine_bill(
    turns: pd.DataFrame, window: tuple[float, float], usd_per_hour: float
) -> pd.DataFrame:
    """Return where the hours went: rows prefill, decode and idle, which add up to the window.

    Columns: `seconds`, `share_ratio`, `usd` (seconds / 3600 * price), `tokens` (computed ones:
    fresh prompt tokens, generated tokens) and `usd_per_mtok` (NaN for idle). `turns` is
    `with_shares(turn_frame, window)`. Raises FrameError for turns without shares, and for more busy
    time than there is time.
    """
    _check(turns)
    wall_s = window[1] - window[0]
    prefill_s, decode_s = turns[list(_SHARES)].sum()
    idle_s = wall_s - prefill_s - decode_s
    if idle_s < -1e-6 * max(wall_s, 1.0):
        raise FrameError(
            "the engine was busy longer than the window is",
            got=f"{prefill_s + decode_s:.3f} s busy in {wall_s:.3f} s",
            fix="give both the same window",
        )

    prompt, cached, completion = turns[list(_TOKENS)].sum()
    table = pd.DataFrame(
        {
            "seconds": [prefill_s, decode_s, max(0.0, idle_s)],
            "tokens": [prompt - cached, completion, math.nan],
        },
        index=pd.Index(["prefill", "decode", IDLE], name="what"),
    )
    table.insert(1, "share_ratio", table["seconds"] / wall_s)
    table.insert(2, "usd", table["seconds"] / 3600 * usd_per_hour)
    table["usd_per_mtok"] = (table["usd"] / table["tokens"] * 1e6).where(table["tokens"] > 0)
    return table


def bill_by(
    turns: pd.DataFrame,
    by: Sequence[str],
    *,
    window: tuple[float, float],
    usd_per_hour: float,
    price: ApiPrice | None = None,
) -> pd.DataFrame:
    """Return every group's tokens and its part of the machine's price, the most expensive first.

    One row per group:

    - the columns of `by`, `requests` (traces), `turns`, `prompt_tokens`, `cached_tokens`,
      `completion_tokens`;
    - with a price list `api_usd`, what it would have charged;
    - `prefill_usd`, `decode_usd` and `idle_usd` (the idle time's price, divided as the busy time
      is), which over all rows add up to the price of the window, and `machine_usd`, their sum.

    Raises FrameError for turns without shares or without a column of `by`.
    """
    _check(turns, [*by, "trace_id"])
    idle_usd = machine_bill(turns, window, usd_per_hour).loc[IDLE, "usd"]
    table = turns[[*by, *_TOKENS]].copy()
    if price is not None:
        table["api_usd"] = price.cost_usd(
            turns["prompt_tokens"], turns["completion_tokens"], turns["cached_tokens"]
        )
    usd_per_s = usd_per_hour / 3600
    table["prefill_usd"] = turns["prefill_share_s"] * usd_per_s
    table["decode_usd"] = turns["decode_share_s"] * usd_per_s

    sums = table.groupby(list(by), observed=True).sum()
    groups = turns.groupby(list(by), observed=True)["trace_id"]
    sums.insert(0, "requests", groups.nunique())
    sums.insert(1, "turns", groups.size())
    busy_usd = sums["prefill_usd"] + sums["decode_usd"]
    total = busy_usd.sum()
    sums["idle_usd"] = busy_usd / total * idle_usd if total else 0.0
    sums["machine_usd"] = busy_usd + sums["idle_usd"]
    return sums.sort_values("machine_usd", ascending=False).reset_index()


def scaled(bill: pd.DataFrame, factor: float) -> pd.DataFrame:
    """Return the bill of `factor` times as many requests like these: every USD column times it.

    The sums of a minute's run are too small to be read. Tokens and counts stay what was measured,
    and the load stays, too: more requests on the same machine would be cheaper each.
    """
    usd = [name for name in bill if str(name).endswith("usd")]
    return bill.assign(**(bill[usd] * factor))


def usd_per_thousand(usd: float, requests: int) -> tuple[float, float, float]:
    """Return (value, low, high): the USD of 1,000 requests, if `requests` came for `usd`.

    The machine costs the same however many come, so the interval is that of their number: the exact
    95 % interval of a Poisson count (Garwood 1936). NaN without requests.
    """
    if requests < 1:
        return math.nan, math.nan, math.nan
    fewest, most = poisson_interval(requests)
    return 1000 * usd / requests, 1000 * usd / most, 1000 * usd / fewest


def reconcile_money(
    bill: pd.DataFrame, window: tuple[float, float], usd_per_hour: float
) -> pd.Series:
    """Compare `allocated_usd` (all rows of a machine's bill) with `paid_usd` (window by price)."""
    allocated = float(bill["usd"].sum())
    paid = (window[1] - window[0]) / 3600 * usd_per_hour
    return pd.Series(
        {"allocated_usd": allocated, "paid_usd": paid, "difference_usd": allocated - paid}
    )


@dataclass(frozen=True)
class Energy:
    """Joules of a window by the metric `source`.

    Without one `joules` is NaN and `why` says why; otherwise `why` says what the metric covers.
    """

    joules: float
    source: str
    why: str = ""

    @property
    def known(self) -> bool:
        """Whether there was a counter."""
        return not math.isnan(self.joules)

    def per_token_j(self, tokens: float) -> float:
        """Return joules per token, including the energy of idle time; NaN of no token."""
        return self.joules / tokens if tokens else math.nan

    def cost_usd(self, usd_per_kwh: float) -> float:
        """Return USD of this energy: 3.6 million joules are a kilowatt-hour."""
        return self.joules / 3.6e6 * usd_per_kwh

    def __str__(self) -> str:
        if not self.known:
            return f"no energy figure: {self.why}"
        covers = f": {self.why}" if self.why else ""
        return f"{self.joules:,.1f} J ({self.joules / 3.6e6:.3g} kWh) by {self.source}{covers}"


@dataclass(frozen=True)
class Savings:
    """Prefill time that cached prompt tokens did not take.

    `tokens` is how many came from the cache; `line` the prefill seconds by fresh prompt tokens,
    from `line.x_low` to `line.x_high` of them, None where the calls do not tell. `seconds` is their
    product, (`low_s`, `high_s`) its 95 % interval; all NaN without a line.
    """

    tokens: int
    line: Slope | None = None
    seconds: float = math.nan
    low_s: float = math.nan
    high_s: float = math.nan


def cache_savings(turns: pd.DataFrame, saved_ratio: float = 1.0) -> Savings:
    """Return the prefill seconds that cached prompt tokens saved.

    `saved_ratio` is the share of the tokens counted as cached that caching saved
    (`lab.cost.saved_ratio`): those that another engine computed and transferred saved nothing.

    That is their number times the seconds of one more fresh token, the robust slope of `prefill_s`
    on fresh prompt tokens (`lab.measures.slope`): single slow calls do not move it, and what every
    call costs however short it is does not count as saved.

    The slope holds for fresh parts as long as these calls had. Attention makes it steeper in longer
    prompts (`lab.measures.slopes_by_half`), so a probe with long prompts reports more per token
    than an agent's short ones. Raises FrameError for turns without their columns.
    """
    require_columns(
        turns,
        ("cached_tokens", "prefill_s", "prompt_tokens"),
        "the turns lack {}",
        fix="make them with lab.frames.turn_frame",
    )

    cached = round(turns["cached_tokens"].sum() * saved_ratio)
    measured = turns[turns["prefill_s"].notna()]
    fresh = (measured["prompt_tokens"] - measured["cached_tokens"]).to_numpy(float)
    if len(measured) < MIN_CALLS or np.ptp(fresh) == 0:
        return Savings(cached)

    sample = np.random.default_rng(0).permutation(len(measured))[:MAX_CALLS]
    line = slope(fresh[sample], measured["prefill_s"].to_numpy(float)[sample])
    return Savings(cached, line, line.per_x * cached, line.low * cached, line.high * cached)


def classify_work(turns: pd.DataFrame, requests: pd.DataFrame, needed: pd.Series) -> pd.Series:
    """Return what every call was good for, one of WORK.

    The first of these that applies:

    - 'others': not of this run;
    - 'failed request': the user got no answer;
    - 'not known': it was answered, but the answer has no verdict;
    - 'wrong answer': it does not state what it should;
    - 'more calls than needed': beyond the number that the scenario needs (the answer is right, but
      a tool was called again or needlessly);
    - 'useful'.

    `requests` has `request_id`, `status` and the verdict `answer_states`; `needed` is the number of
    calls that each request needs, by request_id. Calls of requests without a need count as needed.
    """
    row = pd.Index(requests["request_id"].astype(object)).get_indexer(
        turns["request_id"].astype(object)
    )
    mine = row >= 0
    failed = (requests["status"] != "ok").to_numpy(bool)
    unjudged = requests["answer_states"].isna().to_numpy(bool)
    wrong = requests["answer_states"].eq(False).fillna(False).to_numpy(bool)
    limit = needed.reindex(requests["request_id"]).to_numpy(float, na_value=np.inf)
    needless = turns["turn"].to_numpy(float) > limit[row]
    work = np.select(
        [~mine, failed[row], unjudged[row], wrong[row], needless],
        ["others", "failed request", "not known", "wrong answer", "more calls than needed"],
        "useful",
    )
    return pd.Series(pd.Categorical(work, categories=WORK), index=turns.index, name="work")


def is_repeat(requests: pd.DataFrame) -> pd.Series:
    """Return whether the same question came earlier in this run, word for word, from any user.

    An answer cache could have spared those, if the answer was still true and this user may see it.
    Only first questions of a session are compared: a follow-up depends on what came before it.
    """
    first = requests[requests["turn_index"] == 0].sort_values("scheduled_at")
    repeated = first["prompt"].duplicated(keep="first")
    return repeated.reindex(requests.index, fill_value=False).rename("is_repeat")


def _check(turns: pd.DataFrame, by: Sequence[str] = ()) -> None:
    """Raise FrameError for turns without shares, tokens or one of these columns."""
    require_columns(
        turns,
        (*_SHARES, *_TOKENS, *by),
        "the turns lack {}",
        fix="make the turns with lab.frames.turn_frame and lab.measures.with_shares",
    )


KINDS = ("prompt", "cached", "completion")


TRANSFER = ("external_kv_transfer",)  # label `source` of vLLM's prompt_tokens_by_source
TIERS = ("host", "disk")  # of prompt_tokens_cached_by_source: an own cache, not another engine


def token_totals(
    frame: pd.DataFrame, prometheus: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Return the totals of one run: rows prompt, cached, completion, and one column per source.

    The columns are `client`, `spans` and, where given, `prometheus`. `frame` is a request frame;
    `prometheus` the exact increases of vLLM's counters over the same run
    (`lab.frames.increase_exact`), by the same three names. The client's -1 (the API did not report
    it) counts as nothing and is counted in `attrs["client_silent"]`. A total that a source does not
    have is NaN. Raises FrameError for other kinds of tokens.
    """
    client = frame[[f"{kind}_tokens" for kind in KINDS]]
    spans = frame[[f"span_{kind}_tokens" for kind in KINDS]]
    table = pd.DataFrame(index=pd.Index(KINDS, name="tokens"))
    table["client"] = client.clip(lower=0).sum().to_numpy(float)
    table["spans"] = spans.sum().to_numpy(float)
    if prometheus is not None:
        if unknown := set(prometheus) - set(KINDS):
            raise FrameError(
                f"these are not kinds of tokens: {', '.join(sorted(unknown))}",
                fix=f"use {', '.join(KINDS)}",
            )
        table["prometheus"] = pd.Series(prometheus, dtype=float)
    table.attrs["client_silent"] = int((client < 0).sum().max())
    return table


def reconcile_totals(totals: pd.DataFrame, *, against: str = "client") -> pd.DataFrame:
    """Return the totals with every other source's difference to `against`, in tokens.

    Adds `<source>_less_<against>` per source, and `balanced`: every known difference is exactly 0.
    """
    others = totals.drop(columns=against)
    differences = others.sub(totals[against], axis=0).add_suffix(f"_less_{against}")
    return totals.join(differences).assign(balanced=(differences.fillna(0) == 0).all(axis=1))


def cache_tokens(
    cached: pd.Series, external: pd.Series, by_source: pd.Series, tiers: pd.Series
) -> pd.DataFrame:
    """Return per engine the prompt tokens that caching saved, and those that were transferred.

    - `cached`: what the engine counts as cached, transfers included;
    - `external`: hits of its connector to other engines or stores;
    - `by_source`: prompt tokens, with `source` as the last level of the index;
    - `tiers`: cached tokens by `source`: an engine's own host memory or disk is a cache, so it is
      not a transfer.

    In a prefill/decode pair the decoding engine has the whole prompt 'cached': the other engine
    computed it, so nothing was saved.
    """
    transferred = external.copy()
    if len(by_source):
        of_transfer = by_source[by_source.index.get_level_values("source").isin(TRANSFER)]
        exact = of_transfer.groupby(level=list(range(by_source.index.nlevels - 1))).sum()
        transferred = exact.combine_first(transferred) if len(transferred) else exact
    if len(tiers) and len(transferred):
        own = tiers[tiers.index.get_level_values("source").isin(TIERS)]
        own = own.groupby(level=list(range(tiers.index.nlevels - 1))).sum()
        transferred = (transferred - own.reindex(transferred.index).fillna(0.0)).clip(lower=0.0)
    if not len(transferred):
        return pd.DataFrame({"cached": cached, "transferred": np.nan}, index=cached.index)
    if not len(cached):
        return pd.DataFrame({"cached": np.nan, "transferred": transferred})
    moved = transferred.reindex(cached.index).fillna(0.0)
    saved = (cached - moved).clip(lower=0.0)
    return pd.DataFrame({"cached": saved, "transferred": transferred})


def cost_by(frame: pd.DataFrame, price: ApiPrice, *, by: Sequence[str] = ("kind",)) -> pd.DataFrame:
    """Return what the requests of each group would cost at an API with this price list.

    One row per group: the columns of `by`, `requests`, `failed_requests`, `prompt_tokens`,
    `cached_tokens`, `completion_tokens`, `usd`, `failed_usd` (the part of `usd` that went into
    requests that failed) and `usd_per_request`.

    Prompt and completion tokens are the client's; where it has none (-1) those of vLLM's spans,
    since a failed request has cost its tokens all the same. Cached tokens are the engine's, by the
    spans of its calls: Llama Stack 0.7 reports only those of a request's last call. A trace that
    has not arrived whole has too few, so the larger of both is used.
    """
    table = frame[[*by]].copy()
    table["requests"] = 1
    table["failed_requests"] = (frame["status"] != "ok").astype(int)
    for kind in KINDS:
        client = frame[f"{kind}_tokens"]
        spans = frame[f"span_{kind}_tokens"]
        known = np.fmax(client, spans) if kind == "cached" else client.where(client >= 0, spans)
        table[f"{kind}_tokens"] = known.clip(lower=0)

    table["usd"] = price.cost_usd(
        table["prompt_tokens"], table["completion_tokens"], table["cached_tokens"]
    )
    table["failed_usd"] = table["usd"] * table["failed_requests"]
    result = table.groupby(list(by), observed=True).sum().reset_index()
    result["usd_per_request"] = result["usd"] / result["requests"]
    return result


def machine_usd_per_mtok(usd_per_hour: float, wall_s: float, tokens: float) -> float:
    """Return USD per million tokens on a machine that is paid by the hour: price * time / tokens.

    NaN where there are no tokens. It is the price at the load that was measured: half the load
    doubles it, since an idle machine costs the same.
    """
    return usd_per_hour * (wall_s / 3600) / (tokens / 1e6) if tokens > 0 else float("nan")
