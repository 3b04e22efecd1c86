"""Going back to the template of an earlier revision."""

from __future__ import annotations

from collections.abc import Sequence

from controllers.apps.deployment.revisions import (
    NOT_COPIED,
    annotations_of,
    last_revision,
    plain_template,
    revision_of,
    same_template,
)
from controllers.apps.history import RevisionNotFound as RevisionNotFound
from controllers.apps.types import Deployment, ReplicaSet
from informer import patch


def replica_set_of(replica_sets: Sequence[ReplicaSet], revision: int = 0) -> ReplicaSet:
    """The ReplicaSet of a revision; 0 = of the one before the present. Raises RevisionNotFound."""
    wanted = revision or last_revision(replica_sets)
    if not wanted:
        raise RevisionNotFound("no rollout history: there is no revision before the present one")
    for rs in replica_sets:
        if revision_of(rs) == wanted:
            return rs
    raise RevisionNotFound(f"unable to find revision {wanted} in the rollout history")


def undo(deployment: Deployment, rs: ReplicaSet) -> bool:
    """Give the Deployment, in memory, the template and the annotations of one of its ReplicaSets.

    False, and nothing changed, if it has that template already. What `rollout undo` does before it updates:

        rs = replica_set_of(replica_sets, revision)
        if undo(deployment, rs):
            await client.update(deployment)
    """
    template = rs.raw["spec"]["template"]
    if same_template(deployment.raw["spec"]["template"], template):
        return False
    deployment.raw["spec"]["template"] = patch.copy(plain_template(template))
    own = {key: value for key, value in annotations_of(deployment).items() if key in NOT_COPIED}
    of_revision = {key: value for key, value in annotations_of(rs).items() if key not in NOT_COPIED}
    deployment.raw["metadata"]["annotations"] = {**own, **of_revision}
    return True
