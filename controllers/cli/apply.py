"""`listwatch apply`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from controllers.cli.applying import write_manifests
from controllers.cli.options import KubectlCommand, file_options, global_options, namespace_option
from controllers.cli.session import Session, with_session
from controllers.cli.telling import dry_run_option, output_option
from informer.errors import NotFound
from informer.resources import Resource


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `apply -f web.yaml`, `apply -f manifests/ -n staging`, `... | listwatch apply -f -`.",
)
@file_options
@namespace_option
@dry_run_option
@output_option
@global_options
@with_session
async def apply(
    session: Session,
    files: Sequence[str],
    recursive: bool,
    namespace: str | None,
    dry_run: bool,
    output: str | None,
) -> int:
    """Make objects agree with manifests, YAML or JSON, any number of documents a file.

    All of them are read and checked before the first is applied: a mistake in one means that nothing is done. What the
    store refuses after that (a conflict, an immutable field) is told, and the others are applied.
    """

    async def one(obj: Resource) -> tuple[Resource, str]:
        if dry_run:
            return obj, await _would_be(session, obj)
        applied = await session.objects.apply(obj)
        return applied.object, applied.outcome

    return await write_manifests(session, files, recursive, namespace, one, "applied", output=output, dry_run=dry_run)


async def _would_be(session: Session, obj: Resource) -> str:
    """As kubectl's: what is there already counts as configured, whether it would change or not."""
    try:
        await session.objects.get(type(obj), obj.name, obj.namespace)
    except NotFound:
        return "created"
    return "configured"
