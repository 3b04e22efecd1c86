"""`listwatch scale`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from controllers.cli.editing import edit_each
from controllers.cli.errors import CliError
from controllers.cli.options import (
    KubectlCommand,
    global_options,
    namespace_option,
    resource_arguments,
    selector_option,
)
from controllers.cli.session import Session, with_session
from controllers.cli.targets import parse_targets, read_targets, reference
from informer.objects import schema_of
from informer.resources import Resource

MOST_REPLICAS = 2**31 - 1  # in Kubernetes spec.replicas is an int32


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `scale deployment/web --replicas=5`, `scale deploy -l tier=front --replicas=0`.",
)
@resource_arguments
@click.option("--replicas", type=click.IntRange(0, MOST_REPLICAS), required=True, help="How many.")
@click.option("--current-replicas", type=click.IntRange(min=0), help="Only if it has so many now.")
@namespace_option
@selector_option
@global_options
@with_session
async def scale(
    session: Session,
    resources: Sequence[str],
    replicas: int,
    current_replicas: int | None,
    namespace: str | None,
    selector: str,
) -> int:
    """Set the number of replicas of Deployments, ReplicaSets, or any kind that has spec.replicas."""
    targets = parse_targets(session.kinds, resources, namespace)
    if any(target.name is None for target in targets) and not selector:
        raise click.UsageError("name the objects, or select them by -l")
    found, problems = await read_targets(session.objects, targets, selector)
    if not found and not problems:
        raise CliError("no objects passed to scale")

    def change(obj: Resource) -> bool:
        now = _replicas(obj)
        if current_replicas is not None and now != current_replicas:
            raise CliError(f"{reference(obj)} has {now} replicas, not {current_replicas}: not scaled")
        obj.raw["spec"]["replicas"] = replicas
        return now != replicas

    return await edit_each(session, found, change, "scaled", problems=problems)


def _replicas(obj: Resource) -> int | None:
    spec = obj.raw.get("spec") or {}
    schema = obj.SCHEMA or schema_of(type(obj))
    declared = schema.get("properties", {}).get("spec", {}).get("properties", {})
    if "replicas" not in spec and "replicas" not in declared:
        raise CliError(f"cannot scale {reference(obj)}: it has no spec.replicas")
    obj.raw.setdefault("spec", {})
    found = spec.get("replicas")
    return found if isinstance(found, int) else None
