"""`listwatch replace`."""

from __future__ import annotations

import click

from controllers.cli.applying import Writing, writing_options
from controllers.cli.editing import TRIES
from controllers.cli.options import KubectlCommand, global_options
from controllers.cli.session import Session, with_session
from informer.patch import copy
from informer.resources import Resource
from informer.retry import retry_on_conflict


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `replace -f web.yaml`, `get deploy/web -o yaml | ... | listwatch replace -f -`.",
)
@writing_options
@global_options
@with_session
async def replace(session: Session, writing: Writing) -> int:
    """Make objects what manifests say, and nothing else: what a manifest leaves out is gone.

    They have to be there. A manifest with a resourceVersion is refused if the object has changed since.
    """

    async def one(obj: Resource) -> tuple[Resource, str]:
        return (await _check(session, obj) if writing.dry_run else await _replace(session, obj)), "replaced"

    return await writing.each(session, one, "replaced")


async def _check(session: Session, obj: Resource) -> Resource:
    await session.objects.get(type(obj), obj.name, obj.namespace)
    return obj


async def _replace(session: Session, obj: Resource) -> Resource:
    """Raises `NotFound`; `Conflict` if the object is not at the version that the manifest names."""

    async def once() -> Resource:
        current = await session.objects.get(type(obj), obj.name, obj.namespace)
        new = type(obj).from_raw(copy(obj.raw))
        new.raw["metadata"].setdefault("resourceVersion", current.metadata.resource_version)
        return await session.objects.update(new)

    tries = 1 if obj.metadata.resource_version else TRIES
    return await retry_on_conflict(once, steps=tries)
