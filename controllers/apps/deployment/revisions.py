"""Which ReplicaSet is the new one, which revision each is, and what its annotations remember of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from controllers.apps.types import Deployment, ReplicaSet
from informer import patch
from informer.client import LAST_APPLIED

REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED_REPLICAS = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"
ROLLBACK_TO = "deprecated.deployment.rollback.to"
CHANGE_CAUSE = "kubernetes.io/change-cause"
TEMPLATE_HASH = "pod-template-hash"

# What belongs to one of the two objects alone and is not copied between them.
NOT_COPIED = frozenset({LAST_APPLIED, REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS, ROLLBACK_TO})
HISTORY_CHARACTERS = 2000  # kube-controller-manager's bound on the revision-history annotation

Raw = dict[str, Any]


def oldest_first(replica_sets: Iterable[ReplicaSet]) -> list[ReplicaSet]:
    """By creation, then by name."""
    return sorted(replica_sets, key=_age)


def newest_first(replica_sets: Iterable[ReplicaSet]) -> list[ReplicaSet]:
    """By creation from the youngest on; of the same age by name."""
    return sorted(sorted(replica_sets, key=lambda rs: rs.name), key=lambda rs: _age(rs)[0], reverse=True)


def _age(rs: ReplicaSet) -> tuple[str, str]:
    return rs.raw["metadata"].get("creationTimestamp") or "", rs.name


def plain_template(template: Raw) -> Raw:
    """The template without the hash label: what the user wrote."""
    labels = (template.get("metadata") or {}).get("labels") or {}
    if TEMPLATE_HASH not in labels:
        return template
    rest = {key: value for key, value in labels.items() if key != TEMPLATE_HASH}
    return {**template, "metadata": {**template["metadata"], "labels": rest}}


def same_template(left: Raw, right: Raw) -> bool:
    """Whether two pod templates mean the same pods, whatever their hash label says."""
    return patch.semantic_equal(plain_template(left), plain_template(right))


def find_new(deployment: Deployment, replica_sets: Sequence[ReplicaSet]) -> ReplicaSet | None:
    """The ReplicaSet of the Deployment's template; of several the oldest. The template decides, not the hash."""
    template = deployment.raw["spec"]["template"]
    for rs in oldest_first(replica_sets):
        if same_template(rs.raw["spec"]["template"], template):
            return rs
    return None


def annotations_of(obj: Deployment | ReplicaSet) -> dict[str, str]:
    """Its annotations, not to be changed."""
    return obj.raw["metadata"].get("annotations") or {}


def revision_of(obj: Deployment | ReplicaSet) -> int:
    """The number of its revision, 0 if it has none."""
    return _number(annotations_of(obj).get(REVISION))


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def max_revision(replica_sets: Iterable[ReplicaSet]) -> int:
    """The highest revision there is."""
    return max((revision_of(rs) for rs in replica_sets), default=0)


def last_revision(replica_sets: Iterable[ReplicaSet]) -> int:
    """The second-highest revision: the one before the present one. 0 if there is none."""
    revisions = sorted({0, *(revision_of(rs) for rs in replica_sets)})
    return revisions[-2] if len(revisions) > 1 else 0


def desired_replicas(rs: ReplicaSet) -> int | None:
    """How many pods the whole Deployment should have had when this one was last scaled."""
    text = annotations_of(rs).get(DESIRED_REPLICAS)
    return _number(text) if text is not None else None


def max_replicas(rs: ReplicaSet) -> int:
    """How many pods the whole Deployment could have had when this one was last scaled; 0 if that is not known."""
    return _number(annotations_of(rs).get(MAX_REPLICAS))


def set_annotations(rs: ReplicaSet, wanted: dict[str, str]) -> bool:
    """Put annotations in; whether that changed anything."""
    present = annotations_of(rs)
    if all(present.get(key) == value for key, value in wanted.items()):
        return False
    rs.raw["metadata"]["annotations"] = {**present, **wanted}
    return True


def replica_annotations(desired: int, at_most: int) -> dict[str, str]:
    """What a ReplicaSet remembers of a scaling."""
    return {DESIRED_REPLICAS: str(desired), MAX_REPLICAS: str(at_most)}


def copied_annotations(deployment: Deployment) -> dict[str, str]:
    """What the Deployment passes on to its new ReplicaSet."""
    return {key: value for key, value in annotations_of(deployment).items() if key not in NOT_COPIED}


def take_revision(rs: ReplicaSet, revision: int) -> bool:
    """Make it that revision if it has a lower one, which its history then remembers; whether anything changed."""
    present = annotations_of(rs)
    before = present.get(REVISION)
    if _number(before) >= revision:
        return False
    wanted = {REVISION: str(revision)}
    if before is not None:
        wanted[REVISION_HISTORY] = remember(present.get(REVISION_HISTORY, ""), before)
    return set_annotations(rs, wanted)


def remember(history: str, revision: str, limit: int = HISTORY_CHARACTERS) -> str:
    """The history with one more revision; the oldest ones go when it gets too long.

    >>> remember("", "1"), remember("1,3", "5")
    ('1', '1,3,5')
    >>> remember("11,12,13", "14", limit=8)
    '12,13,14'
    """
    revisions = [each for each in history.split(",") if each] + [revision]
    while len(revisions) > 1 and len(",".join(revisions)) > limit:
        del revisions[0]
    return ",".join(revisions)


def to_delete(olds: Iterable[ReplicaSet], limit: int) -> list[ReplicaSet]:
    """The old ReplicaSets beyond the history's limit, lowest revision first, as far as nothing of them is left."""
    alive = [rs for rs in olds if not rs.deleting]
    beyond = sorted(alive, key=lambda rs: (revision_of(rs), *_age(rs)))[: max(0, len(alive) - limit)]
    return [rs for rs in beyond if _empty(rs)]


def _empty(rs: ReplicaSet) -> bool:
    current = rs.status.observed_generation >= rs.metadata.generation
    return current and not rs.spec.replicas and not rs.status.replicas
