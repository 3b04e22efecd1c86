"""`get -w`: every object once, then each change of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import click

from controllers.cli.session import Session
from controllers.cli.targets import Target
from controllers.cli.view import View
from informer.cache import Cache, Change, Stored
from informer.client import DEFAULT_NAMESPACE
from informer.listwatch import Item, StoreListWatch, WatchEvent
from informer.reflector import Reflector, State, Transition
from informer.resources import Resource
from informer.selectors import Selector


async def watch(
    session: Session,
    target: Target,
    selector: Selector,
    keep: Callable[[Resource], bool],
    order: Callable[[list[Resource]], list[Resource]],
    view: View,
) -> None:
    """Print what there is, then every change, until cancelled. order: of what there is at first."""
    if target.name is not None:
        await session.objects.get(target.cls, target.name, target.namespace)
    namespace = target.namespace if target.cls.TYPE.namespaced else None
    source = StoreListWatch(session.client, target.cls.TYPE, namespace)
    sink = _Changes(target, selector, keep, order, view)
    await Reflector(source, sink, rng=random.Random(), on_transition=_tell).run()


class _Changes:
    """A reflector's sink that prints each state of each object; of one that goes away the last state."""

    def __init__(
        self,
        target: Target,
        selector: Selector,
        keep: Callable[[Resource], bool],
        order: Callable[[list[Resource]], list[Resource]],
        view: View,
    ) -> None:
        self._cache = Cache({})
        self._target = target
        self._selector = selector
        self._keep = keep
        self._order = order
        self._view = view
        self._key: str | None = None
        if target.name is not None:
            within = f"{target.namespace or DEFAULT_NAMESPACE}/" if target.cls.TYPE.namespaced else ""
            self._key = within + target.name

    def replace(self, items: Sequence[Item], revision: str) -> None:
        self._print(self._cache.replace(items, revision), listed=True)

    def apply(self, events: Sequence[WatchEvent]) -> None:
        self._print(self._cache.apply(events))

    def _print(self, changes: Sequence[Change], *, listed: bool = False) -> None:
        states = [self._shown(change) for change in changes if self._key is None or change.key == self._key]
        shown = [obj for obj in states if obj is not None and self._keep(obj)]
        self._view.rows(self._order(shown) if listed else shown)

    def _shown(self, change: Change) -> Resource | None:
        for stored in (change.new, change.old):
            if stored is not None and self._selector.matches(stored.meta.labels):
                return self._decode(stored)
        return None

    def _decode(self, stored: Stored) -> Resource:
        return self._target.cls.decode(stored.data, stored.revision)


def _tell(transition: Transition) -> None:
    after = f"revision {transition.revision}"
    match transition.old, transition.new:
        case _, State.RESUMING:
            click.echo(f"note: the watch was cut, resuming after {after}", err=True)
        case _, State.RELISTING:
            click.echo(f"note: the history after {after} was compacted, listing again", err=True)
        case State.RESUMING | State.RELISTING, State.WATCHING:
            click.echo(f"note: watching again from {after}", err=True)
