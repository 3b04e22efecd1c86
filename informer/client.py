"""`ObjectClient`: objects in a store under the rules of Kubernetes' API server.

Every write is a transaction that compares the mod_revision of the key, so nobody's change is lost. A stale
resourceVersion is a `Conflict`; a change that changes nothing is not written. A kind with namespaces that is given none
is meant to be in `default`, as in kubectl.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar, cast

import msgspec

from informer import patch as patches
from informer.admission import Admission, AdmissionRequest, Plugin
from informer.codecs import Raw, format_time, show
from informer.conversion import annotation_of, carried, from_hub, to_hub
from informer.errors import AlreadyExists, ApiError, Conflict, Invalid, NotFound, from_store
from informer.managed_fields import Operation, record
from informer.metadata import FOREGROUND, ORPHAN, check_metadata, controller_reference
from informer.resources import Resource, ResourceType
from informer.scale import CurrentScale, read_scale, set_replicas
from informer.selectors import Selector, SelectorLike
from informer.transforms import TRANSFORMED
from kvstore import errors as kv
from kvstore.api import (
    Client,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    KeyValue,
    Op,
    Put,
    Range,
    RangeResponse,
    prefix_end,
)

R = TypeVar("R", bound=Resource)
Propagation: TypeAlias = Literal["background", "foreground", "orphan"]

DEFAULT_NAMESPACE = "default"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

# kube-apiserver's alphabet: no vowels and no look-alikes, so that names do not spell words.
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
_SUFFIX_LENGTH = 5
_MAX_BASE = 58  # a name made of it still fits into a label value
_GENERATE_TRIES = 8  # kube-apiserver's
_CONFLICT_TRIES = 8  # for calls that read and write again by themselves; kubectl's patch has 5
_PAGE = 500  # client-go's pager

# What a new object does not bear, whatever its creator thinks.
_SET_BY_OTHER_CALLS = (
    "resourceVersion",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
)

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class ObjectList(Generic[R]):
    """The objects as they were at one revision, in key order."""

    items: list[R]
    revision: str

    def __iter__(self) -> Iterator[R]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class Applied(Generic[R]):
    """What `apply` came to."""

    object: R
    outcome: Literal["created", "configured", "unchanged"]


@dataclass(frozen=True, slots=True)
class CreatedOrUpdated(Generic[R]):
    """What `create_or_update` came to."""

    object: R
    outcome: Literal["created", "updated", "unchanged"]


@dataclass(frozen=True, slots=True)
class Deleted(Generic[R]):
    """What `delete` came to: `object` is what stays until finalizers and grace period are over, None if it is gone."""

    revision: str
    object: R | None


class ClientStatistics(msgspec.Struct, frozen=True):
    """What a client has asked its store for: method -> code -> how often.

    As the API server would be asked: GET, POST for what is not there yet, PUT, DELETE; an HTTP status, or `<error>`
    when the store did not answer, as client-go has it. A patch is counted as what it comes to, a GET and a PUT.
    """

    requests: Mapping[str, Mapping[str, int]]


class ObjectClient:
    """Reads and writes objects through any `kvstore` client, whose lifetime is the caller's affair.

    now: the wall clock, in UTC. rng: for uids and generated names. field_manager: in whose name it writes, see
    `informer.managed_fields`. admission: hooks that are asked before it writes, see `informer.admission`.

    Every method raises `ApiError`s only, `Unreachable` when the store does not answer; cancelling a write leaves open
    whether it happened.
    """

    def __init__(
        self,
        client: Client,
        *,
        now: Callable[[], datetime] | None = None,
        rng: random.Random | None = None,
        field_manager: str | None = None,
        admission: Admission | None = None,
    ) -> None:
        self._client = client
        self._admission = admission
        self._now = now or (lambda: datetime.now(UTC))
        self._rng = rng or random.Random()
        self._field_manager = field_manager
        self._requests: Counter[tuple[str, int]] = Counter()

    def with_field_manager(self, name: str) -> Self:
        """The same client, writing in this name; it shares everything else with this one."""
        other = copy(self)
        other._field_manager = name
        return other

    def now(self) -> datetime:
        """The wall clock that it goes by."""
        return self._now()

    def statistics(self) -> ClientStatistics:
        """What has been asked of the store so far."""
        requests: dict[str, dict[str, int]] = {}
        for (method, status), count in self._requests.items():
            requests.setdefault(method, {})[str(status) if status else "<error>"] = count
        return ClientStatistics(requests)

    # ---- reading ----------------------------------------------------------------------------------------------------

    async def get(self, cls: type[R], name: str, namespace: str | None = None, *, revision: str | None = None) -> R:
        """The object as it is now or was at a revision. Raises `NotFound`, `Expired`."""
        if revision is not None and not revision.isdecimal():
            raise Invalid("revision", f"expected a revision, got {show(revision)}")
        found = await self._read(cls, name, namespace, int(revision or 0))
        return cls.decode(found.value, str(found.mod_revision))

    async def list(
        self, cls: type[R], namespace: str | None = None, selector: SelectorLike = None, *, page_size: int = _PAGE
    ) -> ObjectList[R]:
        """All objects of a namespace (None: of all) that the selector selects (None: all), read at one revision.

        Raises `Expired` if that revision is compacted away while the pages are read.
        """
        wanted = Selector.everything() if selector is None else Selector.of(selector)
        prefix = cls.TYPE.prefix(namespace)
        start, end, revision = prefix, prefix_end(prefix), 0
        items: list[R] = []
        more = True
        while more:
            try:
                page = await self._client.range(Range(start, end, limit=page_size, revision=revision))
            except kv.KvError as error:
                raise self._refused("GET", error) from error
            self._requests["GET", 200] += 1
            revision = revision or page.header.revision
            for each in page.kvs:
                found = cls.decode(each.value, str(each.mod_revision))
                if wanted.empty or wanted.matches(found.metadata.labels):
                    items.append(found)
            more = page.more and bool(page.kvs)
            if more:
                start = page.kvs[-1].key + b"\0"
        return ObjectList(items, str(revision))

    # ---- writing ----------------------------------------------------------------------------------------------------

    async def create(self, obj: R) -> R:
        """Store a new object and return it as stored. Raises `AlreadyExists`, `Invalid`.

        The server's fields (uid, creationTimestamp, generation) are set anew, the status is dropped where it is
        written apart, and `generate_name` becomes a name.
        """
        return await self._create(obj, "Update")

    async def _create(self, obj: R, operation: Operation) -> R:
        cls = type(obj)
        raw = _own(obj)
        if cls.HUB is not None:
            if cls.TYPE.status:
                raw.pop("status", None)
            spoke = _defaulted(cls, raw)
            spoke.validate()
            return _as(cls, await self._create(cls.HUB._over(to_hub(cls, spoke.raw)), operation))
        metadata = raw["metadata"]
        if metadata.get("resourceVersion"):
            raise Invalid("metadata.resourceVersion", "must not be set on a new object")
        base = None if metadata.get("name") else metadata.get("generateName")
        if base:
            metadata["name"] = self._generate(base)
        for field in (
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "managedFields",
        ):
            metadata.pop(field, None)
        metadata["uid"] = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        metadata["creationTimestamp"] = format_time(self._now().replace(microsecond=0))
        metadata["generation"] = 1
        if cls.TYPE.status:
            raw.pop("status", None)
        new = await self._admit(cls, raw, None)
        self._record(new, operation)
        for attempt in range(_GENERATE_TRIES if base else 1):
            if attempt and base:
                metadata["name"] = self._generate(base)
            revision, present = await self._store_new(new)
            if revision:
                metadata["resourceVersion"] = revision
                return new
        being = _decode(present.value)["metadata"] if present else {}
        note = "object is being deleted: " if being.get("deletionTimestamp") else ""
        raise AlreadyExists(f'{note}{cls.TYPE.qualified} "{metadata["name"]}" already exists')

    async def _store_new(self, new: Resource) -> tuple[str, KeyValue | None]:
        """The revision at which it was stored; "" and what bears its name if it was not."""
        key = new.TYPE.key(new.namespace, new.name)
        plugins = self._plugins(new.TYPE, "create")
        if not plugins:
            done, revision, present = await self._txn(key, 0, Put(key, new.encode()))
            return revision if done else "", present
        request = AdmissionRequest("create", new, None, None, self._field_manager)
        for attempt in range(_CONFLICT_TRIES):
            conditions: list[Compare] = []
            for plugin in plugins:
                conditions += await plugin.conditions(request, live=attempt > 0)
            done, revision, present = await self._txn(key, 0, Put(key, new.encode()), conditions)
            if done or present is not None or not conditions:
                return revision if done else "", present
        raise Conflict(f'{new.TYPE.qualified} "{new.name}" was not created: what it depends on keeps changing')

    async def update(self, obj: R) -> R:
        """Store everything but the status, and return the object as stored. Raises `NotFound`, `Conflict`, `Invalid`.

        The object has to bear the resourceVersion it was read with. Taking the last finalizer from an object that is
        being deleted deletes it; what is returned then bears the revision of the deletion.
        """
        raw = _own(obj)
        return await self._replace(type(obj), raw, await self._current(type(obj), raw["metadata"]))

    async def update_status(self, obj: R) -> R:
        """Store the status alone, and return the object as stored. Raises `NotFound`, `Conflict`, `Invalid`."""
        cls = type(obj)
        if not cls.TYPE.status:
            raise Invalid("status", f"{cls.TYPE.qualified} have no status of their own, use update")
        raw = _own(obj, "metadata", "status")
        return await self._replace_status(cls, raw, await self._current(cls, raw["metadata"]))

    async def replace(self, obj: R, *, subresource: str | None = None) -> R:
        """Store a whole object, status included, in place of the version it bears, and return it as stored.

        What an API server does in its own name, as for a pod's binding: one write, no reading, no defaults, no check
        but that of the version. subresource: what the write is noted as. Raises `Conflict`, also if the object is gone.
        """
        cls, raw = type(obj), _own(obj)
        if cls.HUB is not None:
            raise Invalid("apiVersion", f"only the stored version, {cls.HUB.TYPE.version}, can be replaced")
        metadata = raw["metadata"]
        version = metadata.pop("resourceVersion", None)
        if version is None or not version.isdecimal():
            raise Invalid("metadata.resourceVersion", "required for an update")
        key = cls.TYPE.key(metadata.get("namespace"), metadata["name"])
        new = cls._over(raw)
        self._record(new, "Update", subresource)
        done, revision, present = await self._txn(key, int(version), Put(key, new.encode()))
        if not done:
            raise _stale(cls, metadata["name"], str(present.mod_revision if present else 0), version)
        metadata["resourceVersion"] = revision
        return new

    async def patch(
        self,
        cls: type[R],
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        kind: Literal["merge", "json"] = "merge",
        subresource: Literal["status"] | None = None,
    ) -> R:
        """Change a stored object by a JSON merge patch (a dict) or a JSON patch (a list of operations).

        Without a resourceVersion in the patch a concurrent change is no conflict: the patch is applied again to what
        the object has become. A `uid` in the patch has to be the object's. Raises as `update` does.
        """
        change = patches.merge if kind == "merge" else patches.json_patch
        for attempt in range(_CONFLICT_TRIES):
            current = await self._read(cls, name, namespace)
            version = str(current.mod_revision)
            before = cls.decode(current.value, version).raw
            raw = patches.without_nulls(change(before, patch))
            metadata = raw.get("metadata") if isinstance(raw, dict) else None
            if not isinstance(metadata, dict):
                raise Invalid("metadata", "required")
            if metadata.get("resourceVersion", version) != version:
                raise _stale(cls, name, version, metadata["resourceVersion"])
            if metadata.get("uid", before["metadata"]["uid"]) != before["metadata"]["uid"]:
                raise _another(cls, name, before["metadata"]["uid"], metadata["uid"])
            try:
                if subresource is None:
                    return await self._replace(cls, raw, current)
                return await self._replace_status(cls, raw, current)
            except Conflict:
                if attempt == _CONFLICT_TRIES - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def delete(
        self,
        cls: type[R],
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: Propagation | None = None,
        grace_seconds: int | None = None,
    ) -> Deleted[R]:
        """Delete the object, or mark it as being deleted if finalizers or a grace period keep it.

        uid, resource_version: what the object has to be, else `Conflict`. propagation: what becomes of dependents;
        None leaves that to the finalizers the object has. grace_seconds: 0 deletes now (finalizers still count), None
        leaves it to the object. Raises `NotFound`, `Conflict`.
        """
        if cls.HUB is not None:
            deleted = await self.delete(
                cls.HUB,
                name,
                namespace,
                uid=uid,
                resource_version=resource_version,
                propagation=propagation,
                grace_seconds=grace_seconds,
            )
            return Deleted(deleted.revision, None if deleted.object is None else _as(cls, deleted.object))
        for _ in range(_CONFLICT_TRIES):
            current = await self._read(cls, name, namespace)
            version = str(current.mod_revision)
            obj = cls.decode(current.value, version)
            metadata = obj.raw["metadata"]
            if uid is not None and metadata.get("uid") != uid:
                raise _another(cls, name, metadata.get("uid"), uid)
            if resource_version is not None and version != resource_version:
                raise _stale(cls, name, version, resource_version)
            if self._admission:
                old = cls.decode(current.value, version)
                request = AdmissionRequest("delete", old, old, None, self._field_manager)
                await self._admission.run_validating(request)
            for plugin in self._plugins(cls.TYPE, "delete"):
                await plugin.validate(AdmissionRequest("delete", obj, obj, None, self._field_manager))
            grace = self._mark_deleted(obj, propagation, grace_seconds)
            op: Op
            if not grace and not metadata.get("finalizers") and not obj.held():
                op = DeleteRange(current.key)
            elif obj.encode() != current.value:
                self._record(obj, "Update")
                op = Put(current.key, obj.encode())
            else:
                return Deleted(version, obj)
            done, revision, _present = await self._txn(current.key, current.mod_revision, op)
            if done:
                metadata["resourceVersion"] = revision
                return Deleted(revision, None if isinstance(op, DeleteRange) else obj)
        raise Conflict(f'{cls.TYPE.qualified} "{name}" keeps changing, it was not deleted')

    async def apply(self, obj: R, owner: Resource | None = None) -> Applied[R]:
        """Make the stored object agree with this manifest, as `kubectl apply` does; only what the manifest says counts.

        Creates the object if there is none. Fields that the last applied manifest had and this one has not are
        removed; what others set stays. owner: becomes the managing owner; raises `Conflict` if another one is. A
        resourceVersion in the manifest has to be the stored one. Raises `Conflict`, `Invalid`.
        """
        cls = type(obj)
        new = _own(obj)
        metadata = new["metadata"]
        if not metadata.get("name"):
            raise Invalid("metadata.name", "required")
        version = metadata.pop("resourceVersion", None)
        for field in ("uid", "generation", "creationTimestamp", "selfLink", "managedFields"):
            metadata.pop(field, None)
        if cls.TYPE.status:
            new.pop("status", None)
        if owner is not None:
            reference = controller_reference(owner, cls.TYPE, metadata.get("namespace"))
            others = [each for each in metadata.get("ownerReferences") or [] if each.get("uid") != reference["uid"]]
            metadata["ownerReferences"] = [*others, reference]
        annotations = metadata.setdefault("annotations", {})
        annotations.pop(LAST_APPLIED, None)
        annotations[LAST_APPLIED] = patches.encode(new).decode() + "\n"
        for attempt in range(_CONFLICT_TRIES):
            try:
                current = await self._read(cls, metadata["name"], metadata.get("namespace"))
            except NotFound:
                if version:
                    raise
                try:
                    return Applied(await self._create(cls._over(new), "Apply"), "created")
                except AlreadyExists:
                    continue
            if version and version != str(current.mod_revision):
                raise _stale(cls, metadata["name"], str(current.mod_revision), version)
            merged = _merge_manifest(cls, cls.decode(current.value, str(current.mod_revision)).raw, new)
            try:
                result = await self._replace(cls, merged, current, "Apply")
            except Conflict:
                if attempt == _CONFLICT_TRIES - 1:
                    raise
                continue
            unchanged = result.raw["metadata"]["resourceVersion"] == str(current.mod_revision)
            return Applied(result, "unchanged" if unchanged else "configured")
        raise Conflict(f'{cls.TYPE.qualified} "{metadata["name"]}" keeps changing, the manifest was not applied')

    async def create_or_update(self, obj: R, mutate: Callable[[R], object]) -> CreatedOrUpdated[R]:
        """Let `mutate` make the stored object what it should be, or `obj` if there is none; store it if it changed.

        mutate: sets fields of the object it is given, in memory, whatever they are; it must not change name or
        namespace. A field that it takes away and the kind's defaults put back is no change, so that a reconciler which
        sets a whole spec does not write for ever. The status is not written. As controller-runtime's CreateOrUpdate.
        Raises `Conflict` if another writer is faster, see `retry_on_conflict`.
        """
        cls, name = type(obj), obj.name
        try:
            found: R | None = await ObjectClient.get(self, cls, name, obj.namespace)
        except NotFound:
            found = None
        wanted = obj.__deepcopy__({}) if found is None else found
        version, place = wanted.metadata.resource_version, (name, wanted.namespace)
        mutate(wanted)
        if (wanted.name, wanted.namespace) != place:
            raise Invalid("metadata.name", f"{wanted!r} is another object than {obj!r}: mutate must not change that")
        if found is None:
            return CreatedOrUpdated(await self.create(wanted), "created")
        wanted.metadata.resource_version = version
        stored = await self.update(wanted)
        unchanged = stored.metadata.resource_version == version
        return CreatedOrUpdated(stored, "unchanged" if unchanged else "updated")

    async def get_scale(self, cls: type[Resource], name: str, namespace: str | None = None) -> CurrentScale:
        """How many there are and are to be. Raises `NotFound`, `Invalid` for a kind without a scale."""
        return read_scale(await self.get(cls, name, namespace))

    async def update_scale(
        self,
        cls: type[Resource],
        name: str,
        replicas: int,
        namespace: str | None = None,
        *,
        resource_version: str | None = None,
    ) -> CurrentScale:
        """Say how many there are to be. resource_version: only of this very version, else `Conflict`.

        Raises `NotFound`, `Invalid`, `Conflict`.
        """
        for attempt in range(_CONFLICT_TRIES):
            current = await self._read(cls, name, namespace)
            version = str(current.mod_revision)
            if resource_version is not None and resource_version != version:
                raise _stale(cls, name, version, resource_version)
            obj = cls.decode(current.value, version)
            set_replicas(obj, replicas)
            try:
                return read_scale(await self._replace(cls, obj.raw, current, subresource="scale"))
            except Conflict:
                if resource_version is not None or attempt == _CONFLICT_TRIES - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")

    # ---- the store --------------------------------------------------------------------------------------------------

    async def _read(self, cls: type[Resource], name: str, namespace: str | None, revision: int = 0) -> KeyValue:
        try:
            found = await self._client.get(cls.TYPE.key(namespace or DEFAULT_NAMESPACE, name), revision=revision)
        except kv.KvError as error:
            raise self._refused("GET", error) from error
        self._requests["GET", 404 if found is None else 200] += 1
        if found is None:
            raise NotFound(f'{cls.TYPE.qualified} "{name}" not found')
        self._saw(found.key, found.mod_revision)
        return found

    def _saw(self, key: bytes, revision: int) -> None:
        """The client knows now that an object has come to this revision: by a write of its own, or by what it read."""

    async def _current(self, cls: type[Resource], metadata: Raw) -> KeyValue:
        """What is stored of the object, if it is the version that the caller has."""
        name, version, uid = metadata.get("name") or "", metadata.get("resourceVersion"), metadata.get("uid")
        if not version:
            raise Invalid("metadata.resourceVersion", "required for an update")
        current = await self._read(cls, name, metadata.get("namespace"))
        if version != str(current.mod_revision):
            found = _decode(current.value)["metadata"].get("uid")
            if uid and uid != found:
                raise _another(cls, name, found, uid)
            raise _stale(cls, name, str(current.mod_revision), version)
        return current

    async def _txn(
        self, key: bytes, mod_revision: int, op: Op, conditions: Sequence[Compare] = ()
    ) -> tuple[bool, str, KeyValue | None]:
        """Do `op` if the key is at this mod_revision (0: absent): whether it was, the revision, else what is there.

        conditions: what else has to hold.
        """
        compare = Compare(key, CompareTarget.MOD, CompareResult.EQUAL, mod_revision)
        method = "DELETE" if isinstance(op, DeleteRange) else "PUT" if mod_revision else "POST"
        try:
            answer = await self._client.txn((compare, *conditions), (op,), (Range(key),))
        except kv.KvError as error:
            raise self._refused(method, error) from error
        self._requests[method, 409 if not answer.succeeded else 201 if method == "POST" else 200] += 1
        present = None
        if not answer.succeeded:
            found = answer.responses[0]
            assert isinstance(found, RangeResponse)
            present = found.kvs[0] if found.kvs else None
        if answer.succeeded:
            self._saw(key, answer.header.revision)
        elif present is not None:
            self._saw(key, present.mod_revision)
        return answer.succeeded, str(answer.header.revision), present

    def _refused(self, method: str, error: kv.KvError) -> ApiError:
        refused = from_store(error)
        self._requests[method, refused.status] += 1
        return refused

    # ---- the rules --------------------------------------------------------------------------------------------------

    async def _replace(
        self,
        cls: type[R],
        raw: Raw,
        current: KeyValue,
        operation: Operation = "Update",
        subresource: str | None = None,
    ) -> R:
        """Store the object in place of the current one, but for the status."""
        version = str(current.mod_revision)
        old = cls.decode(current.value, version)
        before, metadata = old.raw, raw["metadata"]
        _keep_server_fields(cls, metadata, before["metadata"])
        if cls.TYPE.status:
            _copy_field(raw, before, "status")
        if cls.HUB is not None:
            spoke = _defaulted(cls, raw)
            _check_update(spoke, old)
            hub = cls.HUB.decode(current.value, version)
            metadata["resourceVersion"] = version
            changed = carried(cls, cls.decode(current.value, version).raw, spoke.raw, hub.raw)
            return _as(cls, await self._replace(cls.HUB, changed, current, operation, subresource))
        new = await self._admit(cls, raw, old, subresource)
        deleting = metadata.get("deletionTimestamp") is not None
        finalizers = metadata.get("finalizers") or []
        if deleting and (added := set(finalizers) - set(before["metadata"].get("finalizers") or [])):
            raise Invalid("metadata.finalizers", f"none can be added while the object is being deleted: {min(added)}")
        metadata["resourceVersion"] = version
        if new.encode() == current.value:
            return new
        if _generation_changes(cls, before, raw):
            metadata["generation"] = before["metadata"].get("generation", 0) + 1
        self._record(new, operation, subresource)
        if deleting and not finalizers and not metadata.get("deletionGracePeriodSeconds") and not new.held():
            return await self._commit(new, current, DeleteRange(current.key))
        return await self._commit(new, current, Put(current.key, new.encode()))

    async def _replace_status(self, cls: type[R], raw: Raw, current: KeyValue, note: str | None = None) -> R:
        """Store the object's status in the current one. note: an annotation that is written with it."""
        version = str(current.mod_revision)
        new = cls.decode(current.value, version)
        uid, found = raw["metadata"].get("uid"), new.raw["metadata"].get("uid")
        if uid and uid != found:
            raise _another(cls, new.name, found, uid)
        _copy_field(new.raw, raw, "status")
        if note is not None:
            _copy_annotation(new.raw["metadata"], raw["metadata"], note)
        if cls.STATUS_WRITES_ANNOTATIONS:
            _copy_field(new.raw["metadata"], raw["metadata"], "annotations")
            check_metadata(cls.TYPE, new.raw["metadata"])
        new.check_status()
        if cls.has_immutable_fields():
            new.check_change(cls.decode(current.value, version))
        if cls.HUB is not None:
            old, hub = cls.decode(current.value, version), cls.HUB.decode(current.value, version)
            changed = carried(cls, old.raw, new.raw, hub.raw)
            return _as(cls, await self._replace_status(cls.HUB, changed, current, annotation_of(cls)))
        if self._admission:
            await self._admit_status(new, cls.decode(current.value, version))
        if new.encode() == current.value:
            return new
        self._record(new, "Update", "status")
        return await self._commit(new, current, Put(current.key, new.encode()))

    async def _commit(self, new: R, current: KeyValue, op: Op) -> R:
        done, revision, _present = await self._txn(current.key, current.mod_revision, op)
        if not done:
            raise Conflict(f'{new.TYPE.qualified} "{new.name}" was changed by another writer just now, read it again')
        new.raw["metadata"]["resourceVersion"] = revision
        return new

    async def _admit(self, cls: type[R], raw: Raw, old: R | None, subresource: str | None = None) -> R:
        """The object with its defaults, if it is a valid one and no hook refuses it."""
        new = _defaulted(cls, raw)
        request = None
        operation: Literal["create", "update"] = "create" if old is None else "update"
        plugins = self._plugins(cls.TYPE, operation)
        for plugin in plugins:
            await plugin.admit(AdmissionRequest(operation, new, old, subresource, self._field_manager))
        if self._admission:
            seen = None if old is None else old.__deepcopy__({})
            request = AdmissionRequest(operation, new, seen, subresource, self._field_manager)
            servers = dict(raw["metadata"])
            if await self._admission.run_mutating(request):
                _keep_server_fields(cls, raw["metadata"], servers)
                if cls.TYPE.status:
                    _copy_field(raw, {} if old is None else old.raw, "status")
                new = _defaulted(cls, raw)
        _check_update(new, old)
        if request is not None and self._admission:
            await self._admission.run_validating(request)
        for plugin in plugins:
            await plugin.validate(AdmissionRequest(operation, new, old, subresource, self._field_manager))
        return new

    def _plugins(self, kind: ResourceType, operation: Literal["create", "update", "delete"]) -> Sequence[Plugin]:
        return () if self._admission is None else self._admission.plugins(kind, operation)

    async def _admit_status(self, new: R, old: R) -> None:
        assert self._admission is not None
        kept = patches.copy({field: value for field, value in new.raw.items() if field != "status"})
        request = AdmissionRequest("update", new, old, "status", self._field_manager)
        if await self._admission.run_mutating(request):
            status = new.raw.get("status")
            new.raw.clear()
            new.raw.update(kept)
            _copy_field(new.raw, {"status": status}, "status")
            new.check_status()
        await self._admission.run_validating(request)

    def _record(self, obj: Resource, operation: Operation, subresource: str | None = None) -> None:
        """Note who writes."""
        metadata = obj.raw["metadata"]
        if self._field_manager is not None or "managedFields" in metadata:
            time = format_time(self._now().replace(microsecond=0))
            record(metadata, self._field_manager, operation, obj.TYPE.api_version, time, subresource)

    def _mark_deleted(self, obj: Resource, propagation: Propagation | None, requested: int | None) -> int:
        """Note in the object that it is to go; the seconds it has left to do so."""
        metadata = obj.raw["metadata"]
        if propagation is not None:
            chosen = {"orphan": [ORPHAN], "foreground": [FOREGROUND], "background": []}[propagation]
            kept = [each for each in metadata.get("finalizers") or [] if each not in (ORPHAN, FOREGROUND)]
            metadata["finalizers"] = [*kept, *chosen]
            if not metadata["finalizers"]:
                del metadata["finalizers"]
        grace = obj.deletion_grace(requested)
        if metadata.get("deletionTimestamp"):
            granted = metadata.get("deletionGracePeriodSeconds") or 0
            if requested is None or grace >= granted:
                return int(granted)
            # It can only become shorter, counted from the first request.
            due = obj.metadata.deletion_timestamp
            assert due is not None
            metadata["deletionTimestamp"] = format_time(due - timedelta(seconds=granted - grace))
        else:
            metadata["deletionTimestamp"] = format_time(self._now().replace(microsecond=0) + timedelta(seconds=grace))
            metadata["generation"] = metadata.get("generation", 0) + 1
            obj.mark_deleted()
        metadata["deletionGracePeriodSeconds"] = grace
        return grace

    def _generate(self, base: str) -> str:
        return base[:_MAX_BASE] + "".join(self._rng.choices(_SUFFIX, k=_SUFFIX_LENGTH))


def _own(obj: Resource, *fields: str) -> Raw:
    """A copy of the object's JSON, or of some fields. Decoding is cheaper than copying, and finds what is not JSON.

    Raises `Invalid` if what would be written is not what was stored but what a cache's transform left of it.
    """
    if TRANSFORMED in obj.raw:
        _check_whole(obj, fields)
    try:
        data = patches.encode({field: obj.raw.get(field) for field in fields} if fields else obj.raw)
        raw = cast(Raw, _decode(data))
    except (TypeError, ValueError, OverflowError) as error:
        raise Invalid("", f"not JSON: {error}") from error
    if b":null" in data:
        raw = patches.without_nulls(raw)
    raw.setdefault("metadata", {})
    if not isinstance(raw["metadata"], dict):
        raise Invalid("metadata", f"expected ObjectMeta, got {show(raw['metadata'])}")
    kind, metadata = obj.TYPE, raw["metadata"]
    if kind.namespaced:
        metadata["namespace"] = metadata.get("namespace") or DEFAULT_NAMESPACE
    elif metadata.get("namespace"):
        raise Invalid("metadata.namespace", f"{kind.qualified} have none, got {show(metadata['namespace'])}")
    return raw


def _check_whole(obj: Resource, fields: tuple[str, ...]) -> None:
    # The metadata of a status only says which object is meant, unless the kind has annotations written with it.
    written = {field for field in fields if field != "metadata" or obj.STATUS_WRITES_ANNOTATIONS}
    lost = [field for field in obj.raw[TRANSFORMED] if not fields or field in written]
    if lost:
        raise Invalid(
            "",
            f"this {obj.TYPE.kind} is from a cache whose transform changed its {', '.join(lost)}, which would be lost: "
            "read it from the store before writing it, or patch it",
        )


def _defaulted(cls: type[R], raw: Raw) -> R:
    """The object with its defaults, if everything in it is of the right type."""
    for field, expected in (("apiVersion", cls.TYPE.api_version), ("kind", cls.TYPE.kind)):
        if raw.get(field) != expected:
            raise Invalid(field, f"expected {expected}, got {show(raw.get(field))}")
    obj = cls._over(raw)
    obj.check()
    obj.default()
    return obj


def _check_update(new: R, old: R | None) -> None:
    """Raise `Invalid` for what the kind and its metadata must not be, or must not become."""
    if old is not None:
        new.prepare_update(old)
    new.validate()
    check_metadata(new.TYPE, new.raw["metadata"])
    if old is not None:
        new.check_change(old)
        new.validate_update(old)


def _as(cls: type[R], hub: Resource) -> R:
    """A stored object in another version."""
    return cls._over(from_hub(cls, hub.raw))


def _keep_server_fields(cls: type[Resource], metadata: Raw, before: Raw) -> None:
    """Fields that a client may leave out or repeat, but not change; its idea of the generation does not count."""
    for field in ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
        given, kept = metadata.get(field), before.get(field)
        if given is not None and given != kept:
            if field == "uid":
                raise _another(cls, before.get("name", ""), kept, given)
            raise Invalid(f"metadata.{field}", f"is immutable: expected {show(kept)}, got {show(given)}")
        _copy_field(metadata, before, field)
    for field in ("generation", "managedFields"):
        _copy_field(metadata, before, field)


def _copy_field(target: Raw, source: Raw, field: str) -> None:
    value = source.get(field)
    if value is not None:
        target[field] = value
    else:
        target.pop(field, None)


def _copy_annotation(target: Raw, source: Raw, name: str) -> None:
    annotations = dict(target.get("annotations") or {})
    _copy_field(annotations, source.get("annotations") or {}, name)
    _copy_field(target, {"annotations": annotations or None}, "annotations")


def _generation_changes(cls: type[Resource], before: Raw, after: Raw) -> bool:
    for field in before.keys() | after.keys():
        if field == "metadata" or (field == "status" and cls.TYPE.status):
            continue
        if not patches.semantic_equal(before.get(field), after.get(field)):
            return True
    if cls.GENERATION_COUNTS_ANNOTATIONS:
        return not patches.semantic_equal(before["metadata"].get("annotations"), after["metadata"].get("annotations"))
    return False


def _merge_manifest(cls: type[Resource], current: Raw, new: Raw) -> Raw:
    """The stored object as the manifest wants it."""
    try:
        last = _decode(current["metadata"]["annotations"][LAST_APPLIED])
        if last.get("apiVersion") != cls.TYPE.api_version:
            last = {}  # a manifest of another version says nothing about this one's fields
    except (KeyError, TypeError, AttributeError, msgspec.DecodeError):
        last = {}  # never applied, or the note about it is damaged: nothing is known to be ours to remove
    merged = patches.without_nulls(patches.three_way(last, current, new))
    # Owners are told apart by uid; an owner that was made anew bears the same name.
    wanted = {each["uid"]: each for each in new["metadata"].get("ownerReferences") or []}
    gone = {each["uid"] for each in (last.get("metadata") or {}).get("ownerReferences") or []} - wanted.keys()
    owners = [each for each in current["metadata"].get("ownerReferences") or [] if each["uid"] not in gone]
    owners = [wanted.pop(each["uid"], each) for each in owners] + list(wanted.values())
    if owners:
        merged["metadata"]["ownerReferences"] = patches.copy(owners)
    else:
        merged["metadata"].pop("ownerReferences", None)
    managing = [f"{each['kind']} {each['name']} ({each['uid']})" for each in owners if each.get("controller")]
    if len(managing) > 1:
        raise Conflict(f'{cls.TYPE.qualified} "{current["metadata"]["name"]}" is managed by {managing[0]} already')
    return cast(Raw, merged)


def _stale(cls: type[Resource], name: str, found: str, given: str) -> Conflict:
    return Conflict(
        f'{cls.TYPE.qualified} "{name}" was changed: it is at resourceVersion {found}, not {given}; read it again'
    )


def _another(cls: type[Resource], name: str, found: object, given: object) -> Conflict:
    return Conflict(f'{cls.TYPE.qualified} "{name}" is another object of that name: its uid is {found}, not {given}')
