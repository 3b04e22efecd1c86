"""`listwatch apply`."""

from __future__ import annotations

import click

from controllers.cli.applying import Writing, writing_options
from controllers.cli.options import KubectlCommand, global_options
from controllers.cli.session import Session, with_session
from informer.errors import NotFound
from informer.resources import Resource


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `apply -f web.yaml`, `apply -f manifests/ -n staging`, `... | listwatch apply -f -`.",
)
@writing_options
@global_options
@with_session
async def apply(session: Session, writing: Writing) -> int:
    """Make objects agree with manifests, YAML or JSON, any number of documents a file.

    All of them are read and checked before the first is applied: a mistake in one means that nothing is done. What the
    store refuses after that (a conflict, an immutable field) is told, and the others are applied.
    """

    async def one(obj: Resource) -> tuple[Resource, str]:
        if writing.dry_run:
            return obj, await _would_be(session, obj)
        applied = await session.objects.apply(obj)
        return applied.object, applied.outcome

    return await writing.each(session, one, "applied")


async def _would_be(session: Session, obj: Resource) -> str:
    """As kubectl's: what is there already counts as configured, whether it would change or not."""
    try:
        await session.objects.get(type(obj), obj.name, obj.namespace)
    except NotFound:
        return "created"
    return "configured"
