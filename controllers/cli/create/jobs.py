"""`create job` and `create cronjob`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from controllers.cli.making import Making, making_options
from controllers.cli.options import KubectlCommand, completing, global_options
from controllers.cli.session import Session, with_session
from informer.client import DEFAULT_NAMESPACE

# kubectl's, on Jobs that no schedule made.
INSTANTIATE_ANNOTATION = "cronjob.kubernetes.io/instantiate"


def _template(name: str, image: str, command: Sequence[str], restart: str) -> dict[str, Any]:
    container: dict[str, Any] = {"name": name, "image": image}
    if command:
        container["command"] = [*command]
    return {"spec": {"containers": [container], "restartPolicy": restart}}


@click.command(
    cls=KubectlCommand,
    epilog="Examples: `create job now --from=cronjob/nightly`, `create job hello --image=busybox -- echo hello`.",
)
@click.argument("name")
@click.argument("command", nargs=-1, metavar="[-- COMMAND [ARGS]...]")
@click.option("--image", help="The container's image.")
@click.option(
    "--from",
    "source",
    metavar="cronjob/NAME",
    help="Make it of this CronJob's template.",
    shell_complete=completing("references"),
)
@making_options
@global_options
@with_session
async def job(
    session: Session, name: str, command: Sequence[str], image: str | None, source: str | None, making: Making
) -> None:
    """Create a Job of an image, or of a CronJob's template at once."""
    if (image is None) == (source is None):
        raise click.UsageError("either --image or --from must be specified")
    if source is not None:
        if command:
            raise click.UsageError("cannot specify --from and a command")
        await making.make(session, await _of_cron_job(session, name, source, making.namespace))
        return
    assert image is not None
    raw = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}}
    await making.make(session, {**raw, "spec": {"template": _template(name, image, command, "Never")}})


async def _of_cron_job(session: Session, name: str, source: str, namespace: str | None) -> dict[str, Any]:
    """A Job that the CronJob owns. Raises `UsageError`, `NotFound`."""
    from controllers.batch.cronjob import template_job
    from controllers.batch.types import CronJob

    kind, _, named = source.partition("/")
    if not named or session.kinds.lookup(kind) is not CronJob:
        raise click.UsageError("say of what the Job is to be made: --from=cronjob/NAME")
    made = template_job(await session.objects.get(CronJob, named, namespace or DEFAULT_NAMESPACE), name)
    made.metadata.annotations[INSTANTIATE_ANNOTATION] = "manual"
    # As kubectl: it does not hold up a deletion of the CronJob in the foreground.
    for owner in made.raw["metadata"]["ownerReferences"]:
        owner.pop("blockOwnerDeletion", None)
    return made.raw


@click.command(
    cls=KubectlCommand,
    epilog="Example: `create cronjob nightly --image=busybox --schedule='30 2 * * *' -- date`.",
)
@click.argument("name")
@click.argument("command", nargs=-1, metavar="[-- COMMAND [ARGS]...]")
@click.option("--image", required=True, help="The container's image.")
@click.option("--schedule", required=True, help="When, as cron has it: minute hour day month weekday.")
@click.option(
    "--restart",
    type=click.Choice(["OnFailure", "Never"]),
    default="OnFailure",
    help="What becomes of a container that fails.",
)
@making_options
@global_options
@with_session
async def cronjob(
    session: Session, name: str, command: Sequence[str], image: str, schedule: str, restart: str, making: Making
) -> None:
    """Create a CronJob of an image."""
    spec = {
        "schedule": schedule,
        "jobTemplate": {"metadata": {"name": name}, "spec": {"template": _template(name, image, command, restart)}},
    }
    await making.make(session, {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": spec})
