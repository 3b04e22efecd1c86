"""`listwatch rollout`: the life of a Deployment's revisions."""

from __future__ import annotations

from collections.abc import Sequence

import click

from controllers.apps.deployment.revisions import CHANGE_CAUSE, annotations_of, revision_of
from controllers.apps.deployment.rollback import RevisionNotFound, replica_set_of, undo
from controllers.apps.types import Deployment, ReplicaSet
from controllers.cli.describers.pods import pod_template
from controllers.cli.durations import Duration
from controllers.cli.editing import edit, edit_each
from controllers.cli.errors import CliError
from controllers.cli.following import cache_key, until
from controllers.cli.options import KubectlCommand, global_options, namespace_option, resource_arguments
from controllers.cli.page import Page
from controllers.cli.raw import items
from controllers.cli.session import Session, with_session
from controllers.cli.table import table
from controllers.cli.targets import parse_targets, read_targets, reference
from controllers.owners import is_controlled_by
from informer.cache import Cache
from informer.codecs import format_time

RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"


@click.group(name="rollout")
def rollout() -> None:
    """Look at and steer the rollouts of Deployments: `rollout status deploy/web`."""


async def _deployments(session: Session, resources: Sequence[str], namespace: str | None) -> list[Deployment]:
    """The Deployments named. Raises `CliError` if one is not there, or something is no Deployment."""
    found, missing = await read_targets(session.objects, parse_targets(session.kinds, resources, namespace))
    if missing:
        raise CliError(*missing)
    if not found:
        raise CliError("no deployments found")
    deployments = [obj for obj in found if isinstance(obj, Deployment)]
    if other := [obj for obj in found if not isinstance(obj, Deployment)]:
        raise CliError(f"{reference(other[0])} has no rollouts, deployments have")
    return deployments


async def _replica_sets(session: Session, deployment: Deployment) -> list[ReplicaSet]:
    listed = await session.objects.list(ReplicaSet, deployment.namespace)
    return [each for each in listed if is_controlled_by(each, deployment)]


# ---- status ---------------------------------------------------------------------------------------------------------


def rollout_status(deployment: Deployment, revision: int = 0) -> tuple[str, bool]:
    """What kubectl says of a rollout, and whether it is over. Raises `CliError` for one that does not get on."""
    name, status = deployment.name, deployment.status
    if revision and revision_of(deployment) and revision != revision_of(deployment):
        raise CliError(
            f"desired revision ({revision}) is different from the running revision ({revision_of(deployment)})"
        )
    if deployment.metadata.generation > status.observed_generation:
        return "Waiting for deployment spec update to be observed...", False
    for condition in items(deployment.raw, "status", "conditions"):
        if condition.get("type") == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            raise CliError(f'deployment "{name}" exceeded its progress deadline')
    waiting = f'Waiting for deployment "{name}" rollout to finish: '
    replicas, updated = deployment.spec.replicas, status.updated_replicas
    if updated < replicas:
        return f"{waiting}{updated} out of {replicas} new replicas have been updated...", False
    if status.replicas > updated:
        return f"{waiting}{status.replicas - updated} old replicas are pending termination...", False
    if status.available_replicas < updated:
        return f"{waiting}{status.available_replicas} of {updated} updated replicas are available...", False
    return f'deployment "{name}" successfully rolled out', True


@rollout.command(cls=KubectlCommand, name="status")
@resource_arguments
@namespace_option
@click.option("-w", "--watch/--no-watch", default=True, help="Go on until it is over.  [default: watch]")
@click.option("--timeout", type=Duration(), default=0.0, help="How long to watch; 0 is without limit.")
@click.option("--revision", type=click.IntRange(min=0), default=0, help="Fail if another revision is rolled out.")
@global_options
@with_session
async def status_(
    session: Session, resources: Sequence[str], namespace: str | None, watch: bool, timeout: float, revision: int
) -> int:
    """Tell how far the latest rollout is, until it is over. Exit code 1 if it failed."""
    for deployment in await _deployments(session, resources, namespace):
        if not watch:
            click.echo(rollout_status(deployment, revision)[0])
            continue
        told = _Told(deployment, revision)
        try:
            await until(session, Deployment, deployment.namespace, told.over, timeout or None)
        except TimeoutError:
            raise CliError(f"timed out waiting for the rollout of {reference(deployment)}: {told.last}") from None
    return 0


class _Told:
    """Prints each new state of a rollout."""

    def __init__(self, deployment: Deployment, revision: int) -> None:
        self._key = cache_key(Deployment, deployment.namespace, deployment.name)
        self._name = deployment.name
        self._revision = revision
        self.last = ""

    def over(self, cache: Cache) -> bool:
        stored = cache.get(self._key)
        if stored is None:
            raise CliError(f'deployment "{self._name}" was deleted')
        text, over = rollout_status(Deployment.decode(stored.data, stored.revision), self._revision)
        if text != self.last:
            click.echo(text)
            self.last = text
        return over


# ---- history --------------------------------------------------------------------------------------------------------


@rollout.command(cls=KubectlCommand)
@resource_arguments
@namespace_option
@click.option("--revision", type=click.IntRange(min=0), default=0, help="Show the pod template of this one.")
@global_options
@with_session
async def history(session: Session, resources: Sequence[str], namespace: str | None, revision: int) -> int:
    """List the revisions that can be gone back to."""
    for deployment in await _deployments(session, resources, namespace):
        sets = sorted(await _replica_sets(session, deployment), key=revision_of)
        if revision:
            chosen = _of_revision(deployment, sets, revision)
            click.echo(f"{reference(deployment)} with revision #{revision}")
            page = Page()
            with page.section("Pod Template"):
                pod_template(page, chosen.raw["spec"]["template"])
            click.echo(str(page))
            continue
        click.echo(reference(deployment))
        rows = [(str(revision_of(each)), annotations_of(each).get(CHANGE_CAUSE) or "<none>") for each in sets]
        for line in table(("REVISION", "CHANGE-CAUSE"), rows):
            click.echo(line)
        click.echo()
    return 0


def _of_revision(deployment: Deployment, sets: Sequence[ReplicaSet], revision: int) -> ReplicaSet:
    try:
        return replica_set_of(sets, revision)
    except RevisionNotFound as error:
        raise CliError(f"{reference(deployment)}: {error}") from None


# ---- changes --------------------------------------------------------------------------------------------------------


@rollout.command(cls=KubectlCommand, name="undo")
@resource_arguments
@namespace_option
@click.option("--to-revision", type=click.IntRange(min=0), default=0, help="Which one; 0 is the one before.")
@global_options
@with_session
async def undo_(session: Session, resources: Sequence[str], namespace: str | None, to_revision: int) -> int:
    """Go back to an earlier revision."""
    for deployment in await _deployments(session, resources, namespace):
        chosen = _of_revision(deployment, await _replica_sets(session, deployment), to_revision)

        def change(obj: Deployment, chosen: ReplicaSet = chosen) -> bool:
            if obj.spec.paused:
                raise CliError(f"cannot roll back {reference(obj)} while it is paused: `rollout resume` it first")
            return undo(obj, chosen)

        if await edit(session, deployment, change):
            click.echo(f"{reference(deployment)} rolled back")
        else:
            number = revision_of(chosen)
            click.echo(f"{reference(deployment)} skipped rollback (current template already matches revision {number})")
    return 0


@rollout.command(cls=KubectlCommand)
@resource_arguments
@namespace_option
@global_options
@with_session
async def restart(session: Session, resources: Sequence[str], namespace: str | None) -> int:
    """Replace all pods by new ones of the same template, as a rollout."""
    stamp = format_time(session.now().replace(microsecond=0))

    def change(obj: Deployment) -> bool:
        if obj.spec.paused:
            raise CliError(f"cannot restart {reference(obj)} while it is paused: `rollout resume` it first")
        obj.spec.template.metadata.annotations[RESTARTED_AT] = stamp
        return True

    return await edit_each(session, await _deployments(session, resources, namespace), change, "restarted")


@rollout.command(cls=KubectlCommand)
@resource_arguments
@namespace_option
@global_options
@with_session
async def pause(session: Session, resources: Sequence[str], namespace: str | None) -> int:
    """Let changes of the template wait."""

    def change(obj: Deployment) -> bool:
        if obj.spec.paused:
            raise CliError(f'{obj.TYPE.qualified} "{obj.name}" is already paused')
        obj.spec.paused = True
        return True

    return await edit_each(session, await _deployments(session, resources, namespace), change, "paused")


@rollout.command(cls=KubectlCommand)
@resource_arguments
@namespace_option
@global_options
@with_session
async def resume(session: Session, resources: Sequence[str], namespace: str | None) -> int:
    """Roll out what has changed since the pause."""

    def change(obj: Deployment) -> bool:
        if not obj.spec.paused:
            raise CliError(f'{obj.TYPE.qualified} "{obj.name}" is not paused')
        obj.spec.paused = False
        return True

    return await edit_each(session, await _deployments(session, resources, namespace), change, "resumed")
