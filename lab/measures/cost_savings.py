"""What the prefix cache spared, and what was paid for nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.measures.slopes import slope

FEWEST = 8  # calls; fewer give a slope without meaning
ENOUGH = 1_000  # calls; the slope looks at all pairs, and more would take longer without being much sharper
WORK = ("useful", "more calls than needed", "wrong answer", "failed request", "others")


@dataclass(frozen=True)
class Savings:
    """What cached tokens would have cost to compute.

    `tokens` is how many came from the cache, `slope_s` the seconds of one more fresh token, `seconds` their product and
    `low_s` to `high_s` its 95 % interval; all NaN where the slope cannot be told from the data.
    """

    tokens: int
    slope_s: float
    seconds: float
    low_s: float
    high_s: float

    @property
    def known(self) -> bool:
        """Whether the interval leaves no doubt that anything was spared."""
        return bool(self.low_s > 0)


def cache_savings(turns: pd.DataFrame) -> Savings:
    """Prefill seconds that cached prompt tokens did not take: their number by the seconds of one more fresh token.

    The seconds of one more are the robust slope of `prefill_s` on fresh prompt tokens (`lab.measures.slopes`): single
    slow calls do not move it, and what every call costs however short it is does not count as saved. The slope is taken
    where calls were seen, at short fresh parts; attention makes it steeper for long ones, so this says rather too
    little. Raises FrameError for turns without their columns.
    """
    if missing := {"prefill_s", "prompt_tokens", "cached_tokens"} - set(turns):
        raise FrameError(
            f"the turns lack {', '.join(sorted(missing))}",
            fix="make them with lab.frames.turn_frame",
        )
    cached = int(turns["cached_tokens"].sum())
    known = turns[turns["prefill_s"].notna()]
    fresh = (known["prompt_tokens"] - known["cached_tokens"]).to_numpy(float)
    if len(known) < FEWEST or np.ptp(fresh) == 0:
        nothing = float("nan")
        return Savings(cached, nothing, nothing, nothing, nothing)
    some = np.random.default_rng(0).permutation(len(known))[:ENOUGH]
    line = slope(fresh[some], known["prefill_s"].to_numpy(float)[some])
    return Savings(cached, line.per_x, line.per_x * cached, line.low * cached, line.high * cached)


def classify_work(turns: pd.DataFrame, requests: pd.DataFrame, needed: pd.Series) -> pd.Series:
    """What every call was good for, one of WORK; the first that applies, from the right end.

    'failed request': the user got no answer; 'wrong answer': it does not state what it should; 'more calls than
    needed': beyond the number that the scenario needs (the answer is right, but a tool was asked again or needlessly);
    'others': not of this run. `requests` has `request_id`, `status` and the verdict `answer_states`; `needed` is the
    number of calls that each request needs, by request_id. Requests without a verdict or a need count as useful.
    """
    row = pd.Index(requests["request_id"].astype(object)).get_indexer(
        turns["request_id"].astype(object)
    )
    mine = row >= 0
    failed = (requests["status"] != "ok").to_numpy(bool)
    wrong = requests["answer_states"].fillna(True).eq(False).to_numpy(bool)
    limit = needed.reindex(requests["request_id"]).to_numpy(float, na_value=np.inf)
    work = np.select(
        [~mine, mine & failed[row], mine & wrong[row], turns["turn"].to_numpy(float) > limit[row]],
        ["others", "failed request", "wrong answer", "more calls than needed"],
        "useful",
    )
    return pd.Series(pd.Categorical(work, categories=WORK), index=turns.index, name="work")


def is_repeat(requests: pd.DataFrame) -> pd.Series:
    """Whether the same question, word for word, was asked earlier in this run, by anybody: a boolean a request.

    An answer cache could have spared those, if the answer was still true and theirs to see. Only first questions of a
    session are compared: a follow-up depends on what was said before it.
    """
    first = requests[requests["turn_index"] == 0].sort_values("scheduled_at")
    again = first["prompt"].duplicated(keep="first")
    return again.reindex(requests.index, fill_value=False).rename("is_repeat")
