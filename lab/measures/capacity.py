"""What the system carried: goodput under an SLO, concurrency, and Little's law as a check of the measurements."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lab.errors import FrameError
from lab.measures.quality import wilson


@dataclass(frozen=True)
class Slo:
    """What a request must keep to be a good one: time to first token, mean time between its tokens, and the whole.
    inf: no bound."""

    ttft_s: float = math.inf
    e2e_s: float = math.inf
    itl_s: float = math.inf

    def kept(self, frame: pd.DataFrame) -> np.ndarray:
        """One bool a request: answered, and within every bound.

        A bound on the first token is not kept by a request that has none; one between tokens is kept by a request of a
        single token, which has nothing between. `itl_s` is held against the request's mean: (last token - first token)
        / (tokens - 1).
        """
        good = (frame["status"] == "ok").to_numpy(bool) & (frame["e2e_s"] <= self.e2e_s).to_numpy(
            bool
        )
        if math.isfinite(self.ttft_s):
            good &= (frame["ttft_s"] <= self.ttft_s).to_numpy(bool)
        if math.isfinite(self.itl_s):
            more = (frame["completion_tokens"] - 1).clip(lower=1)
            itl = (frame["last_token_at"] - frame["first_token_at"]) / more
            good &= ((itl <= self.itl_s) | (frame["completion_tokens"] == 1)).to_numpy(bool)
        return good


@dataclass(frozen=True)
class Goodput:
    """Good requests a second, and their share of all that were due, with its Wilson interval."""

    good_per_s: float
    throughput_per_s: float
    good_ratio: float
    low_ratio: float
    high_ratio: float
    n: int


def goodput(frame: pd.DataFrame, slo: Slo, window_s: float) -> Goodput:
    """Requests that were answered within the SLO, a second of the window. Failed ones are never good; a bound on the
    first token is not kept by a request that has none. (Goodput as in DistServe, OSDI 2024.)

    `frame` has the client's columns; its latencies count from the scheduled time, so a request that waited in the
    driver's queue because the server was slow is late. Raises FrameError unless the window is positive.
    """
    if not window_s > 0:
        raise FrameError("the window must be longer than nothing", got=f"{window_s} s")
    ok, good = (frame["status"] == "ok").to_numpy(bool), slo.kept(frame)
    share, low, high = wilson(int(good.sum()), len(frame))
    return Goodput(good.sum() / window_s, ok.sum() / window_s, share, low, high, len(frame))


def concurrency(start: np.ndarray, end: np.ndarray) -> pd.DataFrame:
    """How many requests were under way, as a step function: columns `at` (seconds) and `running` (from `at` on).

    NaN (never sent) is left out.
    """
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    real = ~(np.isnan(start) | np.isnan(end))
    at = np.concatenate((start[real], end[real]))
    step = np.concatenate((np.ones(real.sum(), dtype=int), -np.ones(real.sum(), dtype=int)))
    table = pd.DataFrame({"at": at, "step": step}).groupby("at", as_index=False)["step"].sum()
    return pd.DataFrame({"at": table["at"], "running": table["step"].cumsum()})
