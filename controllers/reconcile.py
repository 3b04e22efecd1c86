"""What goes into a reconciler and what comes out of it."""

from __future__ import annotations

import enum

import msgspec


class Request(msgspec.Struct, frozen=True, gc=False):
    """Which object to reconcile. Not why: a reconciler looks at the state, never at the event.

    `namespace` is "" for cluster-scoped kinds.
    """

    namespace: str
    name: str

    @property
    def key(self) -> str:
        """`namespace/name`, or the name alone where there is no namespace."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    def __str__(self) -> str:
        return self.key


class Result(msgspec.Struct, frozen=True):
    """How a run that did not fail ended. `requeue_after` in seconds; `requeue` = again, after the key's backoff.

    priority: of the run that follows; None keeps that of this run. Higher goes first, 0 is what a change has.
    """

    requeue_after: float | None = None
    requeue: bool = False
    priority: int | None = None


class Outcome(enum.StrEnum):
    """How a run ended; each has one effect on the queue (`Controller._settle`)."""

    SUCCESS = "success"
    REQUEUE_AFTER = "requeue_after"
    REQUEUE = "requeue"
    ERROR = "error"
    TERMINAL = "terminal"


def outcome_of(result: Result | None) -> Outcome:
    """The outcome of a run that returned. Raises TypeError if it returned something else than a Result or None,
    or a delay that is no number."""
    if result is None:
        return Outcome.SUCCESS
    if not isinstance(result, Result):
        raise TypeError(f"a reconciler returns Result or None, not {type(result).__name__}")
    after = result.requeue_after
    if after is not None and not isinstance(after, int | float):
        raise TypeError(f"requeue_after is a number of seconds, not {after!r}")
    if after is not None and after > 0:
        return Outcome.REQUEUE_AFTER
    if result.requeue or after is not None:
        return Outcome.REQUEUE
    return Outcome.SUCCESS
