"""`listwatch create job NAME --from=cronjob/NAME`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from controllers.batch.cronjob import template_job
from controllers.batch.types import CronJob, Job
from controllers.cli.session import Session
from controllers.cli.targets import reference

# kubectl's, on Jobs that no schedule made.
INSTANTIATE_ANNOTATION = "cronjob.kubernetes.io/instantiate"


async def create_job(session: Session, words: Sequence[str], source: str | None, namespace: str | None) -> str:
    """Make a Job of a CronJob's template at once, owned by it; how messages name the Job.

    words: `job NAME` or `job/NAME`. source: `cronjob/NAME`. Raises `UsageError`, `NotFound`, `AlreadyExists`.
    """
    kind, *names = words[0].split("/") if len(words) == 1 else words
    if session.kinds.lookup(kind) is not Job or len(names) != 1 or not names[0]:
        raise click.UsageError("only a Job can be made without a manifest: create job NAME --from=cronjob/NAME")
    kind, _, name = (source or "").partition("/")
    if not name or session.kinds.lookup(kind) is not CronJob:
        raise click.UsageError("say of what the Job is to be made: --from=cronjob/NAME")
    cron = await session.objects.get(CronJob, name, namespace)
    job = template_job(cron, names[0])
    job.metadata.annotations[INSTANTIATE_ANNOTATION] = "manual"
    # As kubectl: it does not hold up a deletion of the CronJob in the foreground.
    for owner in job.raw["metadata"]["ownerReferences"]:
        owner.pop("blockOwnerDeletion", None)
    return reference(await session.objects.create(job))
