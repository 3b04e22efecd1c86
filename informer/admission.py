"""Admission hooks: functions that are asked before an object is written, and may change or refuse it.

    admission = Admission()

    @admission.mutate(Website)
    def set_team(request: AdmissionRequest[Website]) -> None:
        request.object.metadata.labels.setdefault("team", "web")

    @admission.validate(Website, operations=("delete",))
    async def keep_production(request: AdmissionRequest[Website]) -> None:
        if request.old.metadata.labels.get("env") == "production":
            raise Forbidden("production is not deleted")

    ObjectClient(client, admission=admission)

The order is Kubernetes': the kind's own checks and defaults, mutating hooks, the checks again, validating hooks. But
there is no API server in between: **hooks bind those who write through a client that has them**, in this process. Other
programs on the same store, the command line included, are not asked. What has to hold for every object belongs into the
kind's annotations and hooks, or has to be looked for by the reconciler.

Plug-ins are what an API server asks of itself: they change an object before any hook sees it, and judge it after all.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from informer.errors import AdmissionFailed, Forbidden, Invalid
from informer.resources import Resource, ResourceType
from kvstore.api import Compare

R = TypeVar("R", bound=Resource)
Operation: TypeAlias = Literal["create", "update", "delete"]
OPERATIONS: tuple[Operation, ...] = ("create", "update", "delete")

TIMEOUT = 10.0  # seconds; Kubernetes' default for a webhook


@dataclass(frozen=True, slots=True)
class AdmissionRequest(Generic[R]):
    """What a hook is asked about.

    object: what is to be stored; the old one for a delete. A validating hook gets a copy. old: what is stored, None for
    a create. subresource: "status" or "scale" for a write of that alone. field_manager: who writes, if it says so.
    """

    operation: Operation
    object: R
    old: R | None
    subresource: str | None = None
    field_manager: str | None = None


Hook: TypeAlias = Callable[[AdmissionRequest[Any]], Awaitable[None] | None]
H = TypeVar("H", bound=Callable[..., Awaitable[None] | None])


class Plugin:
    """Built-in admission: subclass it and override what it is about. What it raises reaches the writer as it is.

    Unlike a hook it is trusted: it is given the very object that is written, and no time limit.
    """

    def handles(self, kind: ResourceType, operation: Operation) -> bool:
        """Whether it is to be asked. The answer has to be the same each time: it is asked for once."""
        raise NotImplementedError

    async def admit(self, request: AdmissionRequest[Any]) -> None:
        """Change the object, or refuse it by raising. Before the hooks; not for deletes."""

    async def validate(self, request: AdmissionRequest[Any]) -> None:
        """Refuse the write by raising. After the hooks."""

    async def conditions(self, request: AdmissionRequest[Any], *, live: bool) -> Sequence[Compare]:
        """What has to hold in the store at the moment of a create, which fails without it. Raises what refuses it.

        live: the last answer did not hold; ask the store itself.
        """
        return ()


@dataclass(frozen=True, slots=True)
class _Registered:
    name: str
    hook: Hook
    kinds: frozenset[tuple[str, str]]  # group and kind; none: all
    operations: frozenset[str]
    status: bool

    def wants(self, request: AdmissionRequest[Any]) -> bool:
        kind = request.object.TYPE
        return (
            request.operation in self.operations
            and (not self.kinds or (kind.group, kind.kind) in self.kinds)
            and (self.status or request.subresource != "status")
        )


class Admission:
    """A registry of hooks. timeout: the seconds each may take; one without `await` cannot be interrupted."""

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._mutating: list[_Registered] = []
        self._validating: list[_Registered] = []
        self._plugins: list[Plugin] = []
        self._asked: dict[tuple[ResourceType, Operation], tuple[Plugin, ...]] = {}

    def __bool__(self) -> bool:
        """Whether there are any hooks."""
        return bool(self._mutating or self._validating)

    def add_plugin(self, plugin: Plugin) -> None:
        """Ask it too, after those added before."""
        self._plugins.append(plugin)
        self._asked.clear()

    def plugins(self, kind: ResourceType, operation: Operation) -> Sequence[Plugin]:
        """Those that are to be asked about such a write. O(1)."""
        found = self._asked.get((kind, operation))
        if found is None:
            found = tuple(plugin for plugin in self._plugins if plugin.handles(kind, operation))
            self._asked[kind, operation] = found
        return found

    def mutate(
        self,
        *kinds: type[Resource],
        operations: Collection[str] = ("create", "update"),
        status: bool = False,
        name: str | None = None,
    ) -> Callable[[H], H]:
        """Register a function, async or not, that may change `request.object` or refuse it by raising.

        kinds: none means all. status: also for writes of the status alone. name: for error texts; else the function's.
        It may be asked more than once about one write, and about what it has changed before: once has to be enough.
        """
        if "delete" in operations:
            raise ValueError("there is nothing to change about a delete")
        return self._adder(self._mutating, kinds, operations, status, name)

    def validate(
        self,
        *kinds: type[Resource],
        operations: Collection[str] = OPERATIONS,
        status: bool = False,
        name: str | None = None,
    ) -> Callable[[H], H]:
        """Register a function, async or not, that may refuse a write by raising `Invalid` or `Forbidden`.

        Anything else that it raises, and not answering in time, refuses the write too, as `AdmissionFailed`.
        """
        return self._adder(self._validating, kinds, operations, status, name)

    def _adder(
        self,
        hooks: list[_Registered],
        kinds: Collection[type[Resource]],
        operations: Collection[str],
        status: bool,
        name: str | None,
    ) -> Callable[[H], H]:
        if unknown := set(operations) - set(OPERATIONS):
            raise ValueError(f"operations: expected {', '.join(OPERATIONS)}, got {min(unknown)}")
        for cls in kinds:
            if cls.HUB is not None:
                raise ValueError(f"{cls.__name__} is stored as {cls.HUB.__name__}: register the hook for that")

        def add(hook: H) -> H:
            called = name or str(getattr(hook, "__name__", repr(hook)))
            wanted = frozenset((cls.TYPE.group, cls.TYPE.kind) for cls in kinds)
            hooks.append(_Registered(called, hook, wanted, frozenset(operations), status))
            return hook

        return add

    async def run_mutating(self, request: AdmissionRequest[R]) -> bool:
        """Ask each in the order of registration; whether any was asked. Raises what refuses the write."""
        asked = [each for each in self._mutating if each.wants(request)]
        for each in asked:
            await self._ask(each, request)
        return bool(asked)

    async def run_validating(self, request: AdmissionRequest[R]) -> None:
        """Ask each in the order of registration, about a copy of its own. Raises what refuses the write."""
        for each in self._validating:
            if each.wants(request):
                copy = request.object.__deepcopy__({})
                await self._ask(
                    each,
                    AdmissionRequest(request.operation, copy, request.old, request.subresource, request.field_manager),
                )

    async def _ask(self, registered: _Registered, request: AdmissionRequest[R]) -> None:
        hook = f'admission hook "{registered.name}"'
        deadline = asyncio.timeout(self._timeout)
        try:
            async with deadline:
                answer = registered.hook(request)
                if inspect.isawaitable(answer):
                    await answer
        except Invalid as error:
            (path, problem), *others = error.problems
            raise Invalid(path, f"{problem} ({hook})", tuple(others)) from error
        except Forbidden as error:
            raise Forbidden(f"{hook} denied the request: {error}") from error
        except TimeoutError as error:
            if not deadline.expired():
                raise AdmissionFailed(f"{hook} failed: {error!r}") from error
            raise AdmissionFailed(f"{hook} did not answer within {self._timeout:g} s") from error
        except Exception as error:
            raise AdmissionFailed(f"{hook} failed: {error!r}") from error
