"""What is true: Pods with a history, as an API server keeps them, in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

Object: TypeAlias = dict[str, Any]
Kind: TypeAlias = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclasses.dataclass(frozen=True)
class Change:
    """One event of a watch."""

    revision: int
    kind: Kind
    object: Object


class World:
    """Pods by name, all in the namespace "default"; each write is one revision."""

    def __init__(self) -> None:
        self.revision = 100
        self.compacted = 0  # a watch must start at this revision or after it
        self.objects: dict[str, Object] = {}
        self.changes: list[Change] = []
        self.on_change: Callable[[Change], None] = lambda change: None
        self._uids = 0

    @property
    def truth(self) -> Mapping[str, str]:
        """Name -> resourceVersion."""
        return {name: pod["metadata"]["resourceVersion"] for name, pod in self.objects.items()}

    def put(self, *names: str, note: str = "") -> None:
        """Create or change each Pod; `note` is the value of an annotation."""
        for name in names:
            before = self.objects.get(name)
            if before is None:
                self._uids += 1
            uid = f"00000000-0000-4000-8000-{self._uids:012d}" if before is None else before["metadata"]["uid"]
            self.revision += 1
            pod = _pod(name, uid, self.revision, note)
            self.objects[name] = pod
            self._add(Change(self.revision, "ADDED" if before is None else "MODIFIED", pod))

    def delete(self, *names: str) -> None:
        for name in names:
            last = self.objects.pop(name)
            self.revision += 1
            metadata = last["metadata"] | {"resourceVersion": str(self.revision)}
            self._add(Change(self.revision, "DELETED", last | {"metadata": metadata}))

    def elsewhere(self, writes: int) -> None:
        """Writes to other kinds of objects: they share the revision and nothing else."""
        self.revision += writes

    def compact(self) -> None:
        """Forget all history."""
        self.compacted = self.revision
        self.changes.clear()

    def after(self, revision: int) -> list[Change]:
        """What changed after a revision; it must not be compacted."""
        return [change for change in self.changes if change.revision > revision]

    def _add(self, change: Change) -> None:
        self.changes.append(change)
        self.on_change(change)


def _pod(name: str, uid: str, revision: int, note: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid,
            "resourceVersion": str(revision),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"note": note},
        },
        "spec": {"containers": [{"name": "web", "image": "nginx:1.25"}]},
        "status": {"phase": "Running"},
    }
