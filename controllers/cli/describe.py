"""`listwatch describe`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from controllers.cli.describers import Related, describe_object
from controllers.cli.errors import CliError
from controllers.cli.options import (
    KubectlCommand,
    all_namespaces_option,
    global_options,
    namespace_option,
    resource_arguments,
    selector_option,
)
from controllers.cli.session import Session, with_session
from controllers.cli.targets import parse_targets, read_targets
from controllers.core.types import Event, Node, Pod, Service
from informer.resources import Resource


@click.command(
    cls=KubectlCommand, epilog="Examples: `describe deploy/web`, `describe pods -l app=web`, `describe node node-1`."
)
@resource_arguments
@namespace_option
@all_namespaces_option
@selector_option
@global_options
@with_session
async def describe(
    session: Session, resources: Sequence[str], namespace: str | None, all_namespaces: bool, selector: str
) -> int:
    """Show objects with all that belongs to them: conditions, what they own, and their events."""
    targets = parse_targets(session.kinds, resources, namespace, all_namespaces=all_namespaces)
    found, missing = await read_targets(session.objects, targets, selector)
    click.echo("\n\n".join([describe_object(obj.raw, await _related(session, obj)) for obj in found]), nl=False)
    if missing:
        raise CliError(*missing)
    if not found:
        within = "" if all_namespaces or targets[0].namespace is None else f" in {targets[0].namespace} namespace"
        click.echo(f"No resources found{within}.", err=True)
    return 0


async def _related(session: Session, obj: Resource) -> Related:
    uid, kind = obj.metadata.uid, obj.TYPE
    owned = [
        each.raw
        for cls in session.kinds.all()
        if cls is not Event and (cls.TYPE.namespaced or not kind.namespaced)
        for each in await session.objects.list(cls, obj.namespace)
        if any(owner.uid == uid for owner in each.metadata.owner_references)
    ]
    events = [
        event.raw
        for event in await session.objects.list(Event, obj.namespace)
        if event.involved_object.uid == uid
        or (
            not event.involved_object.uid
            and (event.involved_object.kind, event.involved_object.name) == (kind.kind, obj.name)
        )
    ]
    return Related(owned, await _pods(session, obj), events, session.now())


async def _pods(session: Session, obj: Resource) -> list[dict[str, Any]]:
    """The pods that a Node runs or a Service selects."""
    if isinstance(obj, Node):
        return [pod.raw for pod in await session.objects.list(Pod) if pod.spec.node_name == obj.name]
    if isinstance(obj, Service) and obj.spec.selector:
        return [pod.raw for pod in await session.objects.list(Pod, obj.namespace, dict(obj.spec.selector))]
    return []
