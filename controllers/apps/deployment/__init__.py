"""The Deployment controller: a file a strategy, its arithmetic apart from its writes."""

from controllers.apps.deployment.controller import DeploymentController
from controllers.apps.deployment.revisions import CHANGE_CAUSE, REVISION, revision_of
from controllers.apps.deployment.rollback import RevisionNotFound, replica_set_of, undo

__all__ = [
    "CHANGE_CAUSE",
    "REVISION",
    "DeploymentController",
    "RevisionNotFound",
    "replica_set_of",
    "revision_of",
    "undo",
]
