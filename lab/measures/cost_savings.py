"""What the prefix cache spared, and what was paid for nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.measures.slopes import Slope, slope

MIN_CALLS = 8  # fewer give a slope without meaning
MAX_CALLS = (
    1_000  # the slope takes all pairs, and more calls would take longer without being much sharper
)
WORK = ("useful", "more calls than needed", "wrong answer", "failed request", "others")


@dataclass(frozen=True)
class Savings:
    """Prefill time that cached prompt tokens did not take.

    `tokens` is how many came from the cache; `line` the prefill seconds by fresh prompt tokens, from `line.x_low` to
    `line.x_high` of them, None where the calls do not tell. All seconds are NaN without a line.
    """

    tokens: int
    line: Slope | None

    @property
    def slope_s(self) -> float:
        """Seconds of one more fresh token."""
        return self.line.per_x if self.line else math.nan

    @property
    def seconds(self) -> float:
        """Seconds saved by all cached tokens."""
        return self.slope_s * self.tokens

    @property
    def low_s(self) -> float:
        """Lower end of the 95 % interval of `seconds`."""
        return self.line.low * self.tokens if self.line else math.nan

    @property
    def high_s(self) -> float:
        """Upper end of the 95 % interval of `seconds`."""
        return self.line.high * self.tokens if self.line else math.nan

    @property
    def known(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low_s > 0


def cache_savings(turns: pd.DataFrame) -> Savings:
    """Return the prefill seconds that cached prompt tokens saved: their number times the seconds of one more fresh token.

    The seconds of one more token are the robust slope of `prefill_s` on fresh prompt tokens (`lab.measures.slope`):
    single slow calls do not move it, and what every call costs however short it is does not count as saved.

    The slope holds for fresh parts as long as these calls had. Attention makes it steeper in longer prompts
    (`lab.measures.slopes_by_half`), so a probe with long prompts reports more per token than an agent's short ones.
    Raises FrameError for turns without their columns.
    """
    if missing := {"prefill_s", "prompt_tokens", "cached_tokens"} - set(turns):
        raise FrameError(
            f"the turns lack {', '.join(sorted(missing))}",
            fix="make them with lab.frames.turn_frame",
        )

    cached = int(turns["cached_tokens"].sum())
    measured = turns[turns["prefill_s"].notna()]
    fresh = (measured["prompt_tokens"] - measured["cached_tokens"]).to_numpy(float)
    if len(measured) < MIN_CALLS or np.ptp(fresh) == 0:
        return Savings(cached, None)

    sample = np.random.default_rng(0).permutation(len(measured))[:MAX_CALLS]
    line = slope(fresh[sample], measured["prefill_s"].to_numpy(float)[sample])
    return Savings(cached, line)


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
