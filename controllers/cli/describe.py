"""`listwatch describe`."""

from __future__ import annotations

from collections.abc import Sequence

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
from controllers.cli.raw import Raw
from controllers.cli.session import Session, with_session
from controllers.cli.targets import parse_targets, read_targets
from controllers.core.types import Event, Node, Pod, Service
from informer.resources import Resource
from informer.selectors import Selector


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
    for number, (obj, related) in enumerate(zip(found, await _related(session, found), strict=True)):
        click.echo("\n\n" * (number > 0) + describe_object(obj.raw, obj.TYPE.qualified, related), nl=False)
    if missing:
        raise CliError(*missing)
    if not found:
        within = "" if all_namespaces or targets[0].namespace is None else f" in {targets[0].namespace} namespace"
        click.echo(f"No resources found{within}.", err=True)
    return 0


async def _related(session: Session, found: Sequence[Resource]) -> list[Related]:
    """What is around each of the objects. Everything is read once, however many they are."""
    owned: dict[str, list[Raw]] = {str(obj.metadata.uid): [] for obj in found}
    told: dict[object, list[Raw]] = {key: [] for obj in found for key in (obj.metadata.uid, _label(obj))}
    pods: list[Pod] = []
    near: dict[str, list[Raw]] = {}
    for namespace in _namespaces(found):
        for cls in session.kinds.all():
            if cls is Event or (namespace is not None and not cls.TYPE.namespaced):
                continue
            for each in await session.objects.list(cls, namespace):
                near.setdefault(cls.TYPE.qualified, []).append(each.raw)
                for uid in {str(owner.uid) for owner in each.metadata.owner_references} & owned.keys():
                    owned[uid].append(each.raw)
                if isinstance(each, Pod):
                    pods.append(each)
        for event in await session.objects.list(Event, namespace):
            about = event.involved_object
            for key in (about.uid,) if about.uid else _labels(event):
                if key in told:
                    told[key].append(event.raw)
    now = session.now()
    return [
        Related(
            owned[str(obj.metadata.uid)],
            [pod.raw for pod in pods if _concerns(obj, pod)],
            [*told[obj.metadata.uid], *told[_label(obj)]],
            now,
            near,
        )
        for obj in found
    ]


def _namespaces(found: Sequence[Resource]) -> list[str | None]:
    """Where to look: everywhere, if something has no namespace."""
    if any(not obj.TYPE.namespaced for obj in found):
        return [None]
    return list(dict.fromkeys(obj.namespace for obj in found))


def _labels(event: Event) -> tuple[object, ...]:
    """What an event without a uid may be about: its writer may have left out the namespace too."""
    about = event.involved_object
    return tuple((about.kind, within, about.name) for within in {about.namespace or None, event.namespace})


def _label(obj: Resource) -> object:
    return obj.TYPE.kind, obj.namespace, obj.name


def _concerns(obj: Resource, pod: Pod) -> bool:
    """Whether a Node runs the pod, or a Service selects it."""
    if isinstance(obj, Node):
        return pod.spec.node_name == obj.name
    if isinstance(obj, Service) and obj.spec.selector:
        return pod.namespace == obj.namespace and Selector.of(dict(obj.spec.selector)).matches(pod.metadata.labels)
    return False
