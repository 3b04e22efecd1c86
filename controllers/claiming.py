"""Claiming: which objects a controller manages, by owner reference and selector together, as client-go's
ControllerRefManager."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from controllers.context import Context
from controllers.core.pods import CONTROLLER_INDEX, orphans_in
from controllers.finalizers import add_finalizer, remove_finalizer
from controllers.owners import set_controller_reference
from controllers.reconcile import Request
from informer.cache import Stored
from informer.errors import Conflict, NotFound
from informer.resources import Resource
from informer.selectors import Selector, SelectorLike


async def claim(
    ctx: Context,
    owner: Resource,
    cls: type[Resource],
    selector: SelectorLike,
    *,
    finalizer: str | None = None,
    only: Callable[[Stored], bool] | None = None,
) -> list[Stored]:
    """The objects of `cls` that `owner` manages, after it has adopted orphans and released what it no longer selects.

    Owned and selected: kept. Owned and not selected: released, unless the owner is being deleted. An orphan that is
    selected: adopted, if neither is being deleted. What another controller manages is left alone. `cls` needs the index
    `CONTROLLER_INDEX`. finalizer: what an object gets when it is adopted, and loses when it is released.
    only: what counts as selected besides, where labels do not tell all.
    Raises Conflict if the owner turns out to be gone, or an object changed meanwhile.
    """
    wanted, inside = Selector.of(selector), f"{owner.namespace}/"
    claimed = []
    for stored in ctx.stored(cls, index=(CONTROLLER_INDEX, owner.metadata.uid or "")):
        if not stored.key.startswith(inside):
            continue
        if wanted.matches(stored.meta.labels) and (only is None or only(stored)):
            claimed.append(stored)
        elif not owner.deleting:
            await _release(ctx, owner, cls, stored, finalizer)
    if owner.deleting:
        return claimed
    adopted = False
    for stored in ctx.stored(cls, index=(CONTROLLER_INDEX, orphans_in(owner.namespace or ""))):
        if stored.meta.deletion_timestamp or not wanted.matches(stored.meta.labels):
            continue
        if only is not None and not only(stored):
            continue
        if not adopted:
            await _check_alive(ctx, owner)
            adopted = True
        taken = await _adopt(ctx, owner, cls, stored, finalizer)
        if taken is not None:
            claimed.append(taken)
    return claimed


async def _check_alive(ctx: Context, owner: Resource) -> None:
    """The cache may be behind: an owner that is gone must not adopt anything, for it would be collected with it."""
    live = await ctx.fetch(type(owner), owner.name, owner.namespace)
    if live is None or live.metadata.uid != owner.metadata.uid:
        raise Conflict(f"{owner!r} is gone, or another object has its name: it adopts nothing")
    if live.deleting:
        raise Conflict(f"{owner!r} is being deleted: it adopts nothing")


async def _adopt(
    ctx: Context, owner: Resource, cls: type[Resource], stored: Stored, finalizer: str | None
) -> Stored | None:
    # The whole object at the revision seen: if it is another one by now, or somebody else's, this is a Conflict.
    obj = cls.decode(stored.data, stored.revision)
    set_controller_reference(owner, obj)
    if finalizer is not None:
        add_finalizer(obj, finalizer)
    try:
        adopted = await ctx.update(obj)
    except NotFound:
        return None
    return msgspec.structs.replace(stored, data=adopted.encode(), revision=adopted.metadata.resource_version or "")


async def _release(ctx: Context, owner: Resource, cls: type[Resource], stored: Stored, finalizer: str | None) -> None:
    obj = cls.decode(stored.data, stored.revision)
    kept = [each for each in obj.metadata.owner_references if each.uid != owner.metadata.uid]
    obj.metadata.owner_references = kept
    if finalizer is not None:
        remove_finalizer(obj, finalizer)
    try:
        await ctx.update(obj)
    except NotFound:
        return


class _Selecting(msgspec.Struct):
    spec: _SelectingSpec | None = None


class _SelectingSpec(msgspec.Struct):
    selector: dict[str, object] | None = None


_decode = msgspec.json.Decoder(_Selecting).decode


def selecting(owners: Sequence[Stored], child: Stored) -> Iterator[Request]:
    """The requests of those owners whose selector selects the child: who might adopt an orphan. O(owners)."""
    labels = child.meta.labels
    if not labels or child.meta.deletion_timestamp:
        return
    for owner in owners:
        spec = _decode(owner.data).spec
        selector = Selector.of(spec.selector if spec is not None else None)
        if not selector.empty and selector.matches(labels):
            yield Request(owner.namespace, owner.name)
