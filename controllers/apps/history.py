"""The revisions of StatefulSets and DaemonSets: ControllerRevisions, each of which holds a template.

Equal data is an equal revision, whatever its number: going back to a template takes its old revision up again and
gives it the highest number, as in Kubernetes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from controllers.apps.hash import template_hash
from controllers.apps.types import ControllerRevision
from controllers.claiming import claim
from controllers.context import Context
from controllers.owners import is_controlled_by, set_controller_reference
from informer import patch
from informer.errors import AlreadyExists, Conflict, NotFound
from informer.resources import Resource
from informer.selectors import SelectorLike

Raw = dict[str, Any]

REVISION_HASH = "controller-revision-hash"  # the label of a pod, and of a DaemonSet's revision: which one it is
STATEFUL_REVISION_HASH = "controller.kubernetes.io/hash"  # the same on the revision of a StatefulSet


class RevisionNotFound(LookupError):
    """There is no such revision any more."""


def revision_data(owner: Resource) -> Raw:
    """What a revision of the owner holds: a patch that sets its pod template."""
    return {"spec": {"template": {**patch.copy(owner.raw["spec"]["template"]), "$patch": "replace"}}}


def template_of(revision: ControllerRevision) -> Raw:
    """The pod template that a revision holds."""
    template: Raw = patch.copy(revision.raw["data"]["spec"]["template"])
    template.pop("$patch", None)
    return template


def revision_hash(owner: Resource, collisions: int | None = None) -> str:
    """The label value of the owner's present template."""
    return template_hash(revision_data(owner), collisions)


# ---- for the command line: no reads, no writes -----------------------------------------------------------------------


def revisions_of(owner: Resource, revisions: Iterable[ControllerRevision]) -> list[ControllerRevision]:
    """Those that the owner controls, the oldest first."""
    return sorted((each for each in revisions if is_controlled_by(each, owner)), key=_number)


def present_revision(owner: Resource, revisions: Iterable[ControllerRevision]) -> ControllerRevision | None:
    """The one of the owner's present template, or None if its controller has not made it yet."""
    data = revision_data(owner)
    return max((each for each in revisions if _same_data(each, data)), key=_number, default=None)


def find_revision(revisions: Sequence[ControllerRevision], number: int = 0) -> ControllerRevision:
    """The revision of that number; 0 = the one before the present. Raises RevisionNotFound."""
    if number:
        found = next((each for each in revisions if each.revision == number), None)
        if found is None:
            raise RevisionNotFound(f"unable to find specified revision {number} in history")
        return found
    if len(revisions) < 2:
        raise RevisionNotFound("no last revision to roll back to")
    return sorted(revisions, key=_number)[-2]


def undo(owner: Resource, revision: ControllerRevision) -> bool:
    """Give the owner, in memory, the template of one of its revisions: what `rollout undo` does before it updates.

    False, and nothing changed, if it has that template already.
    """
    if _same_data(revision, revision_data(owner)):
        return False
    owner.raw["spec"]["template"] = template_of(revision)
    return True


def _number(revision: ControllerRevision) -> tuple[int, str]:
    return revision.revision, revision.name


def _same_data(revision: ControllerRevision, data: Raw) -> bool:
    return patch.semantic_equal(revision.raw.get("data"), data)


# ---- for controllers -------------------------------------------------------------------------------------------------


async def claimed_revisions(ctx: Context, owner: Resource, selector: SelectorLike) -> list[ControllerRevision]:
    """All revisions of the owner, the oldest first; orphans that its selector selects are adopted."""
    claimed = await claim(ctx, owner, ControllerRevision, selector)
    found = [ControllerRevision.decode(each.data, each.revision) for each in claimed]
    return sorted(found, key=_number)


async def update_revision(
    ctx: Context,
    owner: Resource,
    revisions: Sequence[ControllerRevision],
    collisions: int,
    *,
    hash_label: str = REVISION_HASH,
) -> tuple[ControllerRevision, int]:
    """The revision of the owner's present template, made, or taken up again with the highest number; and how many
    names were taken by others, which belongs into `status.collisionCount`.

    revisions: as `claimed_revisions` gives them. hash_label: what tells the revision's hash. Raises ApiError.
    """
    data = revision_data(owner)
    highest = revisions[-1].revision if revisions else 0
    equal = [each for each in revisions if _same_data(each, data)]
    if equal:
        newest = equal[-1]
        if newest.revision < highest:
            newest.revision = highest + 1
            newest = await ctx.update(newest)
        return newest, collisions
    template = owner.raw["spec"]["template"]
    labels = (template.get("metadata") or {}).get("labels") or {}
    annotations = dict(owner.raw["metadata"].get("annotations") or {})
    while True:
        hashed = template_hash(data, collisions)
        made = ControllerRevision.from_raw(
            {
                "metadata": {
                    "name": f"{owner.name}-{hashed}",
                    "namespace": owner.namespace,
                    "labels": {**labels, hash_label: hashed},
                    **({"annotations": annotations} if annotations else {}),
                },
                "data": data,
                "revision": highest + 1,
            }
        )
        set_controller_reference(owner, made)
        try:
            return await ctx.create(made), collisions
        except AlreadyExists:
            taken = await ctx.fetch(ControllerRevision, made.name, owner.namespace)
            if taken is None:
                continue
            if is_controlled_by(taken, owner) and _same_data(taken, data):
                return taken, collisions
            collisions += 1


async def truncate_history(
    ctx: Context, revisions: Sequence[ControllerRevision], used: Collection[str], limit: int
) -> None:
    """Delete the oldest revisions that nothing uses, until `limit` of these are left. used: names."""
    unused = [each for each in revisions if each.name not in used]
    for each in unused[: max(0, len(unused) - limit)]:
        try:
            await ctx.delete(ControllerRevision, each.name, each.namespace, uid=each.metadata.uid)
        except (NotFound, Conflict):
            continue
