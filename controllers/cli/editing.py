"""Changing an object that others change too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import click

from controllers.cli.errors import CliError
from controllers.cli.session import Session
from controllers.cli.targets import reference
from informer.errors import ApiError, Conflict
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


async def edit_each(
    session: Session,
    objects: Iterable[R],
    change: Callable[[R], bool],
    done: str,
    *,
    problems: Iterable[str] = (),
    quiet_if_unchanged: bool = False,
) -> int:
    """Make a change to each object, and tell of each that it is `done`; one that fails keeps none of the others back.

    problems: what went wrong before. Raises CliError with these and all new ones at the end; 0 if there are none.
    """
    told = list(problems)
    for obj in objects:
        try:
            changed = await edit(session, obj, change)
        except CliError as error:
            told += error.lines
        except ApiError as error:
            told.append(f"{reference(obj)}: {error}")
        else:
            if changed or not quiet_if_unchanged:
                click.echo(f"{reference(obj)} {done}")
    if told:
        raise CliError(*told)
    return 0
