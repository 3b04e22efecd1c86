"""The objects of an informer in memory: encoded, by key, with indexes.

Nothing a reader gets can change what the cache holds: objects are kept as the bytes the store gave, and whoever wants
one decodes a copy of its own, which costs less than copying a decoded one.

A cache may keep fewer objects than the store sends (a label selector) and less of each (a transform). The selector
looks at what the store sent, indexers and handlers at what the transform made of it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

import msgspec
import structlog

from informer import fields
from informer.listwatch import Item, Removed, WatchEvent, is_newer
from informer.selectors import Selector, SelectorLike
from informer.transforms import Transform, transform

_log = structlog.get_logger(__name__)


class OwnerRef(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """An entry of `metadata.ownerReferences`, as far as an index or an event handler needs it."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class Metadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """The few fields of an object's metadata that are read of every object. The rest is decoded by who wants it.

    Labels and owner references stay encoded (views of the object's bytes) and are decoded at each access: small in
    memory, and each reader has its own.
    """

    uid: str | None = None
    generation: int | None = None
    deletion_timestamp: str | None = None
    raw_labels: msgspec.Raw = msgspec.field(name="labels", default=msgspec.Raw())
    raw_owner_references: msgspec.Raw = msgspec.field(name="ownerReferences", default=msgspec.Raw())

    @property
    def labels(self) -> dict[str, str]:
        """The labels, in a new dict; none when they are not a mapping of strings."""
        raw = self.raw_labels
        try:
            return _LABELS.decode(raw) or {} if raw else {}
        except msgspec.MsgspecError:
            return {}

    @property
    def owner_references(self) -> list[OwnerRef]:
        """The owner references, in a new list; none when they are malformed."""
        raw = self.raw_owner_references
        try:
            return _OWNERS.decode(raw) or [] if raw else []
        except msgspec.MsgspecError:
            return []


class _Object(msgspec.Struct, gc=False):
    metadata: Metadata | None = None


_OBJECT: Final = msgspec.json.Decoder(_Object)
_LABELS: Final = msgspec.json.Decoder(dict[str, str] | None)
_OWNERS: Final = msgspec.json.Decoder(list[OwnerRef] | None)
_ANY: Final = msgspec.json.Decoder()
_NO_METADATA: Final = Metadata()


class Stored(msgspec.Struct, frozen=True, gc=False):
    """One object as the cache holds it: immutable, so it can be kept and handed on. `data` is its JSON.

    `meta` is empty when `data` is not a JSON object: the informer goes on, and who decodes the object gets the error.
    """

    key: str
    data: bytes
    revision: str
    meta: Metadata

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def namespace(self) -> str:
        """Empty for an object without one."""
        return self.key.rpartition("/")[0]


class Change(msgspec.Struct, frozen=True, gc=False):
    """What became of one object: `old` None = added, `new` None = deleted, both = updated.

    final_state_known: False for a delete that a relist found: `old` is the last state seen, and may not be the last
    there was. initial: an add that tells a handler what was there before it.
    """

    old: Stored | None
    new: Stored | None
    final_state_known: bool = True
    initial: bool = False

    @property
    def key(self) -> str:
        """The object's key."""
        stored = self.new or self.old
        assert stored is not None
        return stored.key


Indexer: TypeAlias = Callable[[Stored], Iterable[str]]


def by_namespace(stored: Stored) -> tuple[str, ...]:
    """The object's namespace; "" for an object without one."""
    return (stored.key.rpartition("/")[0],)


def by_owner(stored: Stored) -> Sequence[str]:
    """The uid of each owner."""
    raw = stored.meta.raw_owner_references
    return _uids(bytes(raw)) if raw else ()


@lru_cache(maxsize=1024)  # siblings have the same owners, and an update seldom changes them
def _uids(raw: bytes) -> tuple[str, ...]:
    try:
        return tuple(owner.uid for owner in _OWNERS.decode(raw) or ())
    except msgspec.MsgspecError:
        return ()


def by_label(label: str) -> Indexer:
    """An indexer of the values of one label."""

    def value(stored: Stored) -> tuple[str, ...]:
        found = stored.meta.labels.get(label)
        return () if found is None else (found,)

    return value


def by_field(path: str) -> Indexer:
    """An indexer of the values of one field: `by_field("spec.nodeName")`. It decodes every object that changes.

    Strings count as they are, numbers and booleans as JSON writes them; of a list each element. Raises ValueError for a
    path that is none.
    """
    parts = fields.parse(path)

    def values(stored: Stored) -> Sequence[str]:
        try:
            raw = _ANY.decode(stored.data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return ()
        found: dict[str, None] = {}
        for each in fields.values(raw, parts):
            if isinstance(each, str | int | float):
                found[each if isinstance(each, str) else msgspec.json.encode(each).decode()] = None
        return [*found]

    return values


DEFAULT_INDEXERS: Final[Mapping[str, Indexer]] = {"namespace": by_namespace, "owner": by_owner}


class InformerStopped(RuntimeError):
    """What was waited for will not come any more: the informer has stopped."""


class CacheStatistics(msgspec.Struct, frozen=True):
    """How large and how fresh a cache is.

    encoded_bytes: of all objects. revision: up to which the cache is complete. waiting: readers that wait for a newer
    one now; waited, wait_seconds: readers that had to, and for how long in all. indexes: number of values of each
    index. undecodable: objects seen whose metadata made no sense. index_errors, transform_errors: failures of these
    functions.
    """

    objects: int
    encoded_bytes: int
    revision: str
    waiting: int
    waited: int
    wait_seconds: float
    indexes: dict[str, int]
    undecodable: int
    index_errors: int
    transform_errors: int


class _Index:
    """value -> keys of the objects that have it. Keys are in insertion order, so that a run can be repeated."""

    __slots__ = ("_fixed", "errors", "function", "keys", "name")

    def __init__(self, name: str, function: Indexer) -> None:
        self.name = name
        self.function = function
        self.keys: dict[str, dict[str, None]] = {}
        self.errors = 0
        self._fixed = function is by_namespace  # no update under a key can change it

    def values(self, stored: Stored) -> Iterable[str]:
        """What the function says; nothing if it fails."""
        try:
            found = self.function(stored)
            if isinstance(found, str):
                raise TypeError("an indexer gives several values, not one str")
            values = found if type(found) is tuple else tuple(found)
            for value in values:
                if not isinstance(value, str):
                    raise TypeError(f"an indexer gives strings, not {value!r}")
            return values
        except Exception:  # noqa: BLE001 (a user's function; whatever it raises is logged and counted)
            self.errors += 1
            _log.exception("indexer_failed", effect="the object is not in this index", index=self.name, key=stored.key)
            return ()

    def add(self, key: str, values: Iterable[str]) -> None:
        keys = self.keys
        for value in values:
            found = keys.get(value)
            if found is None:
                keys[value] = {key: None}
            else:
                found[key] = None

    def remove(self, key: str, values: Iterable[str]) -> None:
        keys = self.keys
        for value in values:
            found = keys.get(value)
            if found is not None:
                found.pop(key, None)
                if not found:
                    del keys[value]

    def update(self, old: Stored, new: Stored) -> None:
        if self._fixed:
            return
        before, after = self.values(old), self.values(new)
        if before != after:
            self.remove(old.key, before)
            self.add(new.key, after)


def _is_another(old: Stored, new: Stored) -> bool:
    """Whether the two are known to be different objects under one key: one was deleted and the other made since."""
    return old.meta.uid != new.meta.uid and old.meta.uid is not None and new.meta.uid is not None


class Replacement:
    """What a cache is to hold instead of what it holds, made piece by piece: see `Cache.replacement`.

    All that costs time for each object is done in `add`, next to what readers see. It is of use as long as nothing else
    changes the cache.
    """

    def __init__(self, cache: Cache, indexes: Iterable[_Index]) -> None:
        self._cache = cache
        self._items: dict[str, Stored] = {}
        self._indexes = {index.name: _Index(index.name, index.function) for index in indexes}
        self._encoded_bytes = 0
        self._changes: list[Change] = []

    def add(self, items: Iterable[Item]) -> None:
        """Take a part of what there is. Of one key that comes twice the first counts. O(items)."""
        gathered, known, make, changes = self._items, self._cache._items, self._cache._stored, self._changes
        for item in items:
            key = item.key
            if key in gathered:
                continue
            old = known.get(key)
            new: Stored | None
            if old is not None and old.revision == item.revision and old.data == item.data:
                new = old
            else:
                new = make(item)
                if new is None:
                    continue
                if old is not None and old.revision == new.revision and old.data == new.data:
                    new = old  # as it was, transformed
            gathered[key] = new
            self._encoded_bytes += len(new.data)
            for index in self._indexes.values():
                index.add(key, index.values(new))
            if new is not old:
                changes.append(Change(None if old is None or _is_another(old, new) else old, new))

    def _index(self, name: str, function: Indexer) -> None:
        index = self._indexes[name] = _Index(name, function)
        for stored in self._items.values():
            index.add(stored.key, index.values(stored))

    def finish(self, revision: str) -> Sequence[Change]:
        """Make the cache hold just what was added, which is all there is at `revision`: see `Cache.replace`."""
        return self._cache._swap(self, revision)


class Cache:
    """Objects by key. A reflector fills it through `replacement` and `apply`; anyone reads it.

    indexers: functions from an object to the values it is found under; they must depend on the object alone.
    selector: only objects with such labels are kept. One that begins to match is an add, one that ceases to a delete.
    transform: what is kept of an object. If it fails, that is logged and counted, and the whole object is kept.
    on_wait: called when a reader begins to wait for a revision, so that the cache may be moved on to it.

    Invariants (`_check`): every index holds exactly the keys of the objects whose function gives that value, and no
    value without keys; the revision never goes back.
    """

    def __init__(
        self,
        indexers: Mapping[str, Indexer] = DEFAULT_INDEXERS,
        *,
        selector: SelectorLike = None,
        transform: Transform | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        wanted = None if selector is None else Selector.of(selector)
        self._selector = None if wanted is None or wanted.empty else wanted
        self._transform = transform
        self._transform_errors = 0
        self._items: dict[str, Stored] = {}
        self._indexes: dict[str, _Index] = {name: _Index(name, function) for name, function in indexers.items()}
        self._revision = ""
        self._encoded_bytes = 0
        self._on_wait = on_wait
        self._waiters: dict[asyncio.Future[None], tuple[str, float]] = {}  # what for, since when; the oldest first
        self._waited = 0
        self._wait_seconds = 0.0
        self._undecodable = 0
        self._closed = False
        self._replacing: weakref.ref[Replacement] | None = None  # the one under way; whoever makes it holds it

    # ---- reading

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def get(self, key: str) -> Stored | None:
        """The object, or None. O(1)."""
        return self._items.get(key)

    def list(
        self,
        namespace: str | None = None,
        *,
        selector: SelectorLike = None,
        index: tuple[str, str] | None = None,
        where: Callable[[Stored], bool] | None = None,
    ) -> Sequence[Stored]:
        """The objects that meet every condition given, as they are now: all of them if none is.

        selector: of labels. index: (name, value). where: any function of the object. O(objects that the index or the
        namespace has), else O(objects). Raises KeyError if there is no such index, Invalid for a malformed selector.
        """
        if index is not None:
            found = self.by_index(*index)
            if namespace is not None:
                found = [stored for stored in found if stored.namespace == namespace]
        elif namespace is not None:
            found = self._of_namespace(namespace)
        else:
            found = [*self._items.values()]
        if selector is not None:
            wanted = Selector.of(selector)
            if not wanted.empty:
                found = [stored for stored in found if wanted.matches(stored.meta.labels)]
        return found if where is None else [stored for stored in found if where(stored)]

    def _of_namespace(self, namespace: str) -> Sequence[Stored]:
        index = self._indexes.get("namespace")
        if index is not None and index.function is by_namespace:
            return self.by_index("namespace", namespace)
        return [stored for stored in self._items.values() if stored.namespace == namespace]

    def by_index(self, name: str, value: str) -> Sequence[Stored]:
        """The objects found under `value`; O(their number). Raises KeyError if there is no index of that name."""
        items = self._items
        # A function that failed when its object went has left the key behind.
        return [items[key] for key in self._indexes[name].keys.get(value, ()) if key in items]

    def index_values(self, name: str) -> Sequence[str]:
        """The values that some object is found under."""
        return [*self._indexes[name].keys]

    def add_indexer(self, name: str, function: Indexer) -> None:
        """Index by one more function, at any time; what is there is indexed at once. O(objects).

        Raises ValueError if the name is taken by another function.
        """
        known = self._indexes.get(name)
        if known is not None:
            if known.function is function:
                return
            raise ValueError(f"there is an index {name!r} of another function already")
        index = _Index(name, function)
        for stored in self._items.values():
            index.add(stored.key, index.values(stored))
        self._indexes[name] = index
        if self._replacing is not None and (replacement := self._replacing()) is not None:
            replacement._index(name, function)

    @property
    def revision(self) -> str:
        """The store's revision up to which the cache is complete; "" before the first list."""
        return self._revision

    async def wait_for(self, revision: str) -> None:
        """Wait until the cache has got to `revision`, as after a write of one's own.

        Raises `InformerStopped` if it will not. Sets no limit in time: use `asyncio.timeout`.
        """
        if not is_newer(revision, self._revision):
            return
        if self._closed:
            raise InformerStopped(f"the cache stays at revision {self._revision or 'none'}, {revision} was asked for")
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters[waiter] = revision, began
        if self._on_wait is not None:
            self._on_wait()
        try:
            await waiter
        finally:
            self._waiters.pop(waiter, None)
            self._waited += 1
            self._wait_seconds += loop.time() - began

    @property
    def waited_for_since(self) -> float | None:
        """Since when, on the loop's clock, the reader waits that has waited longest; None if nobody does."""
        return next((since for waiter, (_, since) in self._waiters.items() if not waiter.done()), None)

    def statistics(self) -> CacheStatistics:
        """How large and how fresh it is."""
        return CacheStatistics(
            objects=len(self._items),
            encoded_bytes=self._encoded_bytes,
            revision=self._revision,
            waiting=len(self._waiters),
            waited=self._waited,
            wait_seconds=self._wait_seconds,
            indexes={name: len(index.keys) for name, index in self._indexes.items()},
            undecodable=self._undecodable,
            index_errors=sum(index.errors for index in self._indexes.values()),
            transform_errors=self._transform_errors,
        )

    # ---- filling

    def apply(self, events: Iterable[WatchEvent]) -> Sequence[Change]:
        """Take events of a watch, and tell what they changed. What is not newer than what is held changes nothing."""
        self._replacing = None
        items = self._items
        changes: list[Change] = []
        revision = self._revision
        for event in events:
            if type(event) is Item:
                key = event.key
                old = items.get(key)
                if old is not None and not is_newer(event.revision, old.revision):
                    continue
                new = self._stored(event)
                if old is not None and (new is None or _is_another(old, new)):
                    self._remove(old)
                    # That another object has its name tells of a delete that was not seen itself.
                    changes.append(Change(old, None, final_state_known=new is None))
                    old = None
                if new is not None:
                    self._put(old, new)
                    changes.append(Change(old, new))
            elif type(event) is Removed:
                old = items.get(event.key)
                if old is not None and is_newer(event.revision, old.revision):
                    self._remove(old)
                    changes.append(Change(old, None))
            revision = event.revision
        self._move_to(revision)
        return changes

    def replace(self, items: Iterable[Item], revision: str) -> Sequence[Change]:
        """Hold just `items`, which are all there is at `revision`, and tell the smallest set of changes.

        Deletes come first and bear the last state seen. An object that was deleted and made anew meanwhile (its uid
        says so) is a delete and an add. Readers see all of it or, until it returns, nothing of it. An object is
        unchanged if its revision and its data are. Where there are many, `replacement` takes them in parts.
        """
        replacement = self.replacement()
        replacement.add(items)
        return replacement.finish(revision)

    def replacement(self) -> Replacement:
        """Begin to replace what it holds: `add` the parts as they come, then `finish`. Not `apply` in between.

        Beginning another one gives it up. `finish` raises RuntimeError if it is of use no more.
        """
        replacement = Replacement(self, self._indexes.values())
        self._replacing = weakref.ref(replacement)
        return replacement

    def _swap(self, by: Replacement, revision: str) -> Sequence[Change]:
        if self._replacing is None or self._replacing() is not by:
            raise RuntimeError("the cache has been changed since this replacement was begun")
        self._replacing = None
        new = by._items
        deletes = [
            Change(old, None, final_state_known=False)
            for key, old in self._items.items()
            if (now := new.get(key)) is not old and (now is None or _is_another(old, now))
        ]
        for name, index in by._indexes.items():
            index.errors += self._indexes[name].errors
        self._items, self._indexes, self._encoded_bytes = new, by._indexes, by._encoded_bytes
        self._move_to(revision)
        return deletes + by._changes

    def close(self) -> None:
        """Nothing will fill it any more: whoever waits for a revision, now or later, gets `InformerStopped`."""
        self._closed = True
        for waiter, (revision, _) in self._waiters.items():
            if not waiter.done():
                waiter.set_exception(
                    InformerStopped(f"the cache stays at revision {self._revision or 'none'}, {revision} was asked for")
                )

    def _stored(self, item: Item) -> Stored | None:
        """What is kept of an item; None if the selector does not want it."""
        data = item.data
        meta = self._metadata(data)
        if self._selector is not None and not self._selector.matches(meta.labels):
            return None
        if self._transform is not None:
            try:
                data = transform(data, self._transform)
            except Exception:  # noqa: BLE001 (a user's function; whatever it raises is logged and counted)
                self._transform_errors += 1
                _log.exception("transform_failed", effect="the object is kept as it is stored", key=item.key)
            else:
                meta = self._metadata(data)  # a view of what is kept; the other one would keep the rest alive
        return Stored(item.key, data, item.revision, meta)

    def _metadata(self, data: bytes) -> Metadata:
        try:
            return _OBJECT.decode(data).metadata or _NO_METADATA
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._undecodable += 1
            return _NO_METADATA

    def _put(self, old: Stored | None, new: Stored) -> None:
        self._items[new.key] = new
        if old is None:
            self._encoded_bytes += len(new.data)
            for index in self._indexes.values():
                index.add(new.key, index.values(new))
        else:
            self._encoded_bytes += len(new.data) - len(old.data)
            for index in self._indexes.values():
                index.update(old, new)

    def _remove(self, old: Stored) -> None:
        del self._items[old.key]
        self._encoded_bytes -= len(old.data)
        for index in self._indexes.values():
            index.remove(old.key, index.values(old))

    def _move_to(self, revision: str) -> None:
        if not is_newer(revision, self._revision):
            return
        self._revision = revision
        if self._waiters:
            for waiter, (wanted, _) in self._waiters.items():
                if not waiter.done() and not is_newer(wanted, revision):
                    waiter.set_result(None)

    def _check(self) -> None:
        """Raise AssertionError if an invariant does not hold. O(objects x indexes)."""
        assert all(key == stored.key for key, stored in self._items.items())
        assert self._encoded_bytes == sum(len(stored.data) for stored in self._items.values())
        for index in self._indexes.values():
            expected: dict[str, set[str]] = {}
            for stored in self._items.values():
                for value in index.values(stored):
                    expected.setdefault(value, set()).add(stored.key)
            assert {value: set(keys) for value, keys in index.keys.items()} == expected, index.name
        for stored in self._items.values():
            assert not is_newer(stored.revision, self._revision), stored.key
        assert all(waiter.done() or is_newer(wanted, self._revision) for waiter, (wanted, _) in self._waiters.items())
