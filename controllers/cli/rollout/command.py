"""The commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from controllers.apps.types import Deployment
from controllers.cli.choosing import chosen_targets
from controllers.cli.describers.pods import pod_template
from controllers.cli.durations import Duration
from controllers.cli.editing import edit, edit_each
from controllers.cli.errors import CliError
from controllers.cli.following import cache_key, until
from controllers.cli.options import (
    KubectlCommand,
    file_options,
    global_options,
    namespace_option,
    resource_arguments,
    selector_option,
)
from controllers.cli.page import Page
from controllers.cli.raw import dig
from controllers.cli.rollout.revisions import find, go_back, revisions_of
from controllers.cli.rollout.status import rollout_status
from controllers.cli.session import Session, with_session
from controllers.cli.table import table
from controllers.cli.targets import parse_targets, read_targets, reference
from controllers.cli.telling import dry_run_option, output_option, tell
from informer.cache import Cache
from informer.codecs import format_time
from informer.errors import ApiError
from informer.resources import Resource

RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
_KINDS = ("deployments.apps", "statefulsets.apps", "daemonsets.apps")


@click.group(name="rollout")
def rollout() -> None:
    """Look at and steer rollouts of Deployments, StatefulSets and DaemonSets: `rollout status deploy/web`."""


def _choice(function: Any) -> Any:
    """The options that say which workloads."""
    return resource_arguments(selector_option(file_options(namespace_option(function))))


async def _workloads(
    session: Session,
    resources: Sequence[str],
    selector: str,
    files: Sequence[str],
    recursive: bool,
    namespace: str | None,
) -> list[Resource]:
    """Those named, or all of a kind. Raises `CliError` if one is not there, or has no rollouts."""
    if files:
        targets = chosen_targets(session, resources, namespace, selector=selector, files=files, recursive=recursive)
    else:
        targets = parse_targets(session.kinds, resources, namespace)
    found, missing = await read_targets(session.objects, targets, selector)
    if missing:
        raise CliError(*missing)
    if not found:
        raise CliError(f"no {targets[0].cls.TYPE.plural} found")
    if other := [obj for obj in found if obj.TYPE.qualified not in _KINDS]:
        raise CliError(f"{reference(other[0])} has no rollouts: deployments, statefulsets and daemonsets have")
    return found


# ---- status ---------------------------------------------------------------------------------------------------------


@rollout.command(cls=KubectlCommand)
@_choice
@click.option("-w", "--watch/--no-watch", default=True, help="Go on until it is over.  [default: watch]")
@click.option("--timeout", type=Duration(), default=0.0, help="How long to watch; 0 is without limit.")
@click.option("--revision", type=click.IntRange(min=0), default=0, help="Fail if another revision is rolled out.")
@global_options
@with_session
async def status(session: Session, /, watch: bool, timeout: float, revision: int, **choice: Any) -> int:
    """Tell how far the latest rollout is, until it is over. Exit code 1 if it failed."""
    for obj in await _workloads(session, **choice):
        if not watch:
            click.echo(rollout_status(obj, revision)[0])
            continue
        told = _Told(obj, revision)
        try:
            await until(session, type(obj), obj.namespace, told.over, timeout or None)
        except TimeoutError:
            raise CliError(f"timed out waiting for the rollout of {reference(obj)}: {told.last}") from None
    return 0


class _Told:
    """Prints each new state of a rollout."""

    def __init__(self, obj: Resource, revision: int) -> None:
        self._cls = type(obj)
        self._key = cache_key(self._cls, obj.namespace, obj.name)
        self._name = obj.name
        self._revision = revision
        self.last = ""

    def over(self, cache: Cache) -> bool:
        stored = cache.get(self._key)
        if stored is None:
            raise CliError(f'{self._cls.TYPE.singular} "{self._name}" was deleted')
        text, over = rollout_status(self._cls.decode(stored.data, stored.revision), self._revision)
        if text != self.last:
            click.echo(text)
            self.last = text
        return over


# ---- history --------------------------------------------------------------------------------------------------------


@rollout.command(cls=KubectlCommand)
@_choice
@click.option("--revision", type=click.IntRange(min=0), default=0, help="Show the pod template of this one.")
@global_options
@with_session
async def history(session: Session, /, revision: int, **choice: Any) -> int:
    """List the revisions that can be gone back to."""
    for obj in await _workloads(session, **choice):
        revisions = await revisions_of(session, obj)
        if revision:
            shown = find(obj, revisions, revision)
            click.echo(f"{reference(obj)} with revision #{revision}")
            page = Page()
            with page.section("Pod Template"):
                pod_template(page, shown.template)
            click.echo(str(page))
            continue
        click.echo(reference(obj))
        for line in table(("REVISION", "CHANGE-CAUSE"), [(str(each.number), each.cause) for each in revisions]):
            click.echo(line)
        click.echo()
    return 0


# ---- changes --------------------------------------------------------------------------------------------------------


@rollout.command(cls=KubectlCommand)
@_choice
@click.option("--to-revision", type=click.IntRange(min=0), default=0, help="Which one; 0 is the one before.")
@dry_run_option
@output_option
@global_options
@with_session
async def undo(session: Session, /, to_revision: int, dry_run: bool, output: str | None, **choice: Any) -> int:
    """Go back to an earlier revision."""
    problems: list[str] = []
    for workload in await _workloads(session, **choice):
        try:
            chosen = find(workload, await revisions_of(session, workload), to_revision)

            def change(obj: Resource) -> bool:
                if dig(obj.raw, "spec", "paused"):
                    raise CliError(f"cannot roll back {reference(obj)} while it is paused: `rollout resume` it first")
                return go_back(obj, chosen)  # noqa: B023 - called before the next round

            stored = await edit(session, workload, change, dry_run=dry_run)
        except CliError as error:
            problems += error.lines
        except ApiError as error:
            problems.append(f"{reference(workload)}: {error}")
        else:
            same = f"skipped rollback (current template already matches revision {chosen.number})"
            tell(stored or workload, same if stored is None else "rolled back", output=output, dry_run=dry_run)
    if problems:
        raise CliError(*problems)
    return 0


@rollout.command(cls=KubectlCommand)
@_choice
@output_option
@global_options
@with_session
async def restart(session: Session, /, output: str | None, **choice: Any) -> int:
    """Replace all pods by new ones of the same template, as a rollout."""
    stamp = format_time(session.now().replace(microsecond=0))

    def change(obj: Resource) -> bool:
        if dig(obj.raw, "spec", "paused"):
            raise CliError(f"cannot restart {reference(obj)} while it is paused: `rollout resume` it first")
        metadata = obj.raw["spec"]["template"].setdefault("metadata", {})
        metadata["annotations"] = {**(metadata.get("annotations") or {}), RESTARTED_AT: stamp}
        return True

    return await edit_each(session, await _workloads(session, **choice), change, "restarted", output=output)


async def _deployments(session: Session, doing: str, **choice: Any) -> list[Deployment]:
    found = await _workloads(session, **choice)
    if other := [obj for obj in found if not isinstance(obj, Deployment)]:
        raise CliError(f'{other[0].TYPE.qualified} "{other[0].name}" {doing} is not supported: deployments have it')
    return [obj for obj in found if isinstance(obj, Deployment)]


@rollout.command(cls=KubectlCommand)
@_choice
@output_option
@global_options
@with_session
async def pause(session: Session, /, output: str | None, **choice: Any) -> int:
    """Let changes of a Deployment's template wait."""

    def change(obj: Deployment) -> bool:
        if obj.spec.paused:
            raise CliError(f'{obj.TYPE.qualified} "{obj.name}" is already paused')
        obj.spec.paused = True
        return True

    return await edit_each(session, await _deployments(session, "pausing", **choice), change, "paused", output=output)


@rollout.command(cls=KubectlCommand)
@_choice
@output_option
@global_options
@with_session
async def resume(session: Session, /, output: str | None, **choice: Any) -> int:
    """Roll out what has changed since a Deployment's pause."""

    def change(obj: Deployment) -> bool:
        if not obj.spec.paused:
            raise CliError(f'{obj.TYPE.qualified} "{obj.name}" is not paused')
        obj.spec.paused = False
        return True

    return await edit_each(session, await _deployments(session, "resuming", **choice), change, "resumed", output=output)
