"""The garbage collector: what belongs to an object goes with it.

A graph of owners and dependents is kept from the informers of all kinds; nothing is deleted on its word alone. Every
object that may be garbage, and every owner that seems to be gone, is looked up in the store first.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

import msgspec
import structlog

from controllers.catching_up import catch_up_to
from controllers.core.events import EventBroadcaster, Reference
from controllers.manager import Manager
from controllers.workqueue import WorkQueue
from informer.cache import OwnerRef, Stored
from informer.client import ObjectClient, Propagation
from informer.crd import CustomResourceDefinition, resource_from_crd
from informer.errors import ApiError, Conflict, Invalid, NotFound, UnknownKind, Unreachable
from informer.metadata import FOREGROUND, ORPHAN
from informer.resources import SCHEME, Resource, ResourceType
from informer.shared import Handler, Registration

WORKERS = 20  # kube-controller-manager's --concurrent-gc-syncs
ABSENT_OWNERS = 500  # its cache of owners known to be gone
CATCH_UP = 10.0  # seconds for the caches to show what there was when a deletion was asked for

log = structlog.get_logger("controllers")


class Identity(msgspec.Struct, frozen=True):
    """Which object: kind, place and uid."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


class Node(msgspec.Struct):
    """An object in the graph.

    virtual: known only because another one names it as its owner. deleting_dependents: in foreground deletion.
    """

    identity: Identity
    cls: type[Resource] | None
    owners: Sequence[OwnerRef] = ()
    blocking: frozenset[str] = frozenset()
    dependents: OrderedDict[str, None] = msgspec.field(default_factory=OrderedDict)
    blockers: int = 0  # how many of them have to go before it, if it goes in the foreground
    virtual: bool = False
    deleting: bool = False
    deleting_dependents: bool = False
    orphaning: bool = False


class _Owner(msgspec.Struct, rename="camel"):
    uid: str = ""
    block_owner_deletion: bool | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    finalizers: list[str] | None = None
    owner_references: list[_Owner] | None = None


class _Object(msgspec.Struct):
    metadata: _Metadata


_decode = msgspec.json.Decoder(_Object).decode


class Graph:
    """Owners and dependents by uid. A core without I/O: `observe` and `remove` say which uids have to be looked at.

    Invariant (`_check`): an object is among the dependents of exactly the owners it names, and every owner named is
    there, if only as a virtual node.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def observe(self, cls: type[Resource], stored: Stored) -> list[str]:
        """An object is there, or changed. Returns the uids that may have become garbage or can go on being deleted."""
        meta = stored.meta
        uid = meta.uid or ""
        found: list[str] = []
        node = self.nodes.get(uid)
        identity = _identity(cls, stored)
        if node is None:
            node = self.nodes[uid] = Node(identity, cls)
        elif node.virtual:
            # Dependents that named it wrongly, in another namespace or by another name, have to be looked at.
            if node.identity != identity:
                found += node.dependents
            node.virtual, node.identity, node.cls = False, identity, cls
        if meta.raw_owner_references or node.owners:
            found += self._own(node, stored)
        if meta.deletion_timestamp:
            found += self._note_deletion(node, stored)
        return found

    def _own(self, node: Node, stored: Stored) -> list[str]:
        owners = stored.meta.owner_references
        uid, found = node.identity.uid, []
        before = {owner.uid for owner in node.owners}
        now = {owner.uid for owner in owners}
        references = _decode(stored.data).metadata.owner_references or ()
        blocking = frozenset(owner.uid for owner in references if owner.block_owner_deletion)
        for gone in node.blocking - blocking:
            found += self._unblock(gone)
        for gone in before - now:
            former = self.nodes[gone]
            former.dependents.pop(uid, None)
            self._drop_virtual(former)
        for owner in owners:
            owner_node = self.nodes.get(owner.uid)
            if owner_node is None:
                namespace = stored.namespace
                identity = Identity(owner.api_version, owner.kind, namespace, owner.name, owner.uid)
                owner_node = self.nodes[owner.uid] = Node(identity, None, virtual=True)
                found.append(owner.uid)
            elif owner_node.virtual and owner.uid not in before:
                # It may have been looked for already, and those that named it then been dealt with.
                found.append(owner.uid)
            elif not owner_node.virtual and not _names(owner, owner_node.identity, stored.namespace):
                found.append(uid)
            owner_node.dependents[uid] = None
            if owner_node.deleting_dependents and owner.uid not in before:
                found.append(uid)
        for blocked in blocking - node.blocking:
            self.nodes[blocked].blockers += 1
        node.owners, node.blocking = owners, blocking
        return found

    def _unblock(self, uid: str) -> list[str]:
        """One dependent less has to go before that owner, which has to be looked at when it was the last."""
        owner_node = self.nodes[uid]
        owner_node.blockers -= 1
        return [uid] if owner_node.deleting_dependents and not owner_node.blockers else []

    def _note_deletion(self, node: Node, stored: Stored) -> list[str]:
        finalizers = _decode(stored.data).metadata.finalizers or ()
        node.deleting = True
        found = []
        node.orphaning = ORPHAN in finalizers
        if node.orphaning:
            found.append(node.identity.uid)
        foreground = FOREGROUND in finalizers
        if foreground and not node.deleting_dependents:
            found += node.dependents
        node.deleting_dependents = foreground
        if foreground:
            found.append(node.identity.uid)
        return found

    def remove(self, uid: str) -> list[str]:
        """An object is gone. Returns the uids that may have become garbage or can go on being deleted."""
        node = self.nodes.get(uid)
        if node is None:
            return []
        found: list[str] = []
        for blocked in node.blocking:
            found += self._unblock(blocked)
        for owner in node.owners:
            owner_node = self.nodes.get(owner.uid)
            if owner_node is not None:
                owner_node.dependents.pop(uid, None)
                self._drop_virtual(owner_node)
        del self.nodes[uid]
        found += node.dependents
        if node.dependents:
            # They still name it: it is what it was before it was ever seen, and their turn comes with them.
            node.virtual, node.owners, node.blocking, node.cls = True, (), frozenset(), None
            node.deleting = node.deleting_dependents = node.orphaning = False
            self.nodes[uid] = node
        return found

    def _drop_virtual(self, node: Node) -> None:
        if node.virtual and not node.dependents:
            self.nodes.pop(node.identity.uid, None)

    def dependents(self, node: Node) -> list[Node]:
        """The objects that name it as an owner."""
        return [self.nodes[uid] for uid in node.dependents]

    def _check(self) -> None:
        """Raise AssertionError if the invariant does not hold. O(objects + references)."""
        expected: dict[str, set[str]] = {uid: set() for uid in self.nodes}
        blockers: Counter[str] = Counter()
        for uid, node in self.nodes.items():
            for owner in node.owners:
                expected[owner.uid].add(uid)
            blockers.update(node.blocking)
        assert all(node.blockers == blockers[uid] for uid, node in self.nodes.items())
        assert expected == {uid: set(node.dependents) for uid, node in self.nodes.items()}
        assert all(node.dependents for node in self.nodes.values() if node.virtual)


class GarbageStatistics(msgspec.Struct, frozen=True):
    """objects: in the graph; waiting: to be looked at; deleted, orphaned: since the start; failed: tries to repeat."""

    objects: int
    waiting: int
    deleted: int
    orphaned: int
    failed: int


class GarbageCollector:
    """Deletes objects whose owners are all gone, and carries foreground and orphaning deletions out.

    kinds: whose objects can own or be owned, beside those of the manager. Kinds that are defined in the store, before
    or meanwhile, are watched as well.
    """

    def __init__(
        self,
        manager: Manager,
        events: EventBroadcaster,
        kinds: Iterable[type[Resource]],
        *,
        workers: int = WORKERS,
    ) -> None:
        self._manager = manager
        self._recorder = events.recorder("garbage-collector-controller")
        self._kinds = list(kinds)
        self._classes: dict[tuple[str, str], type[Resource]] = {}  # by kind and group, as they were asked for
        self._understood: dict[str, str] = {}  # definition -> the revision of it that was looked at
        self._registrations: dict[ResourceType, Registration] = {}
        self._workers = workers
        self._graph = Graph()
        self._queue: WorkQueue[str] = WorkQueue()
        self._absent: OrderedDict[Identity, None] = OrderedDict()
        self._deleted = self._orphaned = self._failed = 0

    @property
    def _client(self) -> ObjectClient:
        return self._manager.client.with_field_manager("garbage-collector")

    def register(self) -> None:
        """Add it to the manager."""
        self._manager.add_runnable(self.run, "garbage collector")

    def statistics(self) -> GarbageStatistics:
        """The collector at this moment."""
        return GarbageStatistics(
            objects=len(self._graph.nodes),
            waiting=len(self._queue),
            deleted=self._deleted,
            orphaned=self._orphaned,
            failed=self._failed,
        )

    async def run(self) -> None:
        """Collect until cancelled."""
        definitions = self._manager.informer(CustomResourceDefinition).add_handler(
            _Definitions(self), name="garbage collector"
        )
        try:
            await definitions.wait_synced()
            for cls in (*self._kinds, *self._manager.kinds):
                self._watch(cls)
            for registration in [*self._registrations.values()]:
                await registration.wait_synced()
            async with asyncio.TaskGroup() as group:
                for number in range(self._workers):
                    group.create_task(self._work(), name=f"garbage collector {number}")
        finally:
            self._queue.shut_down()
            for registration in (definitions, *self._registrations.values()):
                registration.remove()
            self._registrations.clear()

    def _watch(self, cls: type[Resource]) -> None:
        if cls.TYPE not in self._registrations:
            informer = self._manager.informer(cls)
            self._registrations[cls.TYPE] = informer.add_handler(_Objects(self, cls), name="garbage collector")

    # ---- what the informers tell -----------------------------------------------------------------------------------

    def defined(self, stored: Stored) -> None:
        """A kind is defined in the store: its objects can own and be owned, and those that name one can be judged."""
        if self._understood.get(stored.name) == stored.revision:
            return
        self._understood[stored.name] = stored.revision
        try:
            cls = resource_from_crd(CustomResourceDefinition.decode(stored.data, stored.revision))
        except Invalid as error:
            log.warning("definition_not_understood", name=stored.name, error=str(error))
            return
        if self._class_of_kind(cls.TYPE.kind, cls.TYPE.group) is None:
            self._kinds.append(cls)
            self._watch(cls)
            self._enqueue(uid for uid, node in self._graph.nodes.items() if node.virtual)

    def seen(self, cls: type[Resource], old: Stored | None, new: Stored) -> None:
        """An object is there, or changed."""
        if old is not None and _same(old, new):
            return
        self._enqueue(self._graph.observe(cls, new))

    def gone(self, stored: Stored) -> None:
        """An object is gone."""
        uid = stored.meta.uid or ""
        node = self._graph.nodes.get(uid)
        if node is not None and not node.virtual:
            if node.dependents:
                self._note_absent(node.identity)
            self._enqueue(self._graph.remove(uid))

    def _enqueue(self, uids: Iterable[str]) -> None:
        for uid in uids:
            self._queue.add(uid)

    # ---- work ------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while (uid := await self._queue.get()) is not None:
            try:
                await self._look(uid)
            except ApiError as error:
                self._failed += 1
                if not isinstance(error, Conflict):
                    log.info("garbage_not_handled", uid=uid, error=str(error))
                self._queue.add_rate_limited(uid)
            else:
                self._queue.forget(uid)
            finally:
                self._queue.done(uid)

    async def _look(self, uid: str) -> None:
        node = self._graph.nodes.get(uid)
        if node is None:
            return
        if node.orphaning:
            await self._orphan(node)
            return
        if node.deleting and not node.deleting_dependents:
            return
        cls = self._class_of(node.identity)
        if cls is None:
            # An owner of a kind that nobody here knows cannot be verified: its dependents stay.
            log.info("owner_of_unknown_kind", kind=node.identity.kind, api_version=node.identity.api_version)
            return
        live = await self._get(cls, node.identity)
        if live is None:
            self._note_absent(node.identity)
            found = self._graph.remove(uid) if not node.virtual else [*node.dependents]
            self._enqueue(found)
            return
        if node.virtual:
            return
        if node.deleting_dependents:
            await self._delete_dependents(node, live)
            return
        await self._attempt_to_delete(node, live)

    async def _attempt_to_delete(self, node: Node, live: Resource) -> None:
        """Delete it if no owner is left that it could belong to."""
        references = live.raw["metadata"].get("ownerReferences") or []
        if not references or live.deleting:
            return
        states = [await self._owner_state(live, raw) for raw in references]
        if "solid" in states:
            solid = [raw for raw, state in zip(references, states, strict=True) if state == "solid"]
            if len(solid) < len(references):
                live.raw["metadata"]["ownerReferences"] = solid
                await self._client.update(live)
            return
        policy: Propagation = "background"
        finalizers = live.metadata.finalizers
        if "waiting" in states and node.dependents:
            await self._unblock_cycle(node, live)
            policy = "foreground"
        elif ORPHAN in finalizers:
            policy = "orphan"
        elif FOREGROUND in finalizers:
            policy = "foreground"
        await self._delete(live, policy)

    async def _delete(self, live: Resource, policy: Propagation) -> None:
        try:
            await self._client.delete(
                type(live),
                live.name,
                live.namespace,
                uid=live.metadata.uid,
                resource_version=live.metadata.resource_version,
                propagation=policy,
            )
        except NotFound:
            return
        self._deleted += 1
        log.debug("garbage_deleted", kind=live.TYPE.kind, namespace=live.namespace, name=live.name)

    async def _owner_state(self, live: Resource, raw: dict[str, str]) -> str:
        """solid, dangling (gone, or another object by now) or waiting (for its dependents to be deleted)."""
        uid = raw["uid"]
        identity = Identity(raw["apiVersion"], raw["kind"], live.namespace or "", raw["name"], uid)
        cls = self._class_of(identity)
        if cls is None:
            return "solid"
        if cls.TYPE.namespaced and not live.TYPE.namespaced:
            # It cannot be looked up without a namespace, so nobody can say that it is gone.
            told = f"ownerRef [{cls.TYPE.api_version}/{cls.TYPE.kind}, name: {raw['name']}, uid: {uid}] is namespaced"
            self._recorder.event(Reference.of(live), "Warning", "OwnerRefInvalidNamespace", told)
            return "solid"
        place = _place(identity)
        if place in self._absent:
            self._absent.move_to_end(place)
            return self._dangling(live, identity)
        owner = await self._get(cls, identity)
        if owner is None:
            self._note_absent(identity)
            return self._dangling(live, identity)
        return "waiting" if owner.deleting and FOREGROUND in owner.metadata.finalizers else "solid"

    def _dangling(self, live: Resource, identity: Identity) -> str:
        """The owner is not where it is said to be; told if it is elsewhere."""
        node = self._graph.nodes.get(identity.uid)
        if node is not None and not node.virtual and node.identity.namespace not in ("", identity.namespace):
            told = (
                f"ownerRef [{identity.api_version}/{identity.kind}, namespace: {identity.namespace}, "
                f'name: {identity.name}, uid: {identity.uid}] does not exist in namespace "{identity.namespace}"'
            )
            self._recorder.event(Reference.of(live), "Warning", "OwnerRefInvalidNamespace", told)
        return "dangling"

    async def _unblock_cycle(self, node: Node, live: Resource) -> None:
        """If a dependent is in foreground deletion too, the two wait for each other: this one stops blocking."""
        if not any(dependent.deleting_dependents for dependent in self._graph.dependents(node)):
            return
        for raw in live.raw["metadata"]["ownerReferences"]:
            raw.pop("blockOwnerDeletion", None)
        updated = await self._client.update(live)
        live.raw["metadata"] = updated.raw["metadata"]

    async def _delete_dependents(self, node: Node, live: Resource) -> None:
        """Foreground deletion: the object goes when no dependent is left that blocks it.

        Whose turn it is to be deleted has been looked at when the deletion began, and is when they appear later.
        """
        if node.blockers:
            return
        for cls, stored in await self._dependents_of(live):
            dependent = await self._get(cls, _identity(cls, stored))
            references = [] if dependent is None else dependent.raw["metadata"].get("ownerReferences") or []
            if any(each["uid"] == node.identity.uid and each.get("blockOwnerDeletion") for each in references):
                return  # the graph will know of it in a moment, and of its end
        await self._remove_finalizer(live, FOREGROUND)

    async def _orphan(self, node: Node) -> None:
        """Let the dependents go free, then the object."""
        cls, uid = self._class_of(node.identity), node.identity.uid
        live = await self._get(cls, node.identity) if cls is not None else None
        # It may be meant to take its dependents with it by now.
        if live is None or not live.deleting or ORPHAN not in live.metadata.finalizers:
            return
        for child_cls, stored in await self._dependents_of(live):
            child = await self._get(child_cls, _identity(child_cls, stored))
            if child is None:
                continue
            references = child.raw["metadata"].get("ownerReferences") or []
            kept = [raw for raw in references if raw["uid"] != uid]
            if len(kept) != len(references):
                child.raw["metadata"]["ownerReferences"] = kept
                await self._client.update(child)
                self._orphaned += 1
        await self._remove_finalizer(live, ORPHAN)

    async def _dependents_of(self, owner: Resource) -> list[tuple[type[Resource], Stored]]:
        """The objects that name it as an owner or did so until lately: all that there were when its deletion was asked
        for. The graph may not know yet of one that was made shortly before. Raises `Unreachable`."""
        revision, uid = owner.metadata.resource_version or "", owner.metadata.uid or ""
        found: list[tuple[type[Resource], Stored]] = []
        try:
            async with asyncio.timeout(CATCH_UP):
                definitions = self._manager.informer(CustomResourceDefinition).cache
                await self._catch_up(CustomResourceDefinition, revision)
                for stored in definitions.list():
                    self.defined(stored)
                for cls in dict.fromkeys((*self._kinds, *self._manager.kinds)):
                    await self._catch_up(cls, revision)
                    cache = self._manager.informer(cls).cache
                    found += [(cls, stored) for stored in cache.by_index("owner", uid)]
        except TimeoutError:
            raise Unreachable(f"the caches do not come to revision {revision}, at which {owner!r} was seen") from None
        return found

    async def _catch_up(self, cls: type[Resource], revision: str) -> None:
        cache = self._manager.informer(cls).cache
        await catch_up_to(self._manager.store_client, cache, cls.TYPE.prefix(), revision)

    async def _remove_finalizer(self, live: Resource, finalizer: str) -> None:
        finalizers = live.metadata.finalizers
        if finalizer not in finalizers:
            return
        live.metadata.finalizers = [each for each in finalizers if each != finalizer]
        await self._client.update(live)

    # ---- look-ups --------------------------------------------------------------------------------------------------

    def _class_of(self, identity: Identity) -> type[Resource] | None:
        """The kind; of the same group in whatever version is known."""
        cls = self._class_of_kind(identity.kind, identity.api_version.rpartition("/")[0])
        if cls is not None:
            return cls
        try:
            return SCHEME.by_gvk(identity.api_version, identity.kind)
        except UnknownKind:
            return None

    def _class_of_kind(self, kind: str, group: str) -> type[Resource] | None:
        known = self._classes.get((kind, group))
        if known is None:
            watched = (*self._kinds, *self._manager.kinds)
            known = next((cls for cls in watched if cls.TYPE.kind == kind and cls.TYPE.group == group), None)
            if known is not None:
                self._classes[kind, group] = known
        return known

    async def _get(self, cls: type[Resource], identity: Identity) -> Resource | None:
        """The object in the store, if it is still the one of that uid."""
        namespace = identity.namespace if cls.TYPE.namespaced else None
        try:
            live = await self._client.get(cls, identity.name, namespace)
        except NotFound:
            return None
        return live if live.metadata.uid == identity.uid else None

    def _note_absent(self, identity: Identity) -> None:
        place = _place(identity)
        self._absent[place] = None
        self._absent.move_to_end(place)
        if len(self._absent) > ABSENT_OWNERS:
            self._absent.popitem(last=False)


class _Definitions(Handler):
    def __init__(self, collector: GarbageCollector) -> None:
        self._collector = collector

    def on_add(self, new: Stored, initial: bool) -> None:
        self._collector.defined(new)

    def on_update(self, old: Stored, new: Stored) -> None:
        self._collector.defined(new)


class _Objects(Handler):
    def __init__(self, collector: GarbageCollector, cls: type[Resource]) -> None:
        self._collector = collector
        self._cls = cls

    def on_add(self, new: Stored, initial: bool) -> None:
        self._collector.seen(self._cls, None, new)

    def on_update(self, old: Stored, new: Stored) -> None:
        self._collector.seen(self._cls, old, new)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._collector.gone(old)


def _same(old: Stored, new: Stored) -> bool:
    """Whether an update changed nothing that concerns ownership: nearly all are of a status."""
    before, after = old.meta, new.meta
    if after.deletion_timestamp:
        return False
    return before.uid == after.uid and before.raw_owner_references == after.raw_owner_references


def _identity(cls: type[Resource], stored: Stored) -> Identity:
    return Identity(cls.TYPE.api_version, cls.TYPE.kind, stored.namespace, stored.name, stored.meta.uid or "")


def _place(identity: Identity) -> Identity:
    """Where it was looked for, in whatever version: a reference that is wrong in some way says nothing of another."""
    return msgspec.structs.replace(identity, api_version=identity.api_version.rpartition("/")[0])


def _names(owner: OwnerRef, identity: Identity, namespace: str) -> bool:
    """Whether a reference names that object rightly, from within `namespace`."""
    group = owner.api_version.rpartition("/")[0]
    if (owner.kind, owner.name, group) != (identity.kind, identity.name, identity.api_version.rpartition("/")[0]):
        return False
    return not identity.namespace or identity.namespace == namespace
