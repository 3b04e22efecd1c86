"""`listwatch apply` and `listwatch create`: manifests into the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import click

from controllers.cli.errors import CliError
from controllers.cli.manifests import Checked, check_manifests, read_manifests
from controllers.cli.options import file_options, global_options, namespace_option
from controllers.cli.session import Session, with_session
from controllers.cli.targets import reference
from informer.errors import ApiError, Unreachable
from informer.resources import Resource

_OUTPUTS = click.Choice(["name"])


@click.command(epilog="Examples: `apply -f web.yaml`, `apply -f manifests/ -n staging`, `... | listwatch apply -f -`.")
@file_options
@namespace_option
@click.option("-o", "--output", type=_OUTPUTS, help="Print the names alone.")
@global_options
@with_session
async def apply(
    session: Session, files: Sequence[str], recursive: bool, namespace: str | None, output: str | None
) -> int:
    """Make objects agree with manifests, YAML or JSON, any number of documents a file.

    All of them are read and checked before the first is applied: a mistake in one means that nothing is done. What the
    store refuses after that (a conflict, an immutable field) is told, and the others are applied.
    """

    async def one(obj: Resource) -> tuple[Resource, str]:
        applied = await session.objects.apply(obj)
        return applied.object, applied.outcome

    return await _write(session, files, recursive, namespace, output, one, "applied")


@click.command(epilog="Examples: `create -f web.yaml`, `create job now --from=cronjob/nightly`.")
@click.argument("words", nargs=-1, metavar="[job NAME]")
@click.option("--from", "source", metavar="cronjob/NAME", help="Make the Job of this CronJob's template, at once.")
@file_options
@namespace_option
@click.option("-o", "--output", type=_OUTPUTS, help="Print the names alone.")
@global_options
@with_session
async def create(
    session: Session,
    words: Sequence[str],
    source: str | None,
    files: Sequence[str],
    recursive: bool,
    namespace: str | None,
    output: str | None,
) -> int:
    """Create objects from manifests; one that is there already is an error. Checks all of them first, as apply.

    `create job NAME --from=cronjob/NAME` needs no manifest.
    """
    if words or source:
        from controllers.cli.create_job import create_job

        if files or not words:
            raise click.UsageError("create either from manifests, or job NAME --from=cronjob/NAME")
        name = await create_job(session, words, source, namespace)
        click.echo(name if output == "name" else f"{name} created")
        return 0

    async def one(obj: Resource) -> tuple[Resource, str]:
        return await session.objects.create(obj), "created"

    return await _write(session, files, recursive, namespace, output, one, "created")


async def _write(
    session: Session,
    files: Sequence[str],
    recursive: bool,
    namespace: str | None,
    output: str | None,
    write: Callable[[Resource], Awaitable[tuple[Resource, str]]],
    done: str,
) -> int:
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
            click.echo(reference(obj) if output == "name" else f"{reference(obj)} {outcome}")
    if problems:
        raise CliError(*problems)
    return 0


def _lost(each: Checked, checked: Sequence[Checked], error: ApiError, done: str) -> str:
    left = len(checked) - checked.index(each) - 1
    return f"{each.manifest}: {error}; it may or may not have been {done}, the {left} after it were not"
