"""`listwatch scale`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import click

from controllers.cli.choosing import chosen
from controllers.cli.editing import TRIES
from controllers.cli.errors import CliError
from controllers.cli.options import (
    KubectlCommand,
    file_options,
    global_options,
    namespace_option,
    resource_arguments,
    selector_option,
)
from controllers.cli.session import Session, with_session
from controllers.cli.targets import reference
from controllers.cli.telling import dry_run_option, output_option, tell
from informer.errors import ApiError, Invalid
from informer.resources import Resource
from informer.retry import retry_on_conflict
from informer.scale import MOST_REPLICAS, scale_of


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `scale deployment/web --replicas=5`, `scale deploy -l tier=front --replicas=0`.",
)
@resource_arguments
@click.option("--replicas", type=click.IntRange(0, MOST_REPLICAS), required=True, help="How many.")
@click.option("--current-replicas", type=click.IntRange(min=0), help="Only if it has so many now.")
@click.option("--all", "everything", is_flag=True, help="All objects of the kinds named, in the namespace.")
@file_options
@namespace_option
@selector_option
@dry_run_option
@output_option
@global_options
@with_session
async def scale(
    session: Session,
    resources: Sequence[str],
    replicas: int,
    current_replicas: int | None,
    everything: bool,
    files: Sequence[str],
    recursive: bool,
    namespace: str | None,
    selector: str,
    dry_run: bool,
    output: str | None,
) -> int:
    """Set the number of replicas of Deployments, ReplicaSets, or any kind that has a scale or a spec.replicas."""
    found, problems = await chosen(
        session, resources, namespace, selector=selector, everything=everything, files=files, recursive=recursive
    )

    async def one(obj: Resource) -> None:
        cls, version = type(obj), None
        if current_replicas is not None:
            now = await session.objects.get_scale(cls, obj.name, obj.namespace)
            if now.replicas != current_replicas:
                raise CliError(f"{reference(obj)} has {now.replicas} replicas, not {current_replicas}: not scaled")
            version = now.resource_version
        if dry_run:
            return
        await session.objects.update_scale(cls, obj.name, replicas, obj.namespace, resource_version=version)

    for obj in found:
        try:
            scale_of(obj)
        except Invalid:
            problems.append(f"cannot scale {reference(obj)}: it has no spec.replicas")
            continue
        try:
            await retry_on_conflict(partial(one, obj), steps=TRIES)
        except CliError as error:
            problems += error.lines
        except ApiError as error:
            problems.append(f"{reference(obj)}: {error}")
        else:
            if output in ("yaml", "json") and not dry_run:
                obj = await session.objects.get(type(obj), obj.name, obj.namespace)
            tell(obj, "scaled", output=output, dry_run=dry_run)
    if problems:
        raise CliError(*problems)
    return 0
