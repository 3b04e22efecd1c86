"""Durations counted in buckets."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

import msgspec

BOUNDS = tuple(0.001 * 2**power for power in range(14))
"""Upper bounds of the buckets in seconds, 1 ms to 8.192 s: those of etcd's disk histograms."""


class Durations(msgspec.Struct, frozen=True):
    """How many durations fell into which bucket (the last has no upper bound), and their sum, in seconds."""

    counts: tuple[int, ...]
    sum: float
    bounds: tuple[float, ...] = BOUNDS

    @property
    def count(self) -> int:
        """How many in all."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, how many were no longer than it), as Prometheus has buckets."""
        bounds = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        return list(zip(bounds, accumulate(map(float, self.counts)), strict=True))


class Histogram:
    """Counts durations; `observe` is for one thread, `read` for any. bounds: upper ones of its buckets, in seconds."""

    def __init__(self, bounds: tuple[float, ...] = BOUNDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def read(self) -> Durations:
        """The counts now."""
        return Durations(tuple(self._counts), self._sum, self._bounds)
