"""Changing an object that others change too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from controllers.cli.errors import CliError
from controllers.cli.session import Session
from controllers.cli.targets import reference
from controllers.cli.telling import tell
from informer.errors import ApiError, Conflict, Unreachable
from informer.resources import Resource

R = TypeVar("R", bound=Resource)

TRIES = 8


async def edit(
    session: Session, obj: R, change: Callable[[R], bool], *, tries: int = TRIES, dry_run: bool = False
) -> R | None:
    """Make a change to the stored object, anew on a newer one if another writer was faster.

    change: works on the object in memory; False means that there is nothing to do. tries: how often at most.
    Returns the object as it is stored now, None if there was nothing to do. Raises what `change` raises, `NotFound`,
    `Invalid`, and `Conflict` when others are always faster.
    """
    for attempt in range(tries):
        if not change(obj):
            return None
        if dry_run:
            return obj
        try:
            return await session.objects.update(obj)
        except Conflict:
            if attempt == tries - 1:
                raise
            obj = await session.objects.get(type(obj), obj.name, obj.namespace)
    raise AssertionError("the last attempt returns or raises")


async def edit_each(
    session: Session,
    objects: Iterable[R],
    change: Callable[[R], bool],
    done: str | Callable[[bool], str],
    *,
    problems: Iterable[str] = (),
    quiet_if_unchanged: bool = False,
    tries: int = TRIES,
    output: str | None = None,
    dry_run: bool = False,
) -> int:
    """Make a change to each object, and tell of each that it is `done`; one that fails keeps none of the others back.

    done: the word for it, or what gives the word when told whether anything changed. problems: what went wrong
    before. Raises CliError with these and all new ones at the end; 0 if there are none.
    """
    told = list(problems)
    for obj in objects:
        try:
            stored = await edit(session, obj, change, tries=tries, dry_run=dry_run)
        except CliError as error:
            told += error.lines
        except Unreachable as error:  # nor would the others get an answer
            raise CliError(*told, f"{reference(obj)}: {error}") from error
        except ApiError as error:
            told.append(f"{reference(obj)}: {error}")
        else:
            if stored is not None or not quiet_if_unchanged:
                word = done if isinstance(done, str) else done(stored is not None)
                tell(stored or obj, word, output=output, dry_run=dry_run)
    if told:
        raise CliError(*told)
    return 0
