"""Named points at which a server kills itself with SIGKILL, as if the machine's power had gone there.

They wrap the two jobs that write to LMDB. The environment variable `LISTWATCH_TEST_FAILPOINT` holds `NAME:COUNT`: the
process dies the COUNT-th time it comes by.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kvstore.backend import Backend, Commit
from kvstore.store import FINISHED_COMPACTION, SCHEDULED_COMPACTION

VARIABLE = "LISTWATCH_TEST_FAILPOINT"
COMMIT_POINTS = (
    "before-commit",
    "in-commit",  # the records are written, the transaction is not committed
    "during-commit",  # some moment of it, the flush included
    "after-commit",  # durable, nobody has been told
)
COMPACTION_POINTS = (
    "before-compaction",
    "after-compaction",  # in force, nobody has been told
    "before-removal",
    "in-removal",
    "during-removal",
    "after-removal",
    "before-compaction-end",
    "after-compaction-end",
)
LONGEST_DELAY = 0.003  # seconds; about what a commit takes


class Failpoint:
    """One point; `reached` with its name counts."""

    def __init__(self, name: str, count: int) -> None:
        assert name in COMMIT_POINTS + COMPACTION_POINTS, name
        self._name = name
        self._left = count

    def reached(self, name: str) -> None:
        """Die here, if it is time."""
        if self.due(name):
            die()

    def due(self, name: str) -> bool:
        """Count one more coming by; whether this is the one."""
        if name == self._name:
            self._left -= 1
            return self._left == 0
        return False


def die() -> None:
    """End without any chance to tidy up."""
    os.kill(os.getpid(), signal.SIGKILL)


def install(point: Failpoint, rng: random.Random) -> None:
    """Put the point into every backend of this process."""
    commit, delete = Backend.commit, Backend.delete

    def commit_with_points(backend: Backend, batch: Commit) -> None:
        scheduled, finished = SCHEDULED_COMPACTION in batch.meta, FINISHED_COMPACTION in batch.meta
        point.reached("before-commit")
        if scheduled:
            point.reached("before-compaction")
        if finished:
            point.reached("before-compaction-end")
        if point.due("in-commit"):
            batch.leases = _DeadlyDict(batch.leases)  # written after the records
        if point.due("during-commit"):
            _die_soon(rng)
        commit(backend, batch)
        point.reached("after-commit")
        if scheduled:
            point.reached("after-compaction")
        if finished:
            point.reached("after-compaction-end")

    def delete_with_points(backend: Backend, revisions: Sequence[int]) -> None:
        point.reached("before-removal")
        if point.due("during-removal"):
            _die_soon(rng)
        delete(backend, _DeadlyList(revisions) if point.due("in-removal") else revisions)
        point.reached("after-removal")

    _replace("commit", commit_with_points)
    _replace("delete", delete_with_points)


def _replace(name: str, function: Callable[..., None]) -> None:
    setattr(Backend, name, function)


def _die_soon(rng: random.Random) -> None:
    delay = rng.random() * LONGEST_DELAY

    def wait() -> None:
        time.sleep(delay)
        die()

    threading.Thread(target=wait, daemon=True).start()


class _DeadlyDict(dict[int, int | None]):
    def items(self) -> Any:
        die()
        return super().items()


class _DeadlyList(list[int]):
    def __iter__(self) -> Iterator[int]:
        for number, revision in enumerate(super().__iter__()):
            if number >= len(self) // 2:
                die()
            yield revision
