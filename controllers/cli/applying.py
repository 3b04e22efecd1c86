"""Manifests into the store: what `apply` and `create -f` have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import click

from controllers.cli.errors import CliError
from controllers.cli.manifests import Checked, check_manifests, read_manifests
from controllers.cli.session import Session
from controllers.cli.telling import tell
from informer.errors import ApiError, Unreachable
from informer.resources import Resource


async def write_manifests(
    session: Session,
    files: Sequence[str],
    recursive: bool,
    namespace: str | None,
    write: Callable[[Resource], Awaitable[tuple[Resource, str]]],
    done: str,
    *,
    output: str | None,
    dry_run: bool = False,
) -> int:
    """Read and check all of them, then write each; what the store refuses keeps none of the others back.

    write: the object as it is stored, and what became of it. Raises `CliError` with all that went wrong.
    """
    if not files:
        raise click.UsageError("name a manifest: -f FILE, -f DIR or -f -")
    try:
        checked = check_manifests(read_manifests(files, recursive=recursive), session.kinds, namespace)
    except CliError as error:
        raise CliError(*error.lines[:-1], f"{error.lines[-1]}; nothing was {done}") from None
    problems: list[str] = []
    for each in checked:
        try:
            obj, outcome = await write(each.object)
        except Unreachable as error:
            raise CliError(*problems, _lost(each, checked, error, done)) from error
        except ApiError as error:
            problems.append(f"{each.manifest}: {error}")
        else:
            tell(obj, outcome, output=output, dry_run=dry_run)
    if problems:
        raise CliError(*problems)
    return 0


def _lost(each: Checked, checked: Sequence[Checked], error: ApiError, done: str) -> str:
    left = len(checked) - checked.index(each) - 1
    return f"{each.manifest}: {error}; it may or may not have been {done}, the {left} after it were not"
