"""Changing an object that others change too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from controllers.cli.session import Session
from informer.errors import Conflict
from informer.resources import Resource

R = TypeVar("R", bound=Resource)

TRIES = 8


async def edit(session: Session, obj: R, change: Callable[[R], bool]) -> bool:
    """Make a change to the stored object, anew on a newer one if another writer was faster; whether there was one.

    change: works on the object in memory; False means that there is nothing to do. Raises what it raises, `NotFound`,
    `Invalid`, and `Conflict` when others are always faster.
    """
    for attempt in range(TRIES):
        if not change(obj):
            return False
        try:
            await session.objects.update(obj)
        except Conflict:
            if attempt == TRIES - 1:
                raise
            obj = await session.objects.get(type(obj), obj.name, obj.namespace)
        else:
            return True
    raise AssertionError("the last attempt returns or raises")
