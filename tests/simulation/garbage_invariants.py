"""What has to hold of owners and dependents at every revision of a store's history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controllers.core.types import Namespace
from tests.controllers.cluster import Revision

Raw = dict[str, Any]

CALL = 2.0  # seconds from what a call decides by to what it does, at the most


def owners(obj: Raw) -> list[Raw]:
    return obj["metadata"].get("ownerReferences") or []


def in_namespace(key: str, name: str) -> bool:
    parts = key.split("/")
    return len(parts) == 6 and parts[4] == name


def steps(revisions: list[Revision]) -> Iterator[tuple[Revision, str, Raw | None, Raw | None]]:
    """Every change of a key: the registry after it, the object before and after."""
    objects: dict[str, Raw] = {}
    for revision in revisions:
        for key in revision.changed:
            yield revision, key, objects.get(key), revision.objects.get(key)
        objects = revision.objects


def is_there(obj: Raw, owner: Raw, objects: dict[str, Raw]) -> bool:
    """Whether an owner is where the reference says: of that uid, kind and name, in the namespace of the dependent."""
    namespace = obj["metadata"].get("namespace")
    for other in objects.values():
        metadata = other["metadata"]
        if metadata["uid"] == owner["uid"]:
            named = (metadata["name"], other["kind"]) == (owner["name"], owner["kind"])
            return named and metadata.get("namespace") in (None, namespace)
    return False


def check_only_garbage_is_deleted(
    revisions: list[Revision], authors: dict[int, str], times: dict[int, float], users: set[str], spaces: set[str]
) -> int:
    """The collector begins the deletion only of what has owners, none of which is solid: there and not itself waiting
    for its dependents to go, nor was when the call was sent. users: uids whose deletion a user asked for.

    How many it has deleted."""
    count = 0
    now = 0.0
    before: dict[str, Raw] = {}
    waited: dict[str, float] = {}  # uid of an owner -> when it last waited
    for revision in revisions:
        for obj in before.values():
            metadata = obj["metadata"]
            if metadata.get("deletionTimestamp") and "foregroundDeletion" in (metadata.get("finalizers") or ()):
                waited[metadata["uid"]] = times.get(revision.number, now)
        now = times.get(revision.number, now)
        for key in revision.changed:
            old, new = before.get(key), revision.objects.get(key)
            if old is None or revision.number not in authors or old["metadata"]["uid"] in users:
                continue
            if old["metadata"].get("deletionTimestamp"):
                continue
            began = new is None or new["metadata"].get("deletionTimestamp")
            if not began or not key.startswith(("/registry/core/configmaps/", "/registry/example.com/")):
                continue
            if any(in_namespace(key, name) and _terminating(before, name) for name in spaces):
                continue
            assert owners(old), (revision.number, key, "has no owner")
            solid = [
                owner["name"]
                for owner in owners(old)
                if is_there(old, owner, before) and now - waited.get(owner["uid"], -CALL) >= CALL
            ]
            assert not solid, (revision.number, key, solid)
            count += 1
        before = revision.objects
    return count


def _waiting(objects: dict[str, Raw], uid: str) -> bool:
    for obj in objects.values():
        metadata = obj["metadata"]
        if metadata["uid"] == uid:
            return bool(metadata.get("deletionTimestamp")) and "foregroundDeletion" in (
                metadata.get("finalizers") or ()
            )
    return False


def _terminating(objects: dict[str, Raw], name: str) -> bool:
    found = objects.get(Namespace.TYPE.key(None, name).decode())
    return found is None or bool(found["metadata"].get("deletionTimestamp"))


def _place_goes(objects: dict[str, Raw], key: str) -> bool:
    """Whether the namespace of a key is being deleted."""
    parts = key.split("/")
    found = objects.get(Namespace.TYPE.key(None, parts[4]).decode()) if len(parts) == 6 else None
    return found is not None and bool(found["metadata"].get("deletionTimestamp"))


def check_foreground(revisions: list[Revision], authors: dict[int, str]) -> int:
    """An owner that goes in the foreground stays until nothing blocks it that was there when it was asked to go, or
    until its namespace goes: what is in that goes in the background, as in Kubernetes. How many have gone so."""
    count = 0
    before: dict[str, Raw] = {}
    asked: dict[str, set[str]] = {}  # uid of the owner -> uids that blocked it when it was asked to go
    for revision in revisions:
        for key in revision.changed:
            old, new = before.get(key), revision.objects.get(key)
            uid = (new or old or {"metadata": {"uid": ""}})["metadata"]["uid"]
            waits = new is not None and _waiting(revision.objects, uid)
            if waits and uid not in asked:
                asked[uid] = _blocking(revision.objects, uid)
            elif not waits and uid in asked and old is not None and _waiting(before, uid):
                left = asked.pop(uid) & _blocking(before, uid)
                # Users may change their mind: a deletion of another kind does not wait.
                if revision.number in authors and not _place_goes(before, key):
                    assert not left, (revision.number, key, left)
                    count += 1
        before = revision.objects
    return count


def _blocking(objects: dict[str, Raw], uid: str) -> set[str]:
    return {
        obj["metadata"]["uid"]
        for obj in objects.values()
        if any(owner["uid"] == uid and owner.get("blockOwnerDeletion") for owner in owners(obj))
    }


def check_orphans(revisions: list[Revision], authors: dict[int, str]) -> int:
    """What belonged to an owner when that was asked to go without its dependents is not deleted for its sake, and
    does not name it any more when it is gone, but if its namespace goes. How many owners have gone so."""
    count = 0
    before: dict[str, Raw] = {}
    asked: dict[str, set[str]] = {}
    for revision in revisions:
        for key in revision.changed:
            old, new = before.get(key), revision.objects.get(key)
            if new is not None and _orphaning(new) and not (old is not None and _orphaning(old)):
                uid = new["metadata"]["uid"]
                asked[uid] = {each["metadata"]["uid"] for each in before.values() if _names(each, uid)}
            if old is not None and _orphaning(old) and (new is None or not _orphaning(new)):
                uid = old["metadata"]["uid"]
                then = asked.pop(uid)
                if revision.number not in authors or _place_goes(before, key):
                    continue  # a user wants it otherwise by now
                left = [
                    each["metadata"]["name"]
                    for each in before.values()
                    if each["metadata"]["uid"] in then and _names(each, uid)
                ]
                assert not left, (revision.number, key, left)
                count += 1
        before = revision.objects
    return count


def _orphaning(obj: Raw) -> bool:
    metadata = obj["metadata"]
    return bool(metadata.get("deletionTimestamp")) and "orphan" in (metadata.get("finalizers") or ())


def _names(obj: Raw, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in owners(obj))


def check_closed_namespaces(revisions: list[Revision], authors: dict[int, str], names: set[str]) -> int:
    """No controller creates anything in a namespace that is being deleted or gone, and when it goes it is empty.

    How many have gone."""
    count = 0
    before: dict[str, Raw] = {}
    for revision in revisions:
        for key in revision.changed:
            for name in names:
                place = Namespace.TYPE.key(None, name).decode()
                if in_namespace(key, name) and key not in before and key in revision.objects:
                    assert not _terminating(before, name), (revision.number, key)
                if key == place and place in before and place not in revision.objects:
                    left = [each for each in revision.objects if in_namespace(each, name)]
                    assert not left, (revision.number, left)
                    count += 1
        before = revision.objects
    return count


def check_nothing_outlives_its_owners(revision: Revision) -> None:
    """At the end: whoever names owners has one that is there."""
    for key, obj in revision.objects.items():
        if owners(obj):
            assert any(is_there(obj, owner, revision.objects) for owner in owners(obj)), key
            assert all(is_there(obj, owner, revision.objects) for owner in owners(obj)), key
