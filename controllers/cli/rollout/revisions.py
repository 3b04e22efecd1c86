"""The revisions that there are of a workload: ReplicaSets of a Deployment, else ControllerRevisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from controllers.apps import history
from controllers.apps.deployment import rollback
from controllers.apps.deployment.revisions import CHANGE_CAUSE, revision_of
from controllers.apps.types import ControllerRevision, Deployment, ReplicaSet
from controllers.cli.errors import CliError
from controllers.cli.raw import NONE, mapping
from controllers.cli.session import Session
from controllers.cli.targets import reference
from controllers.owners import is_controlled_by
from informer.resources import Resource

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class Revision:
    """One of them, by its number."""

    number: int
    stored: Resource

    @property
    def cause(self) -> str:
        """What its maker said that it is for."""
        return str(mapping(self.stored.raw, "metadata", "annotations").get(CHANGE_CAUSE) or NONE)

    @property
    def template(self) -> Mapping[str, Any]:
        """The pods it is about."""
        if isinstance(self.stored, ControllerRevision):
            return history.template_of(self.stored)
        return mapping(self.stored.raw, "spec", "template")


async def revisions_of(session: Session, owner: Resource) -> list[Revision]:
    """All that can be gone back to, the oldest first."""
    if isinstance(owner, Deployment):
        sets = await session.objects.list(ReplicaSet, owner.namespace)
        found = [Revision(revision_of(each), each) for each in sets if is_controlled_by(each, owner)]
        return sorted(found, key=lambda each: each.number)
    listed = await session.objects.list(ControllerRevision, owner.namespace)
    return [Revision(each.revision, each) for each in history.revisions_of(owner, listed)]


def find(owner: Resource, revisions: list[Revision], number: int) -> Revision:
    """The revision of a number; 0 is the one before the present. Raises `CliError`."""
    try:
        if isinstance(owner, Deployment):
            chosen: Resource = rollback.replica_set_of([_as(ReplicaSet, each.stored) for each in revisions], number)
        else:
            chosen = history.find_revision([_as(ControllerRevision, each.stored) for each in revisions], number)
    except LookupError as error:
        raise CliError(f"{reference(owner)}: {error}") from None
    return next(each for each in revisions if each.stored is chosen)


def go_back(owner: Resource, revision: Revision) -> bool:
    """Give the owner, in memory, the template of a revision; False if it has that already."""
    if isinstance(owner, Deployment):
        return rollback.undo(owner, _as(ReplicaSet, revision.stored))
    return history.undo(owner, _as(ControllerRevision, revision.stored))


def _as(cls: type[R], obj: Resource) -> R:
    assert isinstance(obj, cls)
    return obj
