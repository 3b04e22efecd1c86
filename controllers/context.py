"""What a reconciler is given: reads from the cache, writes to the store, and a log that knows which run it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import structlog

from controllers.core.events import EventType
from controllers.errors import RunCancelled, UndeclaredKind
from controllers.reconcile import Request
from informer import (
    Applied,
    Cache,
    CreatedOrUpdated,
    NotFound,
    Propagation,
    Resource,
    ResourceType,
    Stored,
    Unreachable,
    is_newer,
)
from informer.client import DEFAULT_NAMESPACE
from informer.selectors import SelectorLike

if TYPE_CHECKING:
    from controllers.controller import Controller

R = TypeVar("R", bound=Resource)
T = TypeVar("T")

PatchKind = Literal["merge", "json"]


class Context:
    """One run's view of the world. Valid until the run ends.

    Reads come from the cache and give each caller its own objects; they raise `UndeclaredKind` for a kind that the
    controller does not watch. Writes go to the store, and the key's next run waits until the caches show them; after a
    write that ended without an answer, until they show whether it took place.
    """

    __slots__ = ("_controller", "_log", "_run", "request", "undecided", "written")

    def __init__(self, controller: Controller, request: Request, run: int) -> None:
        self._controller = controller
        self._run = run
        self._log: Any = None
        self.request = request
        # kind -> the revision of this run's last write to it
        self.written: dict[ResourceType, str] = {}
        # kinds that it wrote to without learning whether that took place
        self.undecided: set[ResourceType] = set()

    @property
    def reconcile_id(self) -> str:
        """Tells this run from every other of this process."""
        return f"{self._controller.run_prefix}-{self._run}"

    @property
    def log(self) -> Any:
        """A structlog logger bound to the controller, the key and the run."""
        if self._log is None:
            self._log = structlog.get_logger("controllers").bind(
                controller=self._controller.name,
                namespace=self.request.namespace,
                name=self.request.name,
                reconcile_id=self.reconcile_id,
            )
        return self._log

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return self._controller.now()

    def event(self, about: Resource, kind: EventType, reason: str, message: str) -> None:
        """Tell something about an object, for `describe` and `get events`: kind is "Normal" or "Warning", the reason
        one CamelCase word. Never waits and never fails; repetitions are counted, too many are combined, then dropped.
        """
        self._controller.recorder.event(about, kind, reason, message)

    # ---- reads from the cache --------------------------------------------------------------------------------------

    def get(self, cls: type[R], name: Request | str, namespace: str | None = None) -> R | None:
        """The object as the cache has it, or None. A bare name is looked up in `namespace`, or the request's own.

        Raises Invalid if the stored object does not fit `cls`.
        """
        stored = self.get_stored(cls, name, namespace)
        return None if stored is None else cls.decode(stored.data, stored.revision)

    def list(
        self,
        cls: type[R],
        namespace: str | None = None,
        *,
        selector: SelectorLike | None = None,
        owner: Resource | None = None,
        index: tuple[str, str] | None = None,
    ) -> list[R]:
        """The objects that meet every condition given: of a namespace, with certain labels, owned by an object, found
        under a value of an index."""
        stored = self.stored(cls, namespace, selector=selector, owner=owner, index=index)
        return [cls.decode(item.data, item.revision) for item in stored]

    def get_stored(self, cls: type[Resource], name: Request | str, namespace: str | None = None) -> Stored | None:
        """As `get`, but encoded: for a reconciler that wants little of it, or wants it fast."""
        if isinstance(name, Request):
            namespace, name = name.namespace, name.name
        elif namespace is None:
            namespace = self.request.namespace
        return self._cache(cls, namespace).get(f"{namespace}/{name}" if cls.TYPE.namespaced else name)

    def stored(
        self,
        cls: type[Resource],
        namespace: str | None = None,
        *,
        selector: SelectorLike | None = None,
        owner: Resource | None = None,
        index: tuple[str, str] | None = None,
    ) -> Sequence[Stored]:
        """As `list`, but encoded. O(the smallest index that applies), O(all objects) with a selector alone."""
        cache = self._cache(cls, namespace)
        uid = None if owner is None else owner.metadata.uid or ""
        if uid is None or index is None:
            return self._list(cls, cache, namespace, selector, index if uid is None else ("owner", uid))
        found = self._list(cls, cache, namespace, selector, index)
        return [item for item in found if any(each.uid == uid for each in item.meta.owner_references)]

    def _list(
        self,
        cls: type[Resource],
        cache: Cache,
        namespace: str | None,
        selector: SelectorLike | None,
        index: tuple[str, str] | None,
    ) -> Sequence[Stored]:
        try:
            return cache.list(namespace, selector=selector, index=index)
        except KeyError:
            assert index is not None
            kind, name = cls.__name__, index[0]
            raise KeyError(
                f"{kind} has no index {name!r}: add it with manager.add_index({kind}, {name!r}, ...)"
            ) from None

    def _cache(self, cls: type[Resource], namespace: str | None = None) -> Cache:
        only = self._controller.namespace
        if namespace is not None and not self._watches(cls.TYPE, namespace):
            kind = cls.__name__
            raise UndeclaredKind(
                f"controller {self._controller.name!r} watches namespace {only!r} only, so {kind} objects of "
                f"{namespace!r} are not in the cache: read them from the store with `await ctx.fetch({kind}, ...)`"
            )
        try:
            return self._controller.caches[cls.TYPE]
        except KeyError:
            kind = cls.__name__
            raise UndeclaredKind(
                f"controller {self._controller.name!r} does not watch {kind}, so it is not in the cache: declare it "
                f"with reads=[{kind}] (owns=[{kind}] or watches={{{kind}: ...}} if its events concern it), "
                f"or read it from the store with `await ctx.fetch({kind}, ...)`"
            ) from None

    # ---- the store -------------------------------------------------------------------------------------------------

    async def fetch(self, cls: type[R], name: Request | str, namespace: str | None = None) -> R | None:
        """The object as the store has it now, or None."""
        name, namespace = self._address(cls, name, namespace)
        try:
            return await self._controller.client.get(cls, name, namespace=namespace)
        except NotFound:
            return None

    async def create(self, obj: R) -> R:
        """Store a new object; raises AlreadyExists."""
        return self._wrote(await self._write(obj.TYPE, self._controller.client.create(obj)))

    async def update(self, obj: R) -> R:
        """Store all but the status; raises Conflict if the object changed since it was read."""
        return self._wrote(await self._write(obj.TYPE, self._controller.client.update(obj)))

    async def create_or_update(self, obj: R, mutate: Callable[[R], object]) -> CreatedOrUpdated[R]:
        """Let `mutate` make the stored object what it should be, or `obj` if there is none; store it if it changed.

        mutate: sets fields of the object it is given, in memory; never its name. Raises Conflict if another writer is
        faster.
        """
        done = await self._write(obj.TYPE, self._controller.client.create_or_update(obj, mutate))
        self._wrote(done.object)
        return done

    async def update_status(self, obj: R) -> R:
        """Store the status alone; raises Conflict if the object changed since it was read."""
        return self._wrote(await self._write(obj.TYPE, self._controller.client.update_status(obj)))

    async def patch(
        self,
        cls: type[R],
        name: Request | str,
        patch: Any,
        namespace: str | None = None,
        *,
        kind: PatchKind = "merge",
        subresource: Literal["status"] | None = None,
    ) -> R:
        """Change some fields of an object, whatever the others are; raises NotFound."""
        name, namespace = self._address(cls, name, namespace)
        client = self._controller.client
        change = client.patch(cls, name, patch, namespace=namespace, kind=kind, subresource=subresource)
        return self._wrote(await self._write(cls.TYPE, change))

    async def delete(
        self,
        cls: type[R],
        name: Request | str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: Propagation | None = None,
    ) -> None:
        """Delete an object, or begin to if it has finalizers. One that is gone already is fine.

        uid, resource_version: only if the object still is that one; raises Conflict otherwise.
        propagation: what becomes of its dependents; None leaves that to the finalizers it has.
        """
        name, namespace = self._address(cls, name, namespace)
        change = self._controller.client.delete(
            cls, name, namespace=namespace, uid=uid, resource_version=resource_version, propagation=propagation
        )
        try:
            deleted = await self._write(cls.TYPE, change)
        except NotFound:
            return
        self._note(cls.TYPE, namespace, deleted.revision)

    async def apply(self, obj: R, owner: Resource | None = None) -> Applied[R]:
        """Create the object, or bring the fields that it sets up to date; writes only if something differs.

        owner: becomes its controller; raises Conflict if the stored object has another one.
        """
        applied = await self._write(obj.TYPE, self._controller.client.apply(obj, owner))
        self._wrote(applied.object)
        return applied

    def _address(self, cls: type[Resource], name: Request | str, namespace: str | None) -> tuple[str, str | None]:
        if isinstance(name, Request):
            namespace, name = name.namespace, name.name
        elif namespace is None:
            namespace = self.request.namespace
        return name, namespace if cls.TYPE.namespaced else None

    async def _write(self, kind: ResourceType, change: Coroutine[Any, Any, T]) -> T:
        try:
            return await change
        except (Unreachable, asyncio.CancelledError):
            self.undecided.add(kind)
            raise

    def _wrote(self, obj: R) -> R:
        self._note(obj.TYPE, obj.metadata.namespace, obj.metadata.resource_version or "")
        return obj

    def _note(self, kind: ResourceType, namespace: str | None, revision: str) -> None:
        # What the caches never show is nothing to wait for.
        if self._watches(kind, namespace or DEFAULT_NAMESPACE) and is_newer(revision, self.written.get(kind, "")):
            self.written[kind] = revision

    def _watches(self, kind: ResourceType, namespace: str) -> bool:
        only = self._controller.namespace
        return only is None or not kind.namespaced or namespace == only


class BlockingContext:
    """The `Context` of a plain `def` reconciler: the same, and every method blocks until it is done.

    Each call runs on the event loop, so it sees the cache between two changes. Once the run is given up (its timeout,
    or a stop that waited long enough) every call raises `RunCancelled`, the one in progress included.
    """

    def __init__(self, context: Context, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop
        self._given_up = False
        self._calls: set[asyncio.Task[Any]] = set()
        self.request = context.request

    @property
    def reconcile_id(self) -> str:
        """Tells this run from every other of this process."""
        return self._context.reconcile_id

    @property
    def log(self) -> Any:
        """A structlog logger bound to the controller, the key and the run."""
        return self._context.log

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return self._context.now()

    def event(self, about: Resource, kind: EventType, reason: str, message: str) -> None:
        """See `Context.event`."""
        self._read(lambda: self._context.event(about, kind, reason, message))

    def get(self, cls: type[R], name: Request | str, namespace: str | None = None) -> R | None:
        """See `Context.get`."""
        return self._read(lambda: self._context.get(cls, name, namespace))

    def list(
        self,
        cls: type[R],
        namespace: str | None = None,
        *,
        selector: SelectorLike | None = None,
        owner: Resource | None = None,
        index: tuple[str, str] | None = None,
    ) -> list[R]:
        """See `Context.list`."""
        return self._read(lambda: self._context.list(cls, namespace, selector=selector, owner=owner, index=index))

    def get_stored(self, cls: type[Resource], name: Request | str, namespace: str | None = None) -> Stored | None:
        """See `Context.get_stored`."""
        return self._read(lambda: self._context.get_stored(cls, name, namespace))

    def stored(
        self,
        cls: type[Resource],
        namespace: str | None = None,
        *,
        selector: SelectorLike | None = None,
        owner: Resource | None = None,
        index: tuple[str, str] | None = None,
    ) -> Sequence[Stored]:
        """See `Context.stored`."""
        return self._read(lambda: self._context.stored(cls, namespace, selector=selector, owner=owner, index=index))

    def fetch(self, cls: type[R], name: Request | str, namespace: str | None = None) -> R | None:
        """See `Context.fetch`."""
        return self._call(lambda: self._context.fetch(cls, name, namespace))

    def create(self, obj: R) -> R:
        """See `Context.create`."""
        return self._call(lambda: self._context.create(obj))

    def update(self, obj: R) -> R:
        """See `Context.update`."""
        return self._call(lambda: self._context.update(obj))

    def create_or_update(self, obj: R, mutate: Callable[[R], object]) -> CreatedOrUpdated[R]:
        """See `Context.create_or_update`. `mutate` runs on the event loop: it must not block."""
        return self._call(lambda: self._context.create_or_update(obj, mutate))

    def update_status(self, obj: R) -> R:
        """See `Context.update_status`."""
        return self._call(lambda: self._context.update_status(obj))

    def patch(
        self,
        cls: type[R],
        name: Request | str,
        patch: Any,
        namespace: str | None = None,
        *,
        kind: PatchKind = "merge",
        subresource: Literal["status"] | None = None,
    ) -> R:
        """See `Context.patch`."""
        return self._call(lambda: self._context.patch(cls, name, patch, namespace, kind=kind, subresource=subresource))

    def delete(
        self,
        cls: type[R],
        name: Request | str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: Propagation | None = None,
    ) -> None:
        """See `Context.delete`."""
        return self._call(
            lambda: self._context.delete(
                cls, name, namespace, uid=uid, resource_version=resource_version, propagation=propagation
            )
        )

    def apply(self, obj: R, owner: Resource | None = None) -> Applied[R]:
        """See `Context.apply`."""
        return self._call(lambda: self._context.apply(obj, owner))

    def give_up(self) -> None:
        """End the run's calls, now and from now on. On the loop's thread."""
        self._given_up = True
        for call in self._calls:
            call.cancel()

    def _read(self, read: Callable[[], T]) -> T:
        async def call() -> T:
            return read()

        return self._call(call)

    def _call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._given_up:  # the loop may be closed by now
            raise RunCancelled(f"the run for {self.request} was given up")

        async def call() -> T:
            if self._given_up:
                raise RunCancelled(f"the run for {self.request} was given up")
            task = asyncio.current_task()
            assert task is not None
            self._calls.add(task)
            try:
                return await make()
            except asyncio.CancelledError:
                raise RunCancelled(f"the run for {self.request} was given up") from None
            finally:
                self._calls.discard(task)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()
