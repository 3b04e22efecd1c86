"""controller-runtime's builder, for those who think in it. `Manager.add_controller` says the same in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, TypedDict, Unpack

from controllers.controller import Reconciler
from controllers.handlers import MapFunction
from controllers.manager import Manager
from controllers.predicates import Predicate, all_of
from controllers.reconcile import Request
from controllers.workqueue import WorkQueue
from informer import Resource
from informer.selectors import SelectorLike


class BuilderOptions(TypedDict, total=False):
    """Those of `Manager.add_controller` that are not about kinds."""

    namespace: str | None
    selector: SelectorLike
    workers: int
    timeout: float | None
    queue: Callable[[], WorkQueue[Request]]


class ControllerManagedBy:
    """`ControllerManagedBy(manager).for_(Website).owns(Deployment).complete(reconcile)`.

    Each method returns the builder; nothing is added to the manager before `complete`.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._for: type[Resource] | None = None
        self._owns: list[type[Resource]] = []
        self._watches: dict[type[Resource], MapFunction] = {}
        self._reads: list[type[Resource]] = []
        self._predicates: dict[type[Resource], list[Predicate]] = {}
        self._every: list[Predicate] = []
        self._options: BuilderOptions = {}
        self._name: str | None = None

    def for_(self, cls: type[Resource], *predicates: Predicate) -> Self:
        """The kind to reconcile: exactly one. Its events count where every predicate says so."""
        if self._for is not None:
            raise ValueError(f"for_({self._for.__name__}) was said already: a controller reconciles one kind")
        self._for = cls
        return self._with(cls, predicates)

    def owns(self, cls: type[Resource], *predicates: Predicate) -> Self:
        """A kind that the reconciled one controls: its events run the owner."""
        self._new(cls)
        self._owns.append(cls)
        return self._with(cls, predicates)

    def watches(self, cls: type[Resource], requests: MapFunction, *predicates: Predicate) -> Self:
        """Another kind: its events run the requests that the function makes of them."""
        self._new(cls)
        self._watches[cls] = requests
        return self._with(cls, predicates)

    def reads(self, *kinds: type[Resource]) -> Self:
        """Kinds to have in the cache besides; their events run nothing."""
        self._reads += kinds
        return self

    def with_event_filter(self, predicate: Predicate) -> Self:
        """A predicate for the events of every watched kind."""
        self._every.append(predicate)
        return self

    def named(self, name: str) -> Self:
        """The controller's name in logs, metrics and statistics; the kind in lower case unless given."""
        self._name = name
        return self

    def with_options(self, **options: Unpack[BuilderOptions]) -> Self:
        """Workers, timeout and so on, as `Manager.add_controller` takes them."""
        self._options.update(options)
        return self

    def complete(self, reconcile: Reconciler) -> None:
        """Add the controller to the manager. Raises ValueError if nothing was said to be reconciled."""
        if self._for is None:
            raise ValueError("nothing to reconcile: say for_(Kind) first")
        watched = [self._for, *self._owns, *self._watches]
        predicates = {cls: [*self._every, *self._predicates.get(cls, ())] for cls in watched}
        self._manager.add_controller(
            self._for,
            reconcile,
            owns=self._owns,
            watches=self._watches,
            reads=self._reads,
            predicates={cls: all_of(*some) for cls, some in predicates.items() if some},
            name=self._name,
            **self._options,
        )

    def _new(self, cls: type[Resource]) -> None:
        if cls in self._owns or cls in self._watches:
            raise ValueError(f"{cls.__name__} is watched already: give one function that makes all its requests")

    def _with(self, cls: type[Resource], predicates: tuple[Predicate, ...]) -> Self:
        if predicates:
            self._predicates[cls] = [*predicates]
        return self
