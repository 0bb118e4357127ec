"""Who kept the engine busy: each instant of busy time is divided among those that it worked on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lab.errors import FrameError

PHASES = {"prefill": ("scheduled_at", "first_token_at"), "decode": ("first_token_at", "ended_at")}


def fair_shares(start: np.ndarray, end: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Each interval's share of the time that is covered at all: an instant at which k intervals run counts 1/k to each.

    So the shares sum up to the length of the intervals' union inside the window (all in seconds): nothing is paid for
    twice, and a request that ran alone pays alone. (Equal division of a joint cost, which for a cost that is the same
    for one as for many, a busy machine, is the Shapley value.) Intervals with a NaN, or that end before they start,
    have no share. Raises FrameError for a window that ends before it starts.
    """
    first, last = window
    if not last >= first:
        raise FrameError("the window ends before it starts", got=f"{first} to {last}")
    begin = np.clip(np.nan_to_num(np.asarray(start, float) - first), 0, last - first)
    until = np.clip(np.nan_to_num(np.asarray(end, float) - first), 0, last - first)
    real = (until > begin) & np.isfinite(start) & np.isfinite(end)
    at = np.unique(np.concatenate((begin[real], until[real])))
    shares = np.zeros(len(begin))
    if not len(at):
        return shares
    opened, closed = np.searchsorted(at, begin[real]), np.searchsorted(at, until[real])
    running = np.cumsum(
        np.bincount(opened, minlength=len(at)) - np.bincount(closed, minlength=len(at))
    )[:-1]
    each = np.divide(np.diff(at), running, out=np.zeros(len(at) - 1), where=running > 0)
    clock = np.concatenate(
        ([0.0], np.cumsum(each))
    )  # how much one interval gets that runs all the time
    shares[real] = clock[closed] - clock[opened]
    return shares


def with_shares(turns: pd.DataFrame, window: tuple[float, float]) -> pd.DataFrame:
    """A turn frame with `prefill_share_s` and `decode_share_s`: each phase's share of the engine's busy seconds.

    Prefill and decode of different requests overlap in one batch, so this is an allocation, not a measurement: a step
    that works on three requests is counted a third to each, though a long prompt may have taken most of it. The sum of
    both columns is the union of all phases, which is measured. `window` is (start, end) in seconds since the epoch.
    """
    spans = list(PHASES.values())
    start = np.concatenate([turns[a].to_numpy(float) for a, _ in spans])
    end = np.concatenate([turns[b].to_numpy(float) for _, b in spans])
    shares = fair_shares(start, end, window).reshape(len(spans), len(turns))
    return turns.assign(
        **{f"{name}_share_s": share for name, share in zip(PHASES, shares, strict=True)}
    )


def by_tokens(turns: pd.DataFrame) -> dict[str, float]:
    """The same busy seconds divided in another way: by computed tokens (fresh prompt against generated).

    A token costs a transformer's forward pass about the same arithmetic, 2 FLOPs a parameter, whether read or written
    (Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1); what takes the time is that generated
    ones come one step at a time. Where both divisions agree the machine is short of arithmetic; where decode costs far
    more by time than by tokens, larger batches would be nearly free. {prefill, decode} in seconds, NaN of no tokens.
    """
    busy_s = float(turns["prefill_share_s"].sum() + turns["decode_share_s"].sum())
    fresh = float((turns["prompt_tokens"] - turns["cached_tokens"]).sum())
    made = float(turns["completion_tokens"].sum())
    computed = fresh + made
    if not computed:
        return {"prefill": float("nan"), "decode": float("nan")}
    return {"prefill": busy_s * fresh / computed, "decode": busy_s * made / computed}
