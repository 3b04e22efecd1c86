"""The simplest form of a reconciler: a pure function of what is there, which the runtime carries out.

`desired(parent, children) -> Desired` says which children the parent should have and what its status is. The runtime
creates, updates, deletes and owns; it repeats when anything of it changes. The idea is Metacontroller's. The function
sees no client and no clock, so a test is a call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from controllers.context import Context
from controllers.owners import is_controlled_by
from controllers.reconcile import Request, Result
from informer import Conflict, Resource

P = TypeVar("P", bound=Resource)
C = TypeVar("C", bound=Resource)


class Children:
    """The objects that a parent controls now, by kind: those that are being deleted too."""

    def __init__(self, objects: Iterable[Resource] = ()) -> None:
        self._objects = list(objects)

    def of(self, cls: type[C]) -> list[C]:
        """Those of a kind, by name."""
        found = [each for each in self._objects if isinstance(each, cls)]
        return sorted(found, key=lambda each: (each.namespace or "", each.name))

    def get(self, cls: type[C], name: str, namespace: str | None = None) -> C | None:
        """The one of that name, or None. namespace: needed only if the parent has none."""
        return next((each for each in self.of(cls) if each.name == name and namespace in (None, each.namespace)), None)

    def __len__(self) -> int:
        return len(self._objects)


class Desired(msgspec.Struct, frozen=True):
    """What should be.

    children: all of them. What a child does not say stays as it is; one that is not among them is deleted. A child
        without a namespace gets its parent's.
    status: replaces the parent's; None leaves it.
    requeue_after: seconds until the function is to be asked again although nothing changed.
    """

    children: Sequence[Resource] = ()
    status: Mapping[str, Any] | None = None
    requeue_after: float | None = None


class Finalized(msgspec.Struct, frozen=True):
    """What should be while the parent is being deleted, and whether it may go. See `Desired`."""

    done: bool
    children: Sequence[Resource] = ()
    status: Mapping[str, Any] | None = None
    requeue_after: float | None = None


DesiredFunction: TypeAlias = Callable[[P, Children], Desired]
FinalizeFunction: TypeAlias = Callable[[P, Children], Finalized]


class Composite(Generic[P]):
    """The reconciler that carries out a function of the parent; `Manager.composite` makes it.

    finalize: asked instead while a parent is being deleted; with it parents bear a finalizer, so that they stay until
    it says so. Without it the garbage collector deletes the children of a parent that is gone.
    """

    def __init__(
        self,
        cls: type[P],
        kinds: Sequence[type[Resource]],
        desired: DesiredFunction[P],
        finalize: FinalizeFunction[P] | None = None,
    ) -> None:
        for function in (desired, finalize):
            if function is not None and inspect.iscoroutinefunction(function):
                raise TypeError(
                    f"{function.__qualname__} is async: it is to be a function of its arguments alone "
                    "(@manager.reconciler is for what needs more)"
                )
        self._cls = cls
        self._kinds = kinds
        self._desired = desired
        self._finalize = finalize
        self.finalizer = f"{cls.TYPE.qualified}/composite"

    async def __call__(self, ctx: Context, request: Request) -> Result | None:
        """One run: see what is there, ask, carry it out."""
        parent = ctx.get(self._cls, request)
        if parent is None:
            return None
        deleting = parent.metadata.deletion_timestamp is not None
        held = self.finalizer in parent.metadata.finalizers
        if deleting and not (self._finalize and held):
            return None
        if self._finalize and not held and not deleting:
            # Before anything is made, so that nothing is made that nobody would be asked about.
            parent.metadata.finalizers.append(self.finalizer)
            parent = await ctx.update(parent)
        present = [child for kind in self._kinds for child in ctx.list(kind, owner=parent)]
        children = Children(child for child in present if is_controlled_by(child, parent))
        wanted: Desired | Finalized
        if deleting:
            assert self._finalize is not None
            wanted = self._check(self._finalize(_copy(parent), children), Finalized)
        else:
            wanted = self._check(self._desired(_copy(parent), children), Desired)
        await self._carry_out(ctx, parent, children, wanted)
        if isinstance(wanted, Finalized) and wanted.done:
            # What the status write made of it, if there was one.
            parent.metadata.finalizers.remove(self.finalizer)
            await ctx.update(parent)
        return None if wanted.requeue_after is None else Result(requeue_after=wanted.requeue_after)

    async def _carry_out(self, ctx: Context, parent: P, children: Children, wanted: Desired | Finalized) -> None:
        keep: set[tuple[type[Resource], str | None, str]] = set()
        for child in wanted.children:
            cls = type(child)
            if cls not in self._kinds:
                raise TypeError(f"{cls.__name__} is not among the children= of this composite")
            if cls.TYPE.namespaced and not child.metadata.namespace:
                child.metadata.namespace = parent.namespace
            address = (cls, child.namespace, child.name)
            if address in keep:
                raise ValueError(f"{cls.__name__} {child.name} is desired twice")
            keep.add(address)
        for child in wanted.children:
            there = children.get(type(child), child.name, child.namespace)
            if there is None or there.metadata.deletion_timestamp is None:  # else again when it is gone
                await ctx.apply(child, owner=parent)
        for kind in self._kinds:
            for child in children.of(kind):
                if (kind, child.namespace, child.name) in keep or child.metadata.deletion_timestamp is not None:
                    continue
                try:
                    await ctx.delete(kind, child.name, child.namespace, uid=child.metadata.uid)
                except Conflict:
                    continue  # another object has its name now; its event leads to another run
        if wanted.status is not None and parent.raw.get("status", {}) != wanted.status:
            parent.raw["status"] = dict(wanted.status)
            parent.raw["metadata"].update((await ctx.update_status(parent)).raw["metadata"])

    def _check(self, value: Any, kind: type[Any]) -> Any:
        if not isinstance(value, kind):
            raise TypeError(f"the function of {self._cls.__name__} is to return {kind.__name__}, not {value!r}")
        return value


def _copy(obj: P) -> P:
    """What the function does to its argument must not be written."""
    return type(obj).decode(obj.encode(), obj.metadata.resource_version or "")
