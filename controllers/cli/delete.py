"""`listwatch delete`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import click

from controllers.cli.choosing import chosen_targets
from controllers.cli.durations import Duration
from controllers.cli.errors import CliError
from controllers.cli.field_selector import FieldSelector
from controllers.cli.following import cached, until
from controllers.cli.options import (
    KubectlCommand,
    file_options,
    global_options,
    namespace_option,
    resource_arguments,
    selector_option,
)
from controllers.cli.session import Session, with_session
from controllers.cli.targets import kind_reference, read_targets
from controllers.cli.telling import dry_run_option
from informer.cache import Cache
from informer.errors import ApiError, NotFound, Unreachable
from informer.resources import Resource

QUIET = 2.0  # seconds to wait before saying what is waited for


@click.command(
    cls=KubectlCommand, epilog="Examples: `delete pod/web-1`, `delete deploy -l app=web`, `delete -f web.yaml`."
)
@resource_arguments
@file_options
@namespace_option
@selector_option
@click.option("--all", "everything", is_flag=True, help="All objects of the kinds named, in the namespace.")
@click.option("--field-selector", default="", metavar="FIELD=VALUE,...", help="By fields: `status.phase=Failed`.")
@click.option(
    "--cascade",
    type=click.Choice(["background", "foreground", "orphan"]),
    default="background",
    help="What becomes of the objects it owns: deleted after it, before it, or kept.",
)
@click.option("--wait/--no-wait", default=True, help="Come back when the objects are gone.  [default: wait]")
@click.option("--timeout", type=Duration(), default=0.0, help="How long to wait; 0 is without limit.")
@click.option("--grace-period", type=click.IntRange(min=0), help="Seconds to stop in; the object's own if not given.")
@click.option("--now", "immediately", is_flag=True, help="A grace period of 1.")
@click.option("--force", is_flag=True, help="A grace period of 0: do not wait for the node.")
@click.option("--ignore-not-found", is_flag=True, help="An object that is not there is no error.")
@dry_run_option
@global_options
@with_session
async def delete(
    session: Session,
    resources: Sequence[str],
    files: Sequence[str],
    recursive: bool,
    namespace: str | None,
    selector: str,
    everything: bool,
    field_selector: str,
    cascade: Literal["background", "foreground", "orphan"],
    wait: bool,
    timeout: float,
    grace_period: int | None,
    immediately: bool,
    force: bool,
    ignore_not_found: bool,
    dry_run: bool,
) -> int:
    """Delete objects: by name, by label, all of a kind, or those in manifests."""
    fields = FieldSelector(field_selector)
    targets = chosen_targets(
        session,
        resources,
        namespace,
        selector=selector,
        everything=everything or (not fields.empty and not selector),
        files=files,
        recursive=recursive,
    )
    for target in targets:
        fields.check(target.cls)
    listed, missing = await read_targets(session.objects, targets, selector)
    found = [obj for obj in listed if fields.matches(type(obj), obj.raw)]
    grace = 0 if force else 1 if immediately else grace_period
    problems: list[str] = []
    remaining: list[Resource] = []
    for obj in found:
        if dry_run:
            click.echo(f'{kind_reference(type(obj))} "{obj.name}" deleted (dry run)')
            continue
        try:
            deleted = await session.objects.delete(
                type(obj),
                obj.name,
                obj.namespace,
                uid=obj.metadata.uid,
                propagation=cascade,
                grace_seconds=grace,
            )
        except NotFound as error:
            missing.append(str(error))
            continue
        except Unreachable as error:
            raise CliError(*problems, str(error)) from error
        except ApiError as error:
            problems.append(str(error))
            continue
        click.echo(f'{kind_reference(type(obj))} "{obj.name}" {"force " if force else ""}deleted')
        if deleted.object is not None:
            remaining.append(obj)
    if not found and not missing:
        click.echo("No resources found", err=True)
    if not ignore_not_found:
        problems = [*missing, *problems]
    if wait and remaining:
        try:
            await _wait(session, remaining, timeout or None)
        except CliError as error:
            problems += error.lines
    if problems:
        raise CliError(*problems)
    return 0


async def _wait(session: Session, remaining: Sequence[Resource], timeout: float | None) -> None:
    """Until finalizers and nodes have let go of all of them."""
    for cls, group in groupby(sorted(remaining, key=lambda obj: obj.TYPE.qualified), type):
        some = list(group)

        def gone(cache: Cache, some: Sequence[Resource] = some) -> bool:
            return all(cached(cache, obj) is None for obj in some)

        try:
            await until(session, cls, None, gone, min(QUIET, timeout or QUIET))
        except TimeoutError:
            if timeout is not None and timeout <= QUIET:
                raise CliError(f"timed out: {_still(some)}") from None
        else:
            continue
        click.echo(f"{_still(some)}; Ctrl-C stops the waiting, not the deletion", err=True)
        try:
            await until(session, cls, None, gone, timeout - QUIET if timeout else None)
        except TimeoutError:
            raise CliError(f"timed out: {_still(some)}") from None


def _still(some: Sequence[Resource]) -> str:
    kind = some[0].TYPE
    why = "its node to stop it" if kind.qualified == "pods" else "its finalizers"
    names = ", ".join(obj.name for obj in some[:3]) + (f" and {len(some) - 3} more" if len(some) > 3 else "")
    return f"{kind.plural} being deleted, each waits for {why}: {names}"
