"""Unions of time intervals, for all groups at once."""

from __future__ import annotations

import numpy as np


def union_length(group: np.ndarray, start: np.ndarray, end: np.ndarray, groups: int) -> np.ndarray:
    """Length of the union of the intervals of each group: what was covered at least once counts once.

    `group` holds indices 0..groups-1, `start` and `end` int64 (one unit, any origin); intervals that end before they
    start are empty. The result has one float64 a group.
    """
    if not len(group):
        return np.zeros(groups)
    order = np.lexsort((start, group))
    group, start, end = group[order], start[order], np.maximum(start, end)[order]
    first = np.flatnonzero(np.concatenate(([True], group[1:] != group[:-1])))
    sizes = np.diff(np.concatenate((first, [len(group)])))
    origin = np.repeat(start[first], sizes)
    start, end = start - origin, end - origin
    # Groups are laid out one after another on one axis, so that a single running maximum serves them all.
    reach = np.maximum.reduceat(end, first)
    shift = np.repeat(np.concatenate(([0], np.cumsum(reach)[:-1])), sizes)
    start, end = start + shift, end + shift
    covered = np.concatenate(([0], np.maximum.accumulate(end)[:-1]))
    fresh = np.maximum(0, end - np.maximum(start, covered))
    return np.bincount(group, weights=fresh, minlength=groups)
