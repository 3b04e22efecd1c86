"""Compaction by itself: history older than a time, or than a number of revisions, is dropped. As etcd does it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Literal

import msgspec
import structlog

from kvstore.errors import Compacted, KvError
from kvstore.node import Node

HOUR = 3600.0
SAMPLES_AN_INTERVAL = 10
"""Periodic mode notes the revision this many times an interval, and tries a failed compaction again as often."""

REVISION_MODE_INTERVAL = 300.0
"""Seconds between two looks of revision mode."""

log = structlog.get_logger("kvstore")


class AutoCompaction(msgspec.Struct, frozen=True):
    """What to keep. `retention` is seconds of history in mode "periodic", a number of revisions in mode "revision"."""

    mode: Literal["periodic", "revision"]
    retention: float

    async def run(self, node: Node) -> None:
        """Compact whenever it is due, until cancelled. A compaction that fails is logged and tried again."""
        if self.mode == "periodic":
            await _periodic(node, self.retention)
        else:
            await _by_revisions(node, int(self.retention))


async def _periodic(node: Node, period: float) -> None:
    # The first compaction comes after one period, later ones after each interval: an hour, or a shorter period.
    interval = min(period, HOUR)
    pause = interval / SAMPLES_AN_INTERVAL
    clock = asyncio.get_running_loop().time
    revisions: deque[int] = deque(maxlen=round(period / pause) + 1)
    due = clock() + period
    compacted = 0
    while True:
        revisions.append(node.revision)
        await asyncio.sleep(pause)
        oldest = revisions[0]
        if clock() < due or oldest == compacted:
            continue
        if await _compact(node, oldest):
            compacted = oldest
            due = clock() + interval


async def _by_revisions(node: Node, kept: int) -> None:
    compacted = 0
    while True:
        await asyncio.sleep(REVISION_MODE_INTERVAL)
        oldest = node.revision - kept
        if oldest > max(compacted, 0) and await _compact(node, oldest):
            compacted = oldest


async def _compact(node: Node, revision: int) -> bool:
    try:
        await node.compact(revision)
    except Compacted:
        return True  # somebody else did
    except KvError as error:
        log.warning("auto_compaction_failed", revision=revision, error=str(error))
        return False
    log.info("auto_compaction", revision=revision)
    return True
