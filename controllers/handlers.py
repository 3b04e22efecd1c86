"""From an event on any watched kind to the keys that need a run.

Only the metadata that the cache has decoded is looked at: an event costs no decoding of the object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from controllers.predicates import Predicate
from controllers.reconcile import Request
from controllers.workqueue import LOW_PRIORITY, WorkQueue
from informer import Handler, Resource, ResourceType, Stored

MapFunction: TypeAlias = Callable[[Stored], Iterable[Request]]


def own_key(stored: Stored) -> tuple[Request]:
    """The object itself."""
    return (Request(stored.namespace, stored.name),)


def controller_owner(owner: ResourceType) -> MapFunction:
    """The object's controller, if it is of the kind `owner`: group and kind count, the version does not."""

    def requests(stored: Stored) -> tuple[Request, ...]:
        for reference in stored.meta.owner_references:
            if reference.controller:
                group = reference.api_version.rpartition("/")[0]
                if reference.kind == owner.kind and group == owner.group:
                    return (Request(stored.namespace if owner.namespaced else "", reference.name),)
                return ()
        return ()

    return requests


class Source(msgspec.Struct, frozen=True):
    """A kind to watch: which keys an event concerns, and which events count at all (`predicate(old, new)`)."""

    cls: type[Resource]
    requests: MapFunction
    predicate: Predicate | None = None


class EnqueueRequests(Handler):
    """An informer handler. An update adds the keys of both the old and the new object: an owner that lost a child has
    to know as well. What was there at the start, and what a resync repeats, goes behind what changes."""

    def __init__(self, queue: WorkQueue[Request], requests: MapFunction, predicate: Predicate | None) -> None:
        self._queue = queue
        self._requests = requests
        self._predicate = predicate

    def on_add(self, new: Stored, initial: bool) -> None:
        """The informer saw an object for the first time."""
        if self._predicate is None or self._predicate(None, new):
            self._add(self._requests(new), LOW_PRIORITY if initial else 0)

    def on_update(self, old: Stored, new: Stored) -> None:
        """The informer saw an object change."""
        if self._predicate is None or self._predicate(old, new):
            requests = [*self._requests(new)]
            requests += [request for request in self._requests(old) if request not in requests]
            self._add(requests, LOW_PRIORITY if old.revision == new.revision else 0)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        """The informer saw an object go."""
        if self._predicate is None or self._predicate(old, None):
            self._add(self._requests(old), 0)

    def _add(self, requests: Iterable[Request], priority: int) -> None:
        for request in requests:
            # A map function is the user's: what it gives wrongly must fail here, where it only costs the event.
            if not isinstance(request, Request):
                raise TypeError(f"a map function gives Requests, not {request!r}")
            self._queue.add(request, priority)
