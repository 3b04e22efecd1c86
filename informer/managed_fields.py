"""`metadata.managedFields`: who has written an object, and when.

An entry for each writer, kind of operation and subresource, the latest last. Which fields each of them wrote
(`fieldsV1`) is not kept: it is what makes these notes half of an object in Kubernetes. So they tell who changed what
when two states are compared, and they settle no conflicts: `apply` goes by what was applied last.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from informer.codecs import Raw

Operation: TypeAlias = Literal["Apply", "Update"]

# kube-apiserver folds the oldest of its Update entries into one beyond ten.
MAX_ENTRIES = 10

# Who writes without saying who, where others have.
UNKNOWN = "unknown"


def record(
    metadata: Raw,
    manager: str | None,
    operation: Operation,
    api_version: str,
    time: str,
    subresource: str | None = None,
) -> None:
    """Note a write in the object's metadata. A writer of no name is noted only where others are, so as not to leave
    the write to the last of them."""
    entries = metadata.get("managedFields")
    if manager is None and not entries:
        return
    entry = {"manager": manager or UNKNOWN, "operation": operation, "apiVersion": api_version, "time": time}
    if subresource is not None:
        entry["subresource"] = subresource
    if entries:
        kept = [each for each in entries if not _same(each, entry)]
        metadata["managedFields"] = [*kept[1 - MAX_ENTRIES :], entry]
    else:
        metadata["managedFields"] = [entry]


def _same(one: Raw, other: Raw) -> bool:
    return all(one.get(field) == other.get(field) for field in ("manager", "operation", "subresource"))
