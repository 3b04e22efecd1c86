"""What a controller has decoded of the objects that it manages, so that a run decodes only those that changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from controllers.reconcile import Request
from informer.cache import Stored

T = TypeVar("T")


class Decoded(Generic[T]):
    """By owner. It holds what each owner was last seen to manage, until `forget`."""

    def __init__(self, decode: Callable[[Stored], T]) -> None:
        self._decode = decode
        self._known: dict[Request, dict[str, tuple[str, T]]] = {}

    def of(self, owner: Request, managed: Iterable[Stored]) -> list[T]:
        """All that the owner manages now, decoded anew where the revision is another."""
        known = self._known.get(owner, {})
        now = {}
        for stored in managed:
            entry = known.get(stored.key)
            if entry is None or entry[0] != stored.revision:
                entry = (stored.revision, self._decode(stored))
            now[stored.key] = entry
        self._known[owner] = now
        return [decoded for _, decoded in now.values()]

    def forget(self, owner: Request) -> None:
        """The owner is gone."""
        self._known.pop(owner, None)
