"""How long a Job waits after failures before it makes another pod."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

FIRST, MOST = 10.0, 600.0  # seconds; kube-controller-manager's


class Backoff(msgspec.Struct, frozen=True):
    """Failures since the last success, and when the last of them was."""

    failures: int = 0
    last: datetime | None = None

    def after(self, succeeded: Iterable[datetime], failed: Iterable[datetime]) -> Backoff:
        """With pods that have ended at these times."""
        success = max(succeeded, default=None)
        times = list(failed)
        if success is None:
            return Backoff(self.failures + len(times), max([*times, *([self.last] if self.last else [])], default=None))
        since = [each for each in times if each > success]
        return Backoff(len(since), max(since, default=None))

    def remaining(self, now: datetime) -> float:
        """Seconds until the next pod may be made, 0 if it may be now."""
        if not self.failures or self.last is None:
            return 0.0
        return max(0.0, delay(self.failures) - (now - self.last).total_seconds())


def delay(failures: int) -> float:
    """Seconds from the last of so many failures to the next try: 10, 20, 40, ... 600."""
    return min(FIRST * 2 ** min(failures - 1, 16), MOST) if failures else 0.0
